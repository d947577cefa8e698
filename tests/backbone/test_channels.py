"""Channel doubling: what can be widened, with the numeric proof; what cannot, with the operation that blocks."""

from __future__ import annotations

import copy
import json
import pickle
import time
from collections.abc import Callable

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import (
    BlurPool2d,
    Conv2dSame,
    EcaModule,
    EffectiveSEModule,
    LayerNorm2d,
    LayerScale2d,
    MixedConv2d,
    ScaledStdConv2d,
    SEModule,
    StdConv2dSame,
)
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.backbone.channels import ChannelMap, Refusal, Widening, apply_widening, widening
from reborn_nas.backbone.sites import Discovery, discover
from reborn_nas.errors import ConversionError
from tests.backbone.inflight import Doubling, places_of, randomise, runs, share_with_copies


def seq(*layers: nn.Module) -> nn.Sequential:
    """A stem of 8 channels with a ReLU, the layers, and a pooled linear head of what they leave."""
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    with torch.no_grad():
        width = nn.Sequential(*stem, *layers).eval()(torch.zeros(1, 3, 12, 10)).shape[1]
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


class Over(nn.Module):
    """A network whose forward is a function of its parts, so that each test shows its own."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.LazyLinear(5)
        self.eval()(torch.zeros(2, 3, 12, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self, F.relu(self.stem(x))).flatten(1))


class Dense(nn.Module):
    """Concatenations of a map with what is made of it, norms between, as DenseNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(14, 5, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(10), nn.BatchNorm2d(14)])
        self.convs = nn.ModuleList([nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 4, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for norm, conv in zip(self.norms, self.convs):
            x = torch.cat([x, F.relu(conv(norm(x)))], 1)
        return self.last(F.relu(self.norms[2](x))).mean((2, 3))


class Last(nn.Module):
    """Channels-last MLP with a layer scale, as ConvNeXt has it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc1, self.fc2 = nn.Conv2d(3, 8, 3), nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.gamma = nn.LayerNorm(8), nn.Parameter(torch.rand(8))
        self.scale = nn.Parameter(torch.rand(16))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.gelu(self.fc1(self.norm(x.permute(0, 2, 3, 1)))) * self.scale
        y = (self.fc2(y) * self.gamma).permute(0, 3, 1, 2)
        return self.head((x + y).mean((2, 3)))


def _gate(net: Over, x: Tensor) -> Tensor:
    pooled = net.fc1(x.mean((2, 3))) + net.fc1(x.amax((2, 3)))
    return net.conv(x * net.fc2(pooled).sigmoid()[:, :, None, None])


def _context(net: Over, x: Tensor) -> Tensor:
    weight = net.mask(x).flatten(2).softmax(-1).unsqueeze(-1)  # (B, 1, HW, 1)
    context = (x.flatten(2).unsqueeze(1) @ weight).view(x.shape[0], -1, 1, 1)
    return net.conv(x + net.out(context))


WIDENABLE: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: seq(nn.Conv2d(8, 6, 3)),
    "two consumers": lambda: Over(
        lambda n, x: n.a(x) + n.b(x), a=nn.Conv2d(8, 4, 1), b=nn.Conv2d(8, 4, 3, padding=1)
    ),
    "pool, pad, drop, resize": lambda: seq(
        nn.MaxPool2d(2), nn.ZeroPad2d(1), nn.Dropout2d(0.5), nn.Upsample(scale_factor=2), nn.Conv2d(8, 6, 1)
    ),
    "batch norm": lambda: seq(nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)),
    "PReLU on the way": lambda: seq(nn.PReLU(8, init=0.3), nn.Conv2d(8, 6, 1)),
    "head": lambda: seq(),
    "flatten to a linear layer": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 10 * 8, 5)
    ),
    "view(B, -1)": lambda: Over(lambda n, x: n.fc(x.view(x.shape[0], -1)), fc=nn.Linear(8 * 120, 5)),
    "grouped": lambda: seq(nn.Conv2d(8, 12, 3, groups=4)),
    "depthwise": lambda: seq(nn.Conv2d(8, 8, 3, groups=8, bias=False)),
    "depthwise multiplier, same padding": lambda: seq(Conv2dSame(8, 16, 3, stride=2, groups=8)),
    "dilated transposed": lambda: seq(nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ConvTranspose2d(6, 4, 3)),
    "squeeze-excite": lambda: seq(SEModule(8, rd_channels=4), nn.Conv2d(8, 6, 1)),
    "effective squeeze-excite": lambda: seq(EffectiveSEModule(8), nn.Conv2d(8, 6, 1)),
    "efficient channel attention": lambda: seq(EcaModule(8), nn.Conv2d(8, 6, 1)),
    "gate of two sums": lambda: Over(
        _gate, fc1=nn.Linear(8, 4), fc2=nn.Linear(4, 8), conv=nn.Conv2d(8, 6, 1)
    ),
    "global context": lambda: Over(
        _context, mask=nn.Conv2d(8, 1, 1), out=nn.Conv2d(8, 8, 1), conv=nn.Conv2d(8, 6, 1)
    ),
    "layer scale": lambda: seq(LayerScale2d(8, 0.5), nn.Conv2d(8, 6, 1)),
    "x · sigmoid(x)": lambda: Over(lambda n, x: n.conv(x * x.sigmoid()), conv=nn.Conv2d(8, 6, 1)),
    "blur pool": lambda: seq(BlurPool2d(8), nn.Conv2d(8, 6, 1)),
    "mixed convolution": lambda: seq(MixedConv2d(8, 8, [3, 5, 7], depthwise=True), MixedConv2d(8, 6, [1, 3])),
    "channels last": Last,
    "dense": Dense,
}


def _found(model: nn.Module) -> Discovery:
    return discover(model, (3, 12, 10))


def _error(model: nn.Module, wanted: Tensor, x: Tensor, mode: Doubling) -> float:
    with torch.no_grad(), mode:
        got = model(x)
    return float((got - wanted).norm() / wanted.norm())


def _check(model: nn.Module, found: Discovery, sites: list, x: Tensor, *, in_training: bool = False) -> None:
    """Zero weights keep the function; new weights read the channel beside which they stand."""
    made = widening(runs(found), sites)
    assert isinstance(made, Widening), made
    made = Widening.from_dict(json.loads(json.dumps(made.to_dict())))
    places = places_of(found.train_trace if in_training else found.eval_trace, sites)
    wide = apply_widening(copy.deepcopy(model), made)
    assert list(wide.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        wanted = model(x)
    assert _error(wide, wanted, x, Doubling(places)) <= 1e-5
    share_with_copies(wide, model, made)
    if not any(step.action == "standardised" for step in made.steps):
        assert _error(wide, wanted, x, Doubling(places, other=torch.clone)) <= 1e-5


@pytest.mark.parametrize("name", WIDENABLE)
def test_widenable(name: str) -> None:
    torch.manual_seed(0)
    model = randomise(WIDENABLE[name]()).eval()
    found, x = _found(model), torch.randn(2, 3, 12, 10)
    for site in found.sites:
        _check(model, found, [site], x)
    if len(found.sites) > 1:
        _check(model, found, list(found.sites), x)


def _shuffle(net: Over, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return net.conv(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))


class Attention(nn.Module):
    """Self-attention over the channels' tokens, with queries that are the map itself."""

    def forward(self, x: Tensor) -> Tensor:
        q = x.flatten(2).transpose(1, 2)
        return (q @ q.transpose(1, 2)).mean(1)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "residual": (lambda: Over(lambda n, x: x + n.conv(x), conv=nn.Conv2d(8, 8, 1)), "add", ""),
    "product": (lambda: Over(lambda n, x: x * n.conv(x), conv=nn.Conv2d(8, 8, 1)), "mul", ""),
    "chunk": (lambda: Over(lambda n, x: torch.cat(x.chunk(2, 1)[::-1], 1)), "chunk", ""),
    "slice": (lambda: Over(lambda n, x: x[:, :4]), "getitem", ""),
    "shuffle": (lambda: Over(_shuffle, conv=nn.Conv2d(8, 4, 1)), "view", ""),
    "group norm": (lambda: seq(nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)), "group_norm", "2"),
    "layer norm": (lambda: seq(LayerNorm2d(8), nn.Conv2d(8, 4, 1)), "layer_norm", "2"),
    "softmax": (lambda: Over(lambda n, x: x.softmax(1)), "softmax", ""),
    "channel mean": (lambda: Over(lambda n, x: x - x.mean(1, keepdim=True)), "mean", ""),
    "attention": (lambda: Over(lambda n, x: n.attn(x), attn=Attention()), "matmul", "attn"),
    "output": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "output", ""),
    "fixed view": (lambda: Over(lambda n, x: n.fc(x.view(-1, 8 * 120)), fc=nn.Linear(960, 5)), "view", ""),
    "weights used twice": (
        lambda: Over(
            lambda n, x: n.conv(n.other(n.conv(x))), conv=nn.Conv2d(8, 8, 1), other=nn.Conv2d(8, 8, 1)
        ),
        "conv2d",
        "conv",
    ),
    "computed weight": (
        lambda: seq(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 6, 1))),
        "conv2d",
        "2",
    ),
    "unknown operation": (lambda: Over(lambda n, x: torch.cummax(x, 1)[0]), "cummax", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, operation, module = REFUSED[name]
    found = _found(make().eval())
    answer = widening(runs(found), found.sites[0])
    assert isinstance(answer, Refusal)
    assert (answer.operation, answer.module) == (operation, module)
    if operation != "output":
        assert (f"'{module}'" if module else "own forward") in answer.reason
        assert "they meet" in answer.reason


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_random_weights_against_two_convolutions(groups: int) -> None:
    """A widened convolution is the sum of two of the same form, one for each half."""
    torch.manual_seed(groups)
    model = seq(nn.Conv2d(8, 16, 3, groups=groups)).eval()
    found = _found(model)
    made = widening(runs(found), found.sites[0])
    assert isinstance(made, Widening)
    conv = apply_widening(copy.deepcopy(model), made, init="xavier")[2]
    a, b = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    n = 8 // groups
    true, extra = conv.weight[:, :n], conv.weight[:, n:]
    assert torch.equal(true, model[2].weight)
    assert extra.abs().min() > 0
    want = F.conv2d(a, true, model[2].bias, groups=groups) + F.conv2d(b, extra, groups=groups)
    torch.testing.assert_close(conv(torch.cat([a, b], 1)), want)
    assert (conv.in_channels, conv.out_channels, conv.groups) == (16, 16, groups)


def test_depthwise_becomes_one_group_a_channel() -> None:
    model = seq(nn.Conv2d(8, 8, 3, groups=8)).eval()
    found = _found(model)
    conv = apply_widening(model, widening(runs(found), found.sites[0]))[2]  # type: ignore[arg-type]
    assert conv.weight.shape == (8, 2, 3, 3)
    assert isinstance(conv, nn.Conv2d)
    assert conv.groups == 8


def test_flattened_columns_lie_together() -> None:
    """The linear layer's new columns stand behind all old ones, in the order of the flattened second half."""
    model = WIDENABLE["flatten to a linear layer"]().eval()
    found = _found(model)
    linear = apply_widening(copy.deepcopy(model), widening(runs(found), found.sites[0]), init="xavier")[3]  # type: ignore[arg-type]
    a, b = torch.randn(2, 8, 10, 8), torch.randn(2, 8, 10, 8)
    want = model[3](a.flatten(1)) + b.flatten(1) @ linear.weight[:, 640:].T
    torch.testing.assert_close(linear(torch.cat([a, b], 1).flatten(1)), want)


@pytest.mark.parametrize("kind", [ScaledStdConv2d, StdConv2dSame])
@pytest.mark.parametrize("groups", [1, 4])
def test_weight_standardisation_sees_the_old_weights_alone(kind: type[nn.Module], groups: int) -> None:
    torch.manual_seed(1)
    model = seq(kind(8, 12, 3, groups=groups)).eval()
    found, x = _found(model), torch.randn(2, 3, 12, 10)
    _check(model, found, list(found.sites[:1]), x)
    wide = apply_widening(copy.deepcopy(model), widening(runs(found), found.sites[0]), init="xavier")  # type: ignore[arg-type]
    a, b = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    n = 8 // groups
    extra = F.conv2d(
        b, wide[2].weight[:, n:], padding=1 if "Same" in kind.__name__ else wide[2].padding, groups=groups
    )
    torch.testing.assert_close(wide[2](torch.cat([a, b], 1)), model[2](a) + extra)


def test_unequal_groups_are_refused() -> None:
    """A concatenation of a doubled and a plain value cannot feed two groups."""
    net = Over(
        lambda n, x: n.grouped(torch.cat([x, n.conv(x)], 1)),
        conv=nn.Conv2d(8, 8, 1),
        grouped=nn.Conv2d(16, 8, 1, groups=2),
    )
    answer = widening(runs(_found(net)), _found(net).sites[0])
    assert isinstance(answer, Refusal)
    assert "2 groups" in answer.reason


class Joint(nn.Module):
    """Two activations whose sum, or concatenation, goes on."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(width, 5, 1)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.join(F.relu(self.a(x)), F.relu(self.b(x)))).mean((2, 3))


def test_sites_that_meet_are_widened_together() -> None:
    x = torch.randn(2, 3, 12, 10)
    cat = Joint(lambda a, b: torch.cat([a, b], 1), 16).eval()
    _check(cat, _found(cat), list(_found(cat).sites), x)
    total = Joint(torch.add, 8).eval()
    found = _found(total)
    assert isinstance(widening(runs(found), found.sites[0]), Refusal)
    _check(total, found, list(found.sites), x)


def test_an_activation_behind_a_doubled_one_gets_more_channels() -> None:
    model = seq(nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 6, 1)).eval()
    found = _found(model)
    first, second = found.sites
    made = widening(runs(found), first, among=[second])
    assert isinstance(made, Widening)
    assert made.channels == {second.name: 16}
    both = widening(runs(found), [first, second])
    assert isinstance(both, Widening)
    assert both.channels == {second.name: 16}
    assert both.steps[0].channels.width == 32
    _check(model, found, [first, second], torch.randn(2, 3, 12, 10))


class Auxiliary(nn.Module):
    """A head that runs in train mode alone reads the same map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.aux = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.head(x.mean((2, 3)))
        return y + self.aux(x).mean((2, 3)) if self.training else y


def test_consumers_of_train_mode_are_widened_too() -> None:
    model = Auxiliary().train()
    found = _found(model)
    made = widening(runs(found), found.sites[0])
    assert isinstance(made, Widening)
    assert {step.module for step in made.steps} == {"head", "aux"}
    _check(model, found, list(found.sites), torch.randn(2, 3, 12, 10), in_training=True)


def test_tied_weights_stay_tied() -> None:
    net = Over(lambda n, x: n.a(x) + n.b(x), a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 1))
    net.b.weight = net.a.weight
    found = _found(net)
    wide = apply_widening(copy.deepcopy(net), widening(runs(found), found.sites[0]))  # type: ignore[arg-type]
    assert wide.a.weight is wide.b.weight
    _check(net, found, list(found.sites), torch.randn(2, 3, 12, 10))


