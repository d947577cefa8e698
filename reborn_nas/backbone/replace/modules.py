"""Modules that conversion adds to an activation: gains, clones, and the originals of functional calls.

Networks without normalisation scale each activation's output to variance one, so a replacement needs its own gain.
timm's NFNets have the gain in `GammaAct` after the activation, nf_resnet has it in `ScaledStdConv2d.scale` of the next
convolution (Brock, De & Smith, "Characterizing signal propagation …", 2021, Sec. 4.2).
"""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import torch
from timm.models.nfnet import GammaAct, _nonlin_gamma
from torch import Tensor, nn
from torch.nn import functional

from reborn_nas.architecture import Choice
from reborn_nas.backbone.sites.site import WRITTEN
from reborn_nas.backbone.trace.graph import Op, ValueRef
from reborn_nas.backbone.trace.ops import module_class, operation


class Gained(nn.Module):
    """An activation followed by a gain: (B, C, H, W) → gamma · activation(x)."""

    def __init__(self, act: nn.Module, gamma: float) -> None:
        super().__init__()
        self.act = act
        self.gamma = gamma
        self.channels: int = getattr(act, "channels", 0)
        self.out_channels: int = getattr(act, "out_channels", 0)

    def forward(self, x: Tensor) -> Tensor:
        """Activate, then scale."""
        y: Tensor = self.act(x).mul(self.gamma)
        return y

    def extra_repr(self) -> str:
        """The gain."""
        return f"gamma={self.gamma:.4g}"


def without_gain(original: nn.Module) -> tuple[nn.Module, float | None]:
    """The activation without its gain, and the gain; the module and None if it has none."""
    if not isinstance(original, GammaAct):
        return original, None
    plain = copy.copy(original)
    plain.gamma = 1.0
    return plain, float(original.gamma)


def gain_of(choice: Choice, built: nn.Module) -> float | None:
    """The gain that belongs to an activation without weights; None for one with weights, which learns its scale."""
    if choice.name == "leaky_relu" and choice.options.get("negative_slope") != 0.01:
        return _measured(built)
    if choice.name in _nonlin_gamma:
        return float(_nonlin_gamma[choice.name])
    if any(True for _ in built.parameters()) or choice.name == "rrelu":
        return None
    return _measured(built)


def _measured(module: nn.Module) -> float:
    with (
        torch.device("cpu"),
        torch.no_grad(),
    ):  # a plan is tried out on the meta device
        levels = (torch.arange(20001, dtype=torch.float64) + 0.5) / 20001
        y = copy.deepcopy(module).double().eval()(torch.special.ndtri(levels).view(1, 1, 1, -1))
    return 1.0 / math.sqrt(float(y.var(unbiased=False)))


KEPT = "kept"
"""The `function` of a placement that keeps the expression in the source."""


class Kept(nn.Module):
    """Placeholder in a list of activations for an iteration that keeps the original expression; never called."""

    kept = True


class Cloned(nn.Module):
    """An activation whose input or output is overwritten later, and therefore cloned.

    Backward reads what the activation saved, which would otherwise be overwritten. A clone costs the memory and time of
    one map.

    Args:
        act: the activation.
        what: "input", "output" or "both"; or "written": the activation works in place, like the original, on a map
            that is also read under another name.
    """

    def __init__(self, act: nn.Module, what: str) -> None:
        super().__init__()
        self.act = act
        self.what = what
        self.channels: int = getattr(act, "channels", 0)
        self.out_channels: int = getattr(act, "out_channels", 0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) → the activation's output."""
        y: Tensor = self.act(x if self.what == "output" else x.clone())
        if self.what == WRITTEN:
            return x.copy_(y)
        return y if self.what == "input" else y.clone()

    def extra_repr(self) -> str:
        """The cloned tensors."""
        return self.what


def module_of(label: str | None) -> nn.Module | None:
    """The module of a label of `functional_original`."""
    if label is None:
        return None
    choice = Choice.parse(label)
    made: nn.Module = getattr(nn, choice.name)(**choice.options)
    return made


def module_label(op: Op) -> str | None:
    if op.name in ("clamp", "clamp_min", "maximum", "threshold"):
        return "ReLU" if op.name != "threshold" else None
    if not operation(op.name).module:
        return None
    cls: type[nn.Module] = getattr(nn, module_class(op.name))
    values = _bound(op)
    if values is None:
        return cls.__name__ if len(op.args) + len(op.kwargs) <= 1 else None
    taken = inspect.signature(cls.__init__).parameters
    options = {
        key: value
        for key, value in values.items()
        if key in taken and key != "inplace" and isinstance(value, str | int | float | bool)
    }
    return Choice(cls.__name__, **options).label


def _bound(op: Op) -> dict[str, Any] | None:
    function = getattr(functional, op.name, None)
    try:
        bound = inspect.signature(function).bind(*op.args, **dict(op.kwargs))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return {key: value for key, value in bound.arguments.items() if not isinstance(value, ValueRef)}
