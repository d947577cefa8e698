"""The point-wise families against their formulas, value by value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from reborn_nas.activations import build_activation, family_names, get_family

ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805

FORMULAS = {
    "relu": lambda v: max(v, 0.0),
    "leaky_relu": lambda v: v if v > 0 else 0.01 * v,
    "prelu": lambda v: v if v > 0 else 0.25 * v,
    "rrelu": lambda v: v if v > 0 else v * (1 / 8 + 1 / 3) / 2,  # eval mode: the mean slope
    "elu": lambda v: v if v > 0 else math.exp(v) - 1,
    "selu": lambda v: SCALE * (v if v > 0 else ALPHA * (math.exp(v) - 1)),
    "celu": lambda v: v if v > 0 else math.exp(v) - 1,
    "gelu": lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))),
    "silu": lambda v: v / (1 + math.exp(-v)),
    "mish": lambda v: v * math.tanh(math.log1p(math.exp(v))),
    "hardswish": lambda v: v * min(max(v + 3, 0.0), 6.0) / 6,
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nc", "nlc"])
def test_values(name: str, layout: str) -> None:
    shape = {"nchw": (2, 3, 2, 2), "nhwc": (2, 2, 2, 3), "nc": (8, 3), "nlc": (2, 4, 3)}[layout]
    x = torch.linspace(-5, 5, 24, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[name](float(v)) for v in x], dtype=torch.float64)
    module = build_activation(name, 3, layout=layout).double().eval()
    torch.testing.assert_close(module(x.view(shape)).flatten(), expected, rtol=1e-12, atol=1e-12)


def test_every_pointwise_family_admits_every_layout() -> None:
    assert {name for name in family_names() if "nlc" in get_family(name).layouts()} == set(FORMULAS)


def test_leaky_slope_is_the_option() -> None:
    module = build_activation("leaky_relu", 1, negative_slope=0.3)
    assert module(torch.tensor([-2.0, 2.0])).tolist() == pytest.approx([-0.6, 2.0])


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nc", "nlc"])
def test_prelu_has_a_slope_a_channel_on_the_right_axis(layout: str) -> None:
    shape = {"nchw": (2, 3, 3, 3), "nhwc": (2, 3, 3, 3), "nc": (3, 3), "nlc": (2, 3, 3)}[
        layout
    ]  # any axis fits
    module = build_activation("prelu", 3, layout=layout)
    module.weight.data = torch.tensor([0.0, 0.5, 2.0])
    y = module(-torch.ones(shape))
    axis = 1 if layout in ("nchw", "nc") else -1
    for channel, slope in enumerate((0.0, 0.5, 2.0)):
        assert (y.select(axis, channel) == -slope).all()


def test_rrelu_draws_while_training_and_not_in_eval_mode() -> None:
    module = build_activation("rrelu", 1)
    x = -torch.ones(1, 1, 50, 50)
    torch.manual_seed(0)
    slopes = -module.train()(x)
    assert 1 / 8 <= float(slopes.min()) < 0.14
    assert 0.32 < float(slopes.max()) <= 1 / 3
    assert module.eval()(x).unique().numel() == 1


@pytest.mark.parametrize("name", ["relu", "silu", "gelu", "mish", "hardswish", "elu", "leaky_relu"])
def test_tools_find_the_torch_class(name: str) -> None:
    kinds = {
        "relu": nn.ReLU,
        "silu": nn.SiLU,
        "gelu": nn.GELU,
        "mish": nn.Mish,
        "hardswish": nn.Hardswish,
        "elu": nn.ELU,
        "leaky_relu": nn.LeakyReLU,
    }
    module = build_activation(name, 3)
    assert type(module) is kinds[name]
    assert not getattr(module, "inplace", False)


def test_frelu_is_the_larger_of_the_value_and_its_condition() -> None:
    """One channel, kernel of ones in eval mode with BatchNorm at 2·v + 1: the condition is the window's sum."""
    module = build_activation("frelu", 1).double().eval()
    module.conv.weight.data.fill_(1.0)
    module.norm.weight.data.fill_(2.0 * math.sqrt(1 + 1e-5))
    module.norm.bias.data.fill_(1.0)
    x = torch.tensor([[[[1.0, -2.0], [0.5, 9.0]]]], dtype=torch.float64)
    condition = 2 * 8.5 + 1
    assert module(x).flatten().tolist() == pytest.approx([max(v, condition) for v in (1.0, -2.0, 0.5, 9.0)])
    module.norm.bias.data.fill_(-20.0)
    assert module(x).flatten().tolist() == pytest.approx([1.0, -2.0, 0.5, 9.0])
