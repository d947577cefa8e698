"""Folding entire networks: same function, no blocks left, the original unchanged, train mode refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm.utils.model
import torch
from torch import Tensor, nn

from reborn_nas.activations import build_activation, fold
from reborn_nas.activations.reborn import Reborn
from reborn_nas.activations.split import SplitReborn
from reborn_nas.errors import ConversionError


class Net(nn.Module):
    """Two stages; one block is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.act = build_activation("reborn", 8)
        self.stage = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            build_activation("reborn", 8, compression="3x3", kernel_size=5),
            nn.Conv2d(8, 8, 1),
            nn.SiLU(),
        )
        self.again = self.act
        self.frelu = build_activation("frelu", 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.stage(self.act(self.conv(x))))
        return self.head(self.frelu(x).mean((2, 3)))


def settled(model: nn.Module) -> nn.Module:
    """In eval mode after some training forwards, so that every running statistic is its own."""
    generator = torch.Generator().manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.copy_(torch.randn(part.weight.shape, generator=generator))
            part.bias.data.copy_(torch.randn(part.bias.shape, generator=generator))
            part.running_mean.copy_(torch.randn(part.bias.shape, generator=generator))
            part.running_var.copy_(torch.rand(part.bias.shape, generator=generator) * 2 + 0.2)
    return model.eval()


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return settled(Net().double())


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_network_folds(net: nn.Module) -> None:
    x = images(4, 3, 9, 9)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    expected = net(x)
    folded = fold(net)
    torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-10)
    assert not any(isinstance(part, Reborn) for part in folded.modules())
    assert sum(isinstance(part, SplitReborn) for part in folded.modules()) == 2
    assert folded.act is folded.again
    assert torch.equal(net(x), expected)
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    assert not folded.training
    assert sum(p.numel() for p in folded.parameters()) < sum(p.numel() for p in net.parameters())


def test_a_network_folds_in_single_precision(net: nn.Module) -> None:
    net = net.float()
    x = images(4, 3, 9, 9).float()
    expected = net(x).detach()
    assert float((fold(net)(x).detach() - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_a_folded_network_copies_pickles_and_folds_again(net: nn.Module) -> None:
    x = images(2, 3, 5, 5)
    folded = fold(net)
    for form in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded)), fold(folded)):
        assert torch.equal(form(x), folded(x))


@pytest.mark.parametrize("part", ["", "act", "act.norm", "stage.1", "frelu"])
def test_train_mode_is_refused_by_name(net: nn.Module, part: str) -> None:
    net.get_submodule(part).train()
    with pytest.raises(ConversionError, match=r"train mode.*call model.eval\(\)") as caught:
        fold(net)
    assert part in str(caught.value)
    net.eval()
    fold(net)


@pytest.mark.parametrize(
    "label", ["reborn", "reborn(compression=3x3)", "positive_twin(compression=none)", "frelu"]
)
@pytest.mark.parametrize("training", [True, False])
def test_timm_reparameterizes_blocks_at_their_running_statistics(label: str, training: bool) -> None:
    model = settled(nn.Sequential(build_activation(label, 6), nn.ReLU()).double())
    x = images(2, 6, 5, 5)
    expected = model(x)
    fused = timm.utils.model.reparameterize_model(model.train(training))
    assert fused[0].training == training
    torch.testing.assert_close(fused.eval()(x), expected, rtol=0, atol=1e-10)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    assert isinstance(model[0], type(build_activation(label, 6)))


def test_the_split_form_holds_what_is_exact_to_fold() -> None:
    def form(**options: object) -> SplitReborn:
        return fold(build_activation("reborn", 6, **options).eval())

    dense, wide = form(kernel_size=5), form(compression="3x3")
    depthwise, none = form(deconv="depthwise"), form(compression="none")
    assert dense.merge is None
    assert tuple(dense.reborn.weight.shape) == (6, 6, 5, 5)
    assert tuple(dense.direct.weight.shape) == (6, 6, 1, 1)
    assert tuple(wide.merge.weight.shape) == tuple(wide.direct.weight.shape) == (6, 6, 3, 3)
    assert depthwise.reborn.groups == 6
    assert tuple(depthwise.merge.weight.shape) == (6, 6, 1, 1)
    assert none.direct is None
    assert none.merge is None
    assert none.out_channels == 12