def test_gradients_reach_old_and_new_weights() -> None:
    model = seq(SEModule(8, rd_channels=4), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8)).train()
    found = _found(model)
    wide = apply_widening(model, widening(runs(found), found.sites[0]))  # type: ignore[arg-type]
    with Doubling(places_of(found.eval_trace, [found.sites[0]])):
        wide(torch.randn(4, 3, 12, 10)).square().sum().backward()
    for name, parameter in wide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert wide[4].weight.grad[:, 1].abs().max() > 0


def test_xavier_is_bounded_and_follows_the_generator() -> None:
    model = seq(nn.Conv2d(8, 6, 3)).eval()
    made = widening(runs(_found(model)), _found(model).sites[0])
    drawn = [
        apply_widening(
            copy.deepcopy(model),
            made,
            init="xavier",
            generator=torch.Generator().manual_seed(s),  # type: ignore[arg-type]
        )[2].weight
        for s in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    bound = (6 / ((16 + 6) * 9)) ** 0.5
    assert 0.8 * bound < drawn[0][:, 8:].abs().max() <= bound


def test_the_wrong_network_is_refused() -> None:
    made = widening(runs(_found(seq(nn.Conv2d(8, 6, 3)))), _found(seq(nn.Conv2d(8, 6, 3))).sites[0])
    assert isinstance(made, Widening)
    with pytest.raises(ConversionError, match="no module '2'"):
        apply_widening(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), made)
    with pytest.raises(ConversionError, match="has 4 channels, but the plan was made for 8"):
        apply_widening(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(4, 6, 3)), made)


