"""Activations written out in a forward are found by what they compute, and distinguished from gates and decoders."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.backbone import apply, convert, discover, plan
from reborn_nas.errors import SiteError
from reborn_nas.models.exported import stored_plan

SIZE = (3, 16, 16)


class Rectified(torch.autograd.Function):
    """ReLU with its own backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x > 0)


class Quantised(torch.autograd.Function):
    """Sixteen steps from 0 to 1, trained as if it were the identity: a straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x.clamp(0, 1) * 15).round() / 15

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def scaled(x: Tensor, slope: float = 0.2) -> Tensor:
    y = slope * x
    return torch.where(x > 0, x, y)


FORMULAS = {
    "y * y.sigmoid()": "silu",
    "y * self.gate(y)": "silu",
    "y / (1 + torch.exp(-y))": "silu",
    "torch.sigmoid(y).mul_(y)": "silu",
    "y * (y > 0)": "relu",
    "(y > 0).float() * y": "relu",
    "(y + y.abs()) / 2": "relu",
    "y.masked_fill(y < 0, 0)": "relu",
    "torch.where(y > 0, y, 0.1 * y)": "leaky_relu",
    "torch.maximum(y, 0.2 * y)": "leaky_relu",
    "torch.maximum(torch.zeros(()), y)": "relu",
    "torch.max(y, torch.tensor(0.0))": "relu",
    "y * (y.detach() > 0)": "relu",
    "(z := self.conv(x)) * z.sigmoid()": "silu",
    "torch.where(y > 0, y, torch.exp(y) - 1)": "elu",
    "0.5 * y * (1 + torch.erf(y / 2**0.5))": "gelu",
    "0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))": "gelu",
    "y * torch.tanh(F.softplus(y))": "mish",
    "y * self.flat(self.soft(y))": "mish",
    "y * F.relu6(y + 3) / 6": "hardswish",
    "y * self.bound(y + 3) / 6": "hardswish",
    "y * (y + 3).clamp(0, 6) / 6": "hardswish",
    "y * torch.sigmoid(3 * y)": "other:formula",
    "swish(self.norm(y))": "silu",
    "scaled(y, slope=0.3)": "leaky_relu",
    "Rectified.apply(y)": "relu",
    "kept[0] * kept[0].sigmoid()": "silu",
}
OTHERS = {
    "Quantised.apply(y)": "straight-through",
    "y * torch.sigmoid(self.slope * y)": "'slope'",
    "y * y.softmax(1)": "probing",
    "y * y.detach().sigmoid()": "gradient",
    "y.mul_(y.sigmoid())": "writes over",
    "torch.where(y > self.other, y, 0.0)": "neither made",
}
MODULE = """\
import math
import torch
import torch.nn.functional as F
from torch import nn
from tests.backbone.test_formulas import Quantised, Rectified, scaled, swish


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.norm = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.BatchNorm2d(8)
        self.gate, self.bound, self.slope = nn.Sigmoid(), nn.ReLU6(), nn.Parameter(torch.ones(()))
        self.flat, self.soft = nn.Tanh(), nn.Softplus()
        self.other = torch.zeros(())

    def forward(self, x):
        y = self.conv(x)
        kept = [y]
        y = EXPRESSION
        return self.fc(y.mean((2, 3)))
