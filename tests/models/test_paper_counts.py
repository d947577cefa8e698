"""Parameters of the paper's networks in every form, counted by hand; and ResNet-34 without pooling."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
from torch import nn

import reborn_nas as rn
from reborn_nas.replicate.cells import architecture_of
from reborn_nas.replicate.published import load_replication

CONVNET8 = (32, 32, 64, 64, 128, 128, 256, 256)
CONVNET13 = (64, 64, 128, 128, 256, 256, 256, *[512] * 6)


def make(name: str, **arguments: Any) -> nn.Module:
    """Without data: only counted."""
    with torch.device("meta"):
        return timm.create_model(name, **arguments)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def convnet8(width: float = 1.0, channels: int = 3) -> int:
    """Convolutions with biases, then 1024·width → 512 → 256 → 10."""
    sizes = [channels, *(round(size * width) for size in CONVNET8)]
    linear = [4 * sizes[-1], 512, 256, 10]
    return sum(9 * a * b + b for a, b in pairwise(sizes)) + sum(a * b + b for a, b in pairwise(linear))


def convnet13(width: float = 1.0, channels: int = 3) -> int:
    """Convolutions without biases, two numbers a channel of batch norm, one linear layer."""
    sizes = [channels, *(round(size * width) for size in CONVNET13)]
    return sum(9 * a * b + 2 * b for a, b in pairwise(sizes)) + sizes[-1] * 10 + 10


def resnet34(width: float = 1.0, channels: int = 3) -> int:
    """Stem 3×3; per block two 3×3 with batch norm; 1×1 with batch norm where the channels change; linear."""
    sizes = [round(size * width) for size in (64, 128, 256, 512)]
    total = 9 * channels * sizes[0] + 2 * sizes[0]
    before = sizes[0]
    for size, blocks in zip(sizes, (3, 4, 6, 3), strict=True):
        for block in range(blocks):
            first = before if block == 0 else size
            total += 9 * first * size + 9 * size * size + 4 * size
        total += (before * size + 2 * size) * (before != size)
        before = size
    return total + sizes[-1] * 10 + 10


BY_HAND = {"convnet8": convnet8, "convnet13": convnet13, "paper_resnet34": resnet34}
MAPS = {
    "convnet8": CONVNET8,
    "convnet13": CONVNET13,
    "paper_resnet34": (64, *[64] * 6, *[128] * 8, *[256] * 12, *[512] * 6),
}


@pytest.mark.parametrize("name", list(BY_HAND))
@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("channels", [1, 3])
def test_plain(name: str, width: float, channels: int) -> None:
    model = make(name, width=width, in_chans=channels)
    assert count(model) == BY_HAND[name](width, channels)


def added(row: str, sizes: tuple[int, ...]) -> int:
    """What a row adds where every map of `sizes` channels takes its block (no layer behind is widened)."""
    each = {
        "prelu": lambda c: c,
        "reborn": lambda c: 9 * c * c + 2 * c + 2 * c * c,  # deconvolution, batch norm, 1×1
        "reborn_3x3": lambda c: 9 * c * c + 2 * c + 18 * c * c,
        "extended_conv": lambda c: 9 * c * c,
        "norm_relu": lambda c: 2 * c,
        "positive_twin": lambda c: 9 * c * c + 2 * c + 2 * c * c,
    }
    return sum(each[row](c) for c in sizes)


@pytest.mark.parametrize("name", list(BY_HAND))
@pytest.mark.parametrize(
    "row", ["leaky_relu", "prelu", "reborn", "reborn_3x3", "extended_conv", "norm_relu", "positive_twin"]
)
def test_rows_of_the_tables(name: str, row: str) -> None:
    table = {
        "extended_conv": "table4",
        "reborn_3x3": "section33",
        "norm_relu": "controls",
        "positive_twin": "controls",
    }
    model = make(name)
    sites = rn.find_sites(model, (3, 32, 32))
    chosen = load_replication(table.get(row, "table2")).rows[row]
    new = rn.convert(
        model, dict(architecture_of(chosen, sites, rn.BackboneSpec(name))), input_size=(3, 32, 32)
    )
    by_hand = 0 if row == "leaky_relu" else added(row, MAPS[name])
    if row == "prelu" and name == "convnet8":
        by_hand += 512 + 256  # point-wise activations stand behind the fully connected layers too
    assert count(new) - count(model) == by_hand


def test_rows_that_double_the_channels() -> None:
    """CReLU and uncompressed reborn: what reads the map reads twice as many channels.

    In ResNet-34 an identity shortcut reads the map behind a sum too, so that it is compressed there; behind the last
    block of a stage a projection reads it, behind the last of all the linear layer.
    """
    doubled8 = sum(9 * a * b for a, b in pairwise(CONVNET8)) + 4 * 256 * 512
    stages = ((64, 3), (128, 4), (256, 6), (512, 3))
    doubled34 = sum(9 * size * size * blocks for size, blocks in stages)
    doubled34 += sum((9 + 1) * a * b for a, b in ((64, 128), (128, 256), (256, 512))) + 512 * 10
    after_sum = (64, *[size for size, blocks in stages for _ in range(blocks - 1)])
    for name, widened, undone in (("convnet8", doubled8, ()), ("paper_resnet34", doubled34, after_sum)):
        model = make(name)
        sites = rn.find_sites(model, (3, 32, 32))
        for table, row in (("table2", "crelu"), ("section33", "reborn_none")):
            chosen = load_replication(table).rows[row]
            choices = dict(architecture_of(chosen, sites, rn.BackboneSpec(name)))
            new = rn.convert(model, choices, input_size=(3, 32, 32))
            own = {"crelu": 0, "reborn_none": sum(9 * c * c + 2 * c for c in MAPS[name])}[row]
            compressed = sum(2 * c * c for c in undone)
            assert count(new) - count(model) == own + widened + compressed


def test_half_of_the_kernels_quarters_a_convolution() -> None:
    """Sec. 4.5: "the number of learned parameters was reduced four-fold"."""
    full, half = (make("paper_resnet34", width=width) for width in (1.0, 0.5))
    assert full.layer2[1].conv1.weight.numel() == 4 * half.layer2[1].conv1.weight.numel()


@pytest.mark.parametrize(
    ("stem", "reductions"), [("small", [1, 1, 2, 4, 8]), ("imagenet", [2, 4, 8, 16, 32])]
)
def test_resnet34_has_no_pooling_but_the_last(stem: str, reductions: list[int]) -> None:
    model = timm.create_model("paper_resnet34", stem=stem, in_chans=1).eval()
    kinds = [type(module).__name__ for module in model.modules()]
    assert "MaxPool2d" not in kinds
    assert kinds.count("Conv2d") == 33 + 3 + (stem == "imagenet")  # 3 projections
    features = timm.create_model("paper_resnet34", stem=stem, in_chans=1, features_only=True).eval()
    assert features.feature_info.reduction() == reductions
    maps = features(torch.zeros(1, 1, 28, 28))
    assert [m.shape[-1] for m in maps] == [-(-28 // reduction) for reduction in reductions]
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_resnet34_refuses_what_it_cannot_be() -> None:
    with pytest.raises(ValueError, match="stem is one of small, imagenet"):
        timm.create_model("paper_resnet34", stem="tiny")
    with pytest.raises(ValueError, match="at least 2"):
        timm.create_model("paper_resnet34", width=0.001)


def test_the_registered_reborn_form() -> None:
    model = timm.create_model("reborn_paper_resnet34")
    assert count(model) - resnet34() == added("reborn", MAPS["paper_resnet34"])
