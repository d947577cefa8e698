"""What several operations compute, found by numbers: whether it is a function of one number, and which one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reborn_nas.architecture import Choice
from reborn_nas.backbone.trace.trace import Op, Trace, ValueRef

_CLOSE = 1e-4
_NAMED: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "relu": ("ReLU", F.relu),
    "silu": ("SiLU", F.silu),
    "gelu": ("GELU", F.gelu),
    "gelu tanh": ("GELU(approximate=tanh)", lambda x: F.gelu(x, approximate="tanh")),
    "mish": ("Mish", F.mish),
    "hardswish": ("Hardswish", F.hardswish),
    "relu6": ("ReLU6", F.relu6),
    "elu": ("ELU", F.elu),
    "selu": ("SELU", F.selu),
    "softplus": ("Softplus", F.softplus),
    "tanh": ("Tanh", torch.tanh),
    "sigmoid": ("Sigmoid", torch.sigmoid),
    "hardsigmoid": ("Hardsigmoid", F.hardsigmoid),
}


class NotPointwise(Exception):
    """Why operations are no function of one number at every place of one map."""


def probe(run: Trace, ops: Sequence[Op], source: int) -> tuple[str, str | None] | None:
    """What `ops` make of the value `source`: the activation's name, and its `torch.nn` class as a label or None.

    A name of "other:formula" stands for a function that is none of the known ones; None for a straight line.

    Raises:
        NotPointwise: with the reason.
    """
    x = torch.linspace(-8, 8, 129, dtype=torch.float64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    y = _computed(run, ops, source, x)
    for part in (order, order[:40]):
        if not torch.allclose(_computed(run, ops, source, x[part]), y[part], equal_nan=True):
            raise NotPointwise("what it makes of one number depends on the others")
    for name, (label, function) in _NAMED.items():
        if torch.allclose(y, function(x), rtol=_CLOSE, atol=_CLOSE):
            return name.split()[0], label
    slope = round(float(y[0] / x[0]), 4)
    if 0 < slope < 1 and torch.allclose(y, F.leaky_relu(x, slope), rtol=_CLOSE, atol=_CLOSE):
        return "leaky_relu", Choice("LeakyReLU", negative_slope=slope).label
    line = y[0] + (y[-1] - y[0]) * (x - x[0]) / (x[-1] - x[0])
    return None if torch.allclose(y, line) else ("other:formula", None)


def has_own_derivative(function: Any, given: Sequence[Any], source: int) -> bool:
    """Whether backward of a `torch.autograd.Function` is the derivative of its forward.

    Args:
        given: what it is applied to; a reference to the value `source` stands for the map.
    """
    x = torch.linspace(-8.03, 8.01, 129, dtype=torch.float64)
    step = 1e-4

    def at(points: Tensor) -> Tensor:
        arguments = [points if each == ValueRef(source) else each for each in given]
        made: Tensor = function.apply(*arguments)
        return made

    try:
        with torch.enable_grad():
            points = x.clone().requires_grad_()
            (mine,) = torch.autograd.grad(at(points).sum(), points)
        with torch.no_grad():
            rise, fall = (at(x + step) - at(x)) / step, (at(x) - at(x - step)) / step
    except Exception:
        return False
    smooth = (rise - fall).abs() < 0.05
    return bool(smooth.sum() > len(x) * 3 // 4 and ((mine - (rise + fall) / 2).abs()[smooth] < 0.02).all())


def parameters_of(run: Trace, ops: Sequence[Op], source: int) -> list[str]:
    """Names of the parameters and buffers that `ops` read besides the value `source`, directly or not."""
    made = {source, *(value for op in ops for value in op.outputs)}
    names: dict[str, None] = {}
    todo = [value for op in ops for value in op.inputs if value not in made]
    seen = set(todo)
    while todo:
        value = todo.pop()
        param, op = run.values[value].param, run.producer(value)
        if param is not None:
            names[param] = None
        for given in () if op is None else op.inputs:
            if given not in seen and given not in made:
                seen.add(given)
                todo.append(given)
    return list(names)


def _computed(run: Trace, ops: Sequence[Op], source: int, x: Tensor) -> Tensor:
    values: dict[int, Any] = {source: x.clone()}
    with torch.no_grad():
        try:
            for op in ops:
                values[op.outputs[0]] = _replayed(run, op, values)
            y = values[ops[-1].outputs[0]]
        except NotPointwise:
            raise
        except Exception as error:
            raise NotPointwise(
                f"what it computes cannot be found by probing ({type(error).__name__})"
            ) from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        raise NotPointwise("its result has another shape than the map")
    return y.double()


def _replayed(run: Trace, op: Op, values: dict[int, Any]) -> Any:
    def given(argument: Any) -> Any:
        if isinstance(argument, ValueRef):
            if argument.id not in values:
                values[argument.id] = _constant(run, argument.id, values)
            return values[argument.id]
        if isinstance(argument, tuple | list):
            return type(argument)(given(item) for item in argument)
        return argument

    if op.name == "setitem":
        written: Tensor = given(op.args[0]).clone()
        written[given(op.args[1])] = given(op.args[2])
        return written
    raw = op.raw or op.name
    owners = (
        (torch, F, Tensor) if raw in ("where", "maximum", "minimum", "max", "min") else (Tensor, torch, F)
    )
    function = next((found for owner in owners if (found := getattr(owner, raw, None)) is not None), None)
    if function is None:
        raise NotPointwise(f"{op.name} cannot be probed")
    kwargs = {
        key: given(value)
        for key, value in op.kwargs.items()
        if key not in ("device", "out", "layout", "pin_memory")
    }
    return function(*(given(argument) for argument in op.args), **kwargs)


def _constant(run: Trace, value: int, values: dict[int, Any]) -> Any:
    """A tensor that does not come from the map, made as the network made it."""
    op = run.producer(value)
    if op is None:
        raise NotPointwise("it reads a tensor that is neither made in the forward nor the map")
    made = _replayed(run, op, values)
    return made if isinstance(made, Tensor) else made[op.outputs.index(value)]
