"""Channel doubling: what can be widened, with the numeric proof; what cannot, with the operation that blocks."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ShuffleNetV2

from reborn_nas.backbone.convert import convert
from reborn_nas.backbone.find import discover
from reborn_nas.backbone.layers.steps import Refusal, Widening
from reborn_nas.backbone.widen.walk import widening
from tests.backbone.doubled import REFUSED, WIDENABLE, Over, seq
from tests.backbone.inflight import check, found_in, randomise, runs


@pytest.mark.parametrize("name", WIDENABLE)
def test_widenable(name: str) -> None:
    torch.manual_seed(0)
    model = randomise(WIDENABLE[name]()).eval()
    found, x = found_in(model), torch.randn(2, 3, 12, 10)
    sites = [site for site in found.sites if site.expression is None]  # those whose calls `check` can answer
    for site in sites:
        check(model, found, [site], x)
    if len(sites) > 1:
        check(model, found, sites, x)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, operation, module = REFUSED[name]
    found = found_in(make().eval())
    answer = widening(runs(found), found.sites[0])
    assert isinstance(answer, Refusal)
    assert (answer.operation, answer.module) == (operation, module)
    if operation != "output":
        assert (f"'{module}'" if module else "own forward") in answer.reason
        assert "they meet" in answer.reason


@pytest.mark.parametrize("groups", [2, 4, 16])
def test_groups_that_grow_unequally(groups: int) -> None:
    """Behind a concatenation of a doubled and a plain value some groups have nothing new to read."""
    net = Over(
        lambda n, x: n.grouped(torch.cat([x, n.conv(x)], 1)),
        conv=nn.Conv2d(8, 8, 1),
        grouped=nn.Conv2d(16, 16, 1, groups=groups),
    )
    check(net, found_in(net), found_in(net).sites, torch.randn(2, 3, 12, 10))


class Joint(nn.Module):
    """Two activations whose sum, or concatenation, is read."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(width, 5, 1)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.join(F.relu(self.a(x)), F.relu(self.b(x)))).mean((2, 3))


def test_sites_that_meet_are_widened_together() -> None:
    x = torch.randn(2, 3, 12, 10)
    cat = Joint(lambda a, b: torch.cat([a, b], 1), 16).eval()
    check(cat, found_in(cat), list(found_in(cat).sites), x)
    total = Joint(torch.add, 8).eval()
    found = found_in(total)
    assert isinstance(widening(runs(found), found.sites[0]), Refusal)
    check(total, found, list(found.sites), x)


def test_an_activation_behind_a_doubled_one_gets_more_channels() -> None:
    model = seq(nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 6, 1)).eval()
    found = found_in(model)
    first, second = found.sites
    made = widening(runs(found), first, among=[second])
    assert isinstance(made, Widening)
    assert made.channels == {second.name: 16}
    both = widening(runs(found), [first, second])
    assert isinstance(both, Widening)
    assert both.channels == {second.name: 16}
    assert both.steps[0].channels.width == 32
    check(model, found, [first, second], torch.randn(2, 3, 12, 10))


class Auxiliary(nn.Module):
    """A head that runs only in train mode reads the same map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.aux = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.head(x.mean((2, 3)))
        return y + self.aux(x).mean((2, 3)) if self.training else y


class Torn(Auxiliary):
    """A norm that is an identity branch only in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.side = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if self.training:
            return self.head((self.side(x) + self.norm(x)).mean((2, 3)))
        return self.aux(self.norm(x)).mean((2, 3))


def test_a_norm_is_not_cut_in_one_mode_and_widened_in_the_other() -> None:
    found = found_in(Torn())
    answer = widening(runs(found), found.sites[0])
    assert isinstance(answer, Refusal)
    assert "'norm'" in answer.reason


def test_consumers_of_train_mode_are_widened_too() -> None:
    model = Auxiliary().train()
    found = found_in(model)
    made = widening(runs(found), found.sites[0])
    assert isinstance(made, Widening)
    assert {step.module for step in made.steps} == {"head", "aux"}
    check(model, found, list(found.sites), torch.randn(2, 3, 12, 10), in_training=True)


def test_shufflenet_shuffles_and_halves_widened_channels() -> None:
    torch.manual_seed(0)
    model = randomise(ShuffleNetV2([2, 4, 3], [8, 16, 32, 48, 24], num_classes=5)).eval()
    found, x = discover(model, (3, 64, 64)), torch.randn(2, 3, 64, 64)
    for site in found.sites:
        check(model, found, [site], x)
    check(model, found, found.sites[1::2], x)
    check(model, found, found.sites, x)
    wide = convert(model, "crelu(compression=none)", (3, 64, 64)).eval()
    torch.testing.assert_close(torch.jit.script(wide)(x), wide(x))


@pytest.mark.slow
def test_all_sites_of_a_resnet34_take_a_fraction_of_its_discovery() -> None:
    start = time.process_time()
    found = discover(timm.create_model("resnet34"), (3, 64, 64))
    discovery = time.process_time() - start
    times = []
    for _ in range(5):
        start = time.process_time()
        answers = [widening(found.eval_trace, site) for site in found.sites]
        times.append(time.process_time() - start)
    assert (
        sum(isinstance(answer, Widening) for answer in answers) == 20
    )  # all but the 13 before an identity sum
    assert min(times) < discovery / 4


FEW = {"mobilenetv3_small_050": 24, "convnext_atto": 12}
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


def _prove(name: str, stride: int = 1) -> int:
    torch.manual_seed(0)
    model = randomise(timm.create_model(name, num_classes=7)).eval()
    found, x, proved = discover(model, (3, 64, 96)), torch.randn(2, 3, 64, 96), 0
    for site in found.sites:
        if isinstance(widening(runs(found), site), Widening):
            if proved % stride == 0:
                check(model, found, [site], x)
            proved += 1
    return proved


@pytest.mark.parametrize("name", FEW)
def test_numeric_proof_on_timm(name: str) -> None:
    assert _prove(name, stride=6) == FEW[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_numeric_proof_on_more_of_timm(name: str) -> None:
    assert _prove(name) >= 12