"""


def network(expression: str, folder: Path, text: str = MODULE) -> nn.Module:
    """A network whose one activation is `expression`."""
    name = f"formula_{hashlib.sha256(expression.encode()).hexdigest()[:12]}"
    path = folder / f"{name}.py"
    path.write_text(text.replace("EXPRESSION", expression))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    made: nn.Module = module.Net()
    return made


@pytest.mark.parametrize(("expression", "name"), FORMULAS.items())
def test_a_formula_is_a_site_named_by_its_values(expression: str, name: str, tmp_path: Path) -> None:
    model = network(expression, tmp_path)
    found = discover(model, SIZE)
    (site,) = found.sites
    assert (site.activation, site.channels, site.fault) == (name, 8, None)
    assert site.name in ("formula@0", "clamp@0")
    assert not [other for other in found.others if other.activation not in ("sigmoid", "tanh")]
    new = convert(model, {site.name: "leaky_relu(negative_slope=0.3)"}, SIZE)
    x = torch.randn(2, *SIZE)
    y = model.conv(x) if "norm" not in expression else model.norm(model.conv(x))  # type: ignore[operator]
    wanted = model.fc(F.leaky_relu(y, 0.3).mean((2, 3)))  # type: ignore[operator]
    assert torch.equal(new(x), wanted)
    assert torch.equal(convert(model, {}, SIZE)(x), model(x))
    own = site.refusal("reborn(positive=original)")
    assert (own is None) == (name != "other:formula"), own


@pytest.mark.parametrize(("expression", "reason"), OTHERS.items())
def test_what_no_module_can_stand_for_is_listed(expression: str, reason: str, tmp_path: Path) -> None:
    model = network(expression, tmp_path)
    found = discover(model, SIZE)
    (listed,) = [other for other in found.others if "written out" in other.reason]
    assert reason in listed.reason
    assert "formula_" in listed.reason
    with pytest.raises(SiteError, match=r"no activation site.*:"):
        convert(model, "reborn", SIZE)


@pytest.mark.parametrize(
    "expression",
    [
        "y",
        "2 * y + 1",
        "y.tanh()",
        "y.clamp(-1, 6)",
        "torch.min(y, torch.ones(()))",
        "y.abs().mean(1, True) * y",
        "torch.cat([y, -y], 1)[:, 4:12]",
    ],
)
def test_what_is_none_is_not_listed(expression: str, tmp_path: Path) -> None:
    found = discover(network(expression, tmp_path), SIZE)
    assert not found.sites
    assert not [other for other in found.others if "written out" in other.reason]


class Cbam(nn.Module):
    """A channel gate with two branches that are added before the sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(8, 5)

    def branch(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(self.relu(self.down(x)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        gate = self.branch(F.adaptive_avg_pool2d(x, 1)) + self.branch(F.adaptive_max_pool2d(x, 1))
        out: Tensor = self.fc((x * gate.sigmoid()).mean((2, 3)))
        return out


class Decoder(nn.Module):
    """A map is enlarged and added to a larger one: a feature, not a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        large = self.a(x)
        small = F.relu(self.b(large))
        y = large + F.interpolate(small, scale_factor=2)
        out: Tensor = self.fc(y.mean((2, 3)))
        return out


@pytest.mark.parametrize(("make", "sites"), [(Cbam, ["relu@1"]), (Decoder, ["relu@0"])])
def test_gates_and_decoders(make: Any, sites: list[str]) -> None:
    found = discover(make(), SIZE)
    assert [site.name for site in found.sites if site.kind == "functional"] == sites
    assert len(found.sites) == len(sites)


LOOP = """\
import torch
from torch import nn


def swish(x):
    return x * torch.sigmoid(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs, self.fc = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3)), nn.Linear(3, 5)

    def forward(self, x):
        for conv in self.convs:
            x = EXPRESSION
        return self.fc(x.mean((2, 3)))
"""


@pytest.mark.parametrize("formula", ["swish(conv(x))", "conv(x) if x is None else swish(conv(x))"])
def test_the_other_turns_of_a_loop_keep_their_own_expression(formula: str, tmp_path: Path) -> None:
    model: Any = network(formula, tmp_path, LOOP)
    choices = {"formula@1": Choice("leaky_relu", negative_slope=0.3)}
    steps = plan(model, Architecture(BackboneSpec("timm:unnamed"), choices), SIZE)
    assert stored_plan(json.loads(steps.to_json())) == steps
    new = apply(model, steps)
    x = given = torch.randn(2, *SIZE)
    for number, conv in enumerate(model.convs):
        y = conv(x)
        x = F.leaky_relu(y, 0.3) if number == 1 else y * torch.sigmoid(y)
    assert torch.equal(new(given), model.fc(x.mean((2, 3))))


class Called(nn.Module):
    """An activation that is called, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.conv(x)))


class Spelled(Called):
    """The same one, written out."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.out(x * torch.sigmoid(x))


def test_what_reads_a_doubled_formula_is_widened_like_what_reads_a_doubled_call() -> None:
    torch.manual_seed(0)
    called, spelled = (convert(make(), "crelu(compression=none)", (3, 6, 6)) for make in (Called, Spelled))
    assert spelled.out.in_channels == 16
    spelled.load_state_dict(called.state_dict())
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(spelled(x), called(x), rtol=0, atol=0)
