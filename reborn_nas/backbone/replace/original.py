"""What stands at a site before conversion, as a module: its own, or one that computes what a functional call does."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.nn import functional

from reborn_nas.architecture import Choice
from reborn_nas.backbone.sites.site import Discovery, Site
from reborn_nas.backbone.trace.trace import Op, ValueRef

_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "rrelu": nn.RReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "tanhshrink": nn.Tanhshrink,
    "hardshrink": nn.Hardshrink,
    "softshrink": nn.Softshrink,
    "logsigmoid": nn.LogSigmoid,
}


def functional_original(found: Discovery, site: Site) -> str | None:
    """The `torch.nn` class and arguments that a functional site computes, as a label; None where there is none."""
    if site.path is not None:
        return None
    if site.is_formula or site.label is not None:
        return site.label
    for run in (found.eval_trace, found.train_trace):
        for op in run.ops if run is not None else ():
            if op.module == site.owner and op.span == site.span and op.inputs:
                return _label(op)
    return None


def module_of(label: str | None) -> nn.Module | None:
    """The module that `functional_original` named."""
    if label is None:
        return None
    choice = Choice.parse(label)
    made: nn.Module = getattr(nn, choice.name)(**choice.options)
    return made


def _label(op: Op) -> str | None:
    if op.name in ("clamp", "clamp_min", "maximum", "threshold"):
        return "ReLU" if op.name != "threshold" else None
    cls = _MODULES.get(op.name)
    if cls is None:
        return None
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
