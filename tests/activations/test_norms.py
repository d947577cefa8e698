"""BatchNorm into convolutions: where it is exact, and nowhere else."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from reborn_nas.activations import build_activation, fold
from reborn_nas.activations.folding import Pair, find_pairs, fold_norms

from .test_folding import images, settled


class Base(nn.Module):
    """A convolution, its BatchNorm, and a second pair for what should not depend on the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.later = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.later(self.norm(self.conv(x)))


class Tapped(Base):
    def forward(self, x: Tensor) -> Tensor:
        between = self.conv(x)
        return self.later(self.norm(between) + between)


class Returned(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        between = self.conv(x)
        return self.later(self.norm(between)), between


class ConvTwice(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.later(self.norm(self.conv(x)) + self.conv(2 * x))


class NormTwice(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.later(self.norm(self.conv(x)) + self.norm(x))


class Activated(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.later(self.norm(self.conv(x).relu()))


class WeightRead(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.later(self.norm(self.conv(x))) * self.conv.weight.sum()


class Shared(Base):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 3, 3, padding=1)
        self.other.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.later(self.norm(self.conv(x)) + self.other(x))


class Branching(Base):
    """Cannot be traced, but its `later` can."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return self.later(x if x.sum() > 0 else -x)


class WithDefault(Base):
    def forward(self, x: Tensor, skip: bool = False, mask: Tensor | None = None) -> Tensor:
        between = self.conv(x)
        if skip or mask is not None:
            between = between * 2
        return self.later(self.norm(between))


class OwnConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Subclassed(Base):
    def __init__(self) -> None:
        super().__init__()
        self.conv = OwnConv(3, 3, 3, padding=1)


class Hooked(Base):
    def __init__(self) -> None:
        super().__init__()
        self.conv.register_forward_hook(lambda module, inputs, output: output * 2)


FIRST, LATER = Pair("conv", "norm"), Pair("later.0", "later.1")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Base, [FIRST, LATER]),
        (WithDefault, [FIRST, LATER]),
        (Tapped, [LATER]),
        (Returned, [LATER]),
        (ConvTwice, [LATER]),
        (NormTwice, [LATER]),
        (Activated, [LATER]),
        (WeightRead, [LATER]),
        (Shared, [LATER]),
        (Branching, [LATER]),
        (Subclassed, [LATER]),
        (Hooked, [LATER]),
    ],
)
def test_only_proved_pairs_fold_and_the_function_stays(kind: type[Base], expected: list[Pair]) -> None:
    torch.manual_seed(0)
    model = settled(kind().double())
    assert find_pairs(model) == expected
    x = images(2, 3, 6, 6)
    folded = fold(model)
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=1e-10)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in folded.modules()) == 2 - len(expected)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in model.modules()) == 2


def test_a_norm_without_statistics_or_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 1))
    model.append(nn.BatchNorm2d(4, track_running_stats=False))
    model = settled_without_affine(model)
    assert find_pairs(model) == [Pair("0", "1")]
    x = images(2, 3, 5, 5)
    torch.testing.assert_close(fold(model)(x), model(x), rtol=0, atol=1e-10)


def settled_without_affine(model: nn.Module) -> nn.Module:
    model[1].running_mean.fill_(0.3)
    model[1].running_var.fill_(2.0)
    return model.double().eval()


def test_grouped_strided_and_dilated_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, groups=3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(6, eps=0.1),
        nn.Conv2d(6, 6, 3, dilation=2, groups=6, bias=False),
        nn.BatchNorm2d(6),
    )
    settled(model.double())
    x = images(2, 3, 16, 16)
    expected = model(x)
    assert len(fold_norms(model)) == 2
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)
    assert [type(part) for part in model] == [nn.Conv2d, nn.Identity, nn.Conv2d, nn.Identity]


@pytest.mark.parametrize(
    ("name", "left"),
    [("resnet18", 0), ("mobilenetv3_small_050", 0), ("regnetx_002", 0), ("convnext_atto", 0)],
)
def test_timm_networks_fold_completely(name: str, left: int) -> None:
    torch.manual_seed(0)
    model = settled(timm.create_model(name, num_classes=5).double())
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        folded = fold(model)
        got = folded(x)
    assert float((got - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    assert sum(isinstance(part, nn.BatchNorm2d) for part in folded.modules()) == left
    assert type(folded) is type(model)


def test_a_fused_norm_leaves_its_activation_even_a_reborn_one() -> None:
    torch.manual_seed(0)
    model = timm.create_model("regnetx_002", num_classes=5)
    model.stem.bn.act = build_activation("reborn", 32)
    model = settled(model.double())
    x = images(2, 3, 64, 64)
    folded = fold(model)
    expected = model(x).detach()
    assert float((folded(x).detach() - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
