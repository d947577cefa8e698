"""CReLU and the controls against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from reborn_nas.activations import build_activation, extra_cost, get_family
from reborn_nas.architecture import Choice


def test_uncompressed_crelu_hands_on_both_phases_positive_first() -> None:
    x = torch.tensor([[1.0, -2.0, 0.0]])
    y = build_activation("crelu", 3, layout="nc", compression="none")(x)
    assert y.tolist() == [[1.0, 0.0, 0.0, 0.0, 2.0, 0.0]]
    maps = build_activation("crelu", 3, compression="none")(x[:, :, None, None].expand(1, 3, 2, 2))
    assert maps[:, :, 1, 1].tolist() == y.tolist()


def test_compressed_crelu_mixes_both_phases() -> None:
    module = build_activation("crelu", 2, layout="nc")
    module.compress.weight.data = torch.tensor([[1.0, 10.0, 100.0, 1000.0], [0.0, 1.0, 0.0, 2.0]])[
        :, :, None, None
    ]
    # relu(x) = (3, 0), relu(−x) = (0, 4)
    assert module(torch.tensor([[3.0, -4.0]])).tolist() == [[3 + 4000.0, 8.0]]


def test_extended_conv_is_relu_then_a_convolution() -> None:
    module = build_activation("extended_conv", 1).double()
    module.conv.weight.data = torch.arange(9.0, dtype=torch.float64).view(1, 1, 3, 3)
    x = torch.tensor([[[[1.0, -1.0], [2.0, 3.0]]]], dtype=torch.float64)
    # the kernel's middle is weight 4, right 5, below 7, below right 8, …
    expected = [1 * 4 + 2 * 7 + 3 * 8, 1 * 3 + 2 * 6 + 3 * 7, 1 * 1 + 2 * 4 + 3 * 5, 1 * 0 + 2 * 3 + 3 * 4]
    assert module(x).flatten().tolist() == expected


def test_norm_relu_normalises_first() -> None:
    x = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]], dtype=torch.float64)  # mean 4, variance 5
    y = build_activation("norm_relu", 1).double()(x)
    assert y.flatten().tolist() == pytest.approx([0.0, 0.0, 1 / math.sqrt(5 + 1e-5), 3 / math.sqrt(5 + 1e-5)])


C, H, W = 16, 8, 4


@pytest.mark.parametrize(
    ("label", "parameters", "macs"),
    [
        ("original", 0, 0),
        ("relu", 0, 0),
        ("prelu", 16, 0),
        ("frelu", 16 * 9 + 32, 16 * 9 * 32),
        ("crelu", 2 * 16 * 16, 2 * 16 * 16 * 32),
        ("crelu(compression=none)", 0, 0),
        ("reborn", 9 * 256 + 32 + 512, (9 * 256 + 512) * 32),
        ("reborn(kernel_size=1)", 256 + 32 + 512, (256 + 512) * 32),
        ("reborn(kernel_size=5,compression=3x3)", 25 * 256 + 32 + 9 * 512, (25 * 256 + 9 * 512) * 32),
        ("reborn(compression=none)", 9 * 256 + 32, 9 * 256 * 32),
        ("reborn(deconv=depthwise)", 9 * 16 + 32 + 512, (9 * 16 + 512) * 32),
        ("positive_twin(positive=original)", 9 * 256 + 32 + 512, (9 * 256 + 512) * 32),
        ("extended_conv", 9 * 256, 9 * 256 * 32),
        ("norm_relu", 32, 0),
    ],
)
def test_cost_by_hand(label: str, parameters: int, macs: int) -> None:
    assert extra_cost(label, C, (C, H, W)) == (parameters, macs)
    assert extra_cost(label, C, (C,)) == (parameters, macs // 32)


@pytest.mark.parametrize("name", ["reborn", "crelu", "positive_twin"])
def test_only_uncompressed_forms_double_the_channels(name: str) -> None:
    family = get_family(name)
    assert family.channel_factor() == 1
    assert family.channel_factor(**Choice(name, compression="1x1").options) == 1
    assert family.channel_factor(compression="none") == 2