def test_regrouped_convolutions_copy_pickle_script_and_export() -> None:
    model = seq(nn.Conv2d(8, 8, 3, groups=8), EcaModule(8)).eval()
    found = _found(model)
    conv = apply_widening(model, widening(runs(found), found.sites[0]))[2]  # type: ignore[arg-type]
    x = torch.randn(2, 16, 6, 6)
    want = conv(x)
    for again in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv)), torch.jit.script(conv)):
        torch.testing.assert_close(again(x), want)
    torch.testing.assert_close(torch.export.export(conv, (x,)).module()(x), want)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_channel_maps_follow_real_tensors(parts: list[tuple[int, bool]], outer: int, inner: int) -> None:
    """Concatenation, doubling and flattening, with tensors whose entries say which channel they are."""
    maps, tensors, offset = [], [], 0
    for size, double in parts:
        channels = ChannelMap.identity(size)
        labels = torch.arange(offset, offset + size)
        tensor = torch.stack([labels, torch.zeros_like(labels)], 1)
        if double:
            channels = channels.doubled()
            tensor = torch.cat([tensor, torch.stack([labels, torch.ones_like(labels)], 1)])
        maps.append(channels)
        tensors.append(tensor)
        offset += size
    whole, tensor = ChannelMap.concatenated(maps), torch.cat(tensors)
    assert [list(map(int, entry)) for entry in whole.entries()] == tensor.tolist()
    assert ChannelMap.from_list(json.loads(json.dumps(whole.to_list()))) == whole
    assert [tensor[place].tolist() for place in whole.kept()] == [[c, 0] for c in range(offset)]
    # the elements of an original (outer, C, inner) tensor, numbered as a flatten sees them
    numbers = torch.arange(outer * offset * inner).reshape(outer, offset, inner)
    flat = numbers[:, tensor[:, 0]].flatten()
    extra = tensor[:, 1][None, :, None].expand(outer, -1, inner).flatten()
    merged = whole.merged(outer, inner)
    assert merged.sources() == flat.tolist()
    assert [int(e) for _, e in merged.entries()] == extra.tolist()
    start, size = 0, max(1, offset // 2)
    half = whole.part(start, size)
    assert [list(map(int, e)) for e in half.entries()] == [row for row in tensor.tolist() if row[0] < size]


def test_all_sites_of_a_resnet34_take_few_milliseconds() -> None:
    found = discover(timm.create_model("resnet34"), (3, 64, 64))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        answers = [widening(found.eval_trace, site) for site in found.sites]
        times.append(time.perf_counter() - start)
    assert (
        sum(isinstance(answer, Widening) for answer in answers) == 20
    )  # all but the 13 before an identity sum
    assert min(times) < 0.05


FEW = {"resnet18": 12, "mobilenetv3_small_050": 24, "convnext_atto": 12}
MORE = [
    "seresnet18",
    "ecaresnet26t",
    "regnety_002",
    "densenet121",
    "nf_resnet26",
    "mixnet_s",
    "gcresnext26ts",
]
MORE += ["efficientnet_b0", "tf_efficientnetv2_b0", "vovnet39a", "ghostnet_050", "tresnet_m", "convnext_tiny"]


def _prove(name: str) -> int:
    torch.manual_seed(0)
    model = randomise(timm.create_model(name, num_classes=7)).eval()
    found, x, proved = discover(model, (3, 64, 96)), torch.randn(2, 3, 64, 96), 0
    for site in found.sites:
        if isinstance(widening(runs(found), site), Widening):
            _check(model, found, [site], x)
            proved += 1
    return proved


@pytest.mark.parametrize("name", FEW)
def test_numeric_proof_on_timm(name: str) -> None:
    assert _prove(name) == FEW[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_numeric_proof_on_more_of_timm(name: str) -> None:
    assert _prove(name) > 20
