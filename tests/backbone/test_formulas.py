"""Activations that a forward writes out are listed, by what they compute; gates and decoders are told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reborn_nas.backbone import convert, discover
from reborn_nas.errors import SiteError

SIZE = (3, 16, 16)


class Net(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.act = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), [act]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.act[0](self.conv(x)).mean((2, 3)))
        return out


@pytest.mark.parametrize(
    ("act", "name"),
    [
        (lambda x: x * x.sigmoid(), "silu"),
        (lambda x: x * (x > 0), "relu"),
        (lambda x: x * (x > 0).float(), "relu"),
        (lambda x: torch.where(x > 0, x, 0.1 * x), "leaky_relu"),
        (lambda x: torch.maximum(x, 0.2 * x), "leaky_relu"),
        (lambda x: torch.maximum(x, x.new_zeros(())), "relu"),
        (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), "gelu"),
        (lambda x: x * torch.tanh(F.softplus(x)), "mish"),
        (lambda x: x * torch.sigmoid(3 * x), "other:formula"),
    ],
)
def test_a_formula_is_listed_by_its_values(act: Callable[[Tensor], Tensor], name: str) -> None:
    found = discover(Net(act), SIZE)
    listed = [other for other in found.others if "written out" in other.reason]
    assert [other.activation for other in listed] == [name]
    assert "test_formulas.py:" in listed[0].reason
    with pytest.raises(SiteError, match=r"no activation site.*:"):
        convert(Net(act), {} if found.sites else "reborn", SIZE)


@pytest.mark.parametrize("act", [lambda x: x, lambda x: 2 * x + 1, F.relu, lambda x: F.relu(x) + 0.5 * x])
def test_what_is_none_is_not_listed(act: Callable[[Tensor], Tensor]) -> None:
    assert not [other for other in discover(Net(act), SIZE).others if "written out" in other.reason]


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