def test_the_positive_phase_is_not_computed_where_the_input_will_do() -> None:
    """relu(x) = x − min(x, 0); by hand for one channel and k = 1: d·x + (k − d)·min(x, 0) + b."""
    block = build_activation("reborn", 1, kernel_size=1).double().eval()
    with torch.no_grad():
        block.deconv.weight.fill_(3.0)
        block.compress.weight.copy_(torch.tensor([5.0, 2.0]).view(1, 2, 1, 1))
        block.norm.running_var.fill_(4.0 - block.norm.eps)
        block.norm.running_mean.fill_(1.0)
    folded = fold(block)
    assert folded.whole
    assert folded.direct.weight.item() == 5.0
    assert folded.reborn.weight.item() == pytest.approx(2 * 3 / 2 - 5)
    assert folded.reborn.bias.item() == pytest.approx(2 * -1 / 2)
    x = torch.tensor([-2.0, 0.0, 7.0], dtype=torch.float64).view(3, 1, 1, 1)
    assert folded(x).flatten().tolist() == pytest.approx([3 * -2 - 1, -1, 35 - 1])
    for label in (
        "reborn(positive=original)",
        "reborn(compression=3x3)",
        "positive_twin",
        "reborn(deconv=depthwise)",
    ):
        assert not fold(build_activation(label, 4, original=nn.SiLU()).eval()).whole, label


def test_without_gradients_it_goes_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from reborn_nas.activations import split

    torch.manual_seed(0)
    block = settled(build_activation("reborn", 6, kernel_size=5).double())
    x = images(7, 6, 5, 4)
    expected, folded = block(x).detach(), fold(block)
    monkeypatch.setattr(split, "BLOCK", 3 * 6 * 20 * 8)  # three images; less than half of the weight's bytes
    monkeypatch.setattr(split, "FEWEST", 1)
    sizes: list[int] = []
    convolve = split.convolve
    monkeypatch.setattr(split, "convolve", lambda x, *a: sizes.append(len(x)) or convolve(x, *a))
    with torch.no_grad():
        torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-10)
        assert sizes == [4, 4, 3, 3], "k×k and 1×1 of each part, which are as equal as seven images can be"
        channels_last = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(folded(channels_last), expected, rtol=0, atol=1e-10)
    assert sizes[4:] == [7, 7], "in one piece"
    folded(x.requires_grad_()).sum().backward()
    assert sizes[6:] == [7, 7], "with gradients in one piece"


def test_a_part_has_no_fewer_than_sixteen_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from reborn_nas.activations import split

    folded = fold(settled(build_activation("reborn", 64)))
    sizes: list[int] = []
    convolve = split.convolve
    monkeypatch.setattr(split, "convolve", lambda x, *a: sizes.append(len(x)) or convolve(x, *a))
    with torch.no_grad():
        folded(torch.zeros(37, 64, 32, 32))  # 12 images of 256 KiB are a block
    assert sizes == [19, 19, 18, 18]
    with torch.no_grad():
        assert folded(torch.zeros(0, 64, 32, 32)).shape == (0, 64, 32, 32)


def test_folding_draws_no_random_numbers_and_keeps_the_dtype(net: nn.Module) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    folded = fold(net.half())
    assert torch.equal(torch.rand(3), expected)
    assert {p.dtype for p in folded.parameters()} == {torch.float16}


def test_the_fuse_of_other_modules_is_not_called() -> None:
    class Foreign(nn.Module):
        def fuse(self) -> nn.Module:
            raise AssertionError("not ours to call")

        def forward(self, x: Tensor) -> Tensor:
            return x

    folded = fold(nn.Sequential(Foreign(), build_activation("reborn", 2)).eval())
    assert isinstance(folded[0], Foreign)
    assert isinstance(folded[1], SplitReborn)


def test_an_originals_own_path_survives_folding() -> None:
    block = build_activation("reborn", 4, positive="original", original=nn.Hardswish(inplace=True)).double()
    x = images(2, 4, 6, 6)
    before = x.clone()
    folded = fold(settled(block))
    torch.testing.assert_close(folded(x), block(x), rtol=0, atol=1e-12)
    assert torch.equal(x, before)
    assert isinstance(folded.positive, nn.Hardswish)


@pytest.mark.parametrize("deconv", ["dense", "depthwise"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (15, 17), (20, 13), (40, 3)])
def test_maps_of_any_size_and_layout_in_every_form(
    deconv: str, channels_last: bool, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    block = settled(build_activation("reborn", 6, deconv=deconv).double())
    x = images(2, 6, *size)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    expected, folded = block(x).detach(), fold(block)
    torch.testing.assert_close(folded(x).detach(), expected, rtol=0, atol=1e-10)
    wanted = torch.autograd.grad(block(x.requires_grad_()).square().sum(), x)
    torch.testing.assert_close(torch.autograd.grad(folded(x).square().sum(), x), wanted, rtol=0, atol=1e-8)
    for form in (
        torch.jit.script(folded),
        torch.fx.symbolic_trace(folded),
        torch.jit.trace(folded, x.detach()),
    ):
        torch.testing.assert_close(form(x).detach(), expected, rtol=0, atol=1e-10)
    with torch.autocast("cpu", torch.bfloat16):
        assert float((folded.float()(x.float()) - expected).detach().abs().max()) < 0.1 * float(
            expected.abs().max()
        )
