"""Activations that a forward writes out: x · σ(x), y · (y > 0), where(y > 0, y, 0.1 · y).

Such a formula is recognised by what it is, several operations that together make a point-wise function of one map, and
named by its values. No one call could be replaced by a module, so it is no site; it is listed, with the way out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reborn_nas.backbone.trace import Op, Trace, ValueRef
from reborn_nas.backbone.units import POINTWISE, RELU_LIKE, SQUASHING

_COMPARING = frozenset({"gt", "ge", "lt", "le", "sign", "heaviside"})
_BENDING = (
    SQUASHING | _COMPARING | {"where", "maximum", "minimum", "max", "min", "abs", "exp", "erf", "clamp"}
)
_STEPS = POINTWISE | _BENDING | {"clip", "type", "bool", "logical_not"}
_JOINING = frozenset({"mul", "add", "sub", "div", "truediv", "where", "maximum", "minimum", "max", "min"})
_NAMED: Mapping[str, Any] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "relu6": F.relu6,
    "elu": F.elu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class Formula:
    """One activation that is written out.

    Args:
        owner: path of the module whose forward does so.
        activation: what it computes, such as "silu" or "leaky_relu"; "other:formula" where it is none that is known.
        op: the last operation.
    """

    owner: str
    activation: str
    op: Op


@dataclass(frozen=True)
class _Derived:
    source: int
    ops: tuple[Op, ...]


def find_formulas(run: Trace, live: Collection[int], taken: Collection[int]) -> Iterator[Formula]:
    """The formulas of a run.

    Args:
        live: values that descend from the network's inputs.
        taken: indices of operations that belong to activations found otherwise, squashing functions aside.
    """
    derived: dict[int, _Derived] = {}
    zeros = {value for op in run.ops if op.name in ("zeros_like", "new_zeros") for value in op.outputs}
    live = {value for value in live if value not in zeros}
    last: dict[tuple[int, int], tuple[int, _Derived]] = {}  # (call, source) -> the longest formula so far
    for op in run.ops:
        inputs = [value for value in op.inputs if value in live]
        if not inputs or op.index in taken or op.name not in _STEPS or len(op.outputs) != 1:
            continue
        made = _joined(run, op, inputs, derived)
        if made is None:
            continue
        derived[op.outputs[0]] = made
        if _is_formula(made, live):
            last[op.call, made.source] = (op.outputs[0], made)
    for (_, source), (value, made) in last.items():
        if any(user.index not in {op.index for op in made.ops} for user in run.consumers(value)) or (
            value in run.outputs
        ):
            yield Formula(made.ops[-1].module, _named(source, made.ops), made.ops[-1])


def _joined(run: Trace, op: Op, inputs: Sequence[int], derived: Mapping[int, _Derived]) -> _Derived | None:
    """What `op` makes, as a function of one earlier value of the same module call; None where it is none."""
    sources = []
    for value in inputs:
        known = derived.get(value)
        here = known is not None and known.ops[-1].call == op.call
        sources.append({value, known.source} if known is not None and here else {value})
    common = set.intersection(*sources)
    if not common or run.values[op.outputs[0]].shape != run.values[inputs[0]].shape:
        return None
    whole = [source for source in common if all(source in each for each in sources)]
    source = min(whole)
    ops: dict[int, Op] = {}
    for value in inputs:
        known = derived.get(value)
        if value != source and known is not None:
            ops.update({each.index: each for each in known.ops})
    return _Derived(source, (*(ops[index] for index in sorted(ops)), op))


def _is_formula(made: _Derived, live: Collection[int]) -> bool:
    last = made.ops[-1]
    if last.name not in _JOINING or last.name in RELU_LIKE:
        return False
    several = sum(value in live for value in last.inputs) > 1
    bends = any(op.name in _BENDING for op in made.ops)
    alone = last.name in ("maximum", "minimum", "where") and len(made.ops) == 1
    return bends and (several or alone)


def _named(source: int, ops: Sequence[Op]) -> str:
    """The activation that the operations compute, found by its values."""
    x = torch.linspace(-6, 6, 97, dtype=torch.float64)
    values: dict[int, Any] = {source: x}
    try:
        for op in ops:
            values[op.outputs[0]] = _replayed(op, values)
        y = values[ops[-1].outputs[0]]
        for name, function in _NAMED.items():
            if torch.allclose(y, function(x), atol=1e-3):
                return name
        slope = float(y[0] / x[0])
        if 0 < slope < 1 and torch.allclose(y, F.leaky_relu(x, slope), atol=1e-3):
            return "leaky_relu"
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        pass
    return "other:formula"


def _replayed(op: Op, values: Mapping[int, Any]) -> Any:
    def given(argument: Any) -> Any:
        if isinstance(argument, ValueRef):
            # a tensor that does not descend from the input, such as torch.zeros(()), counts as zero
            return values.get(argument.id, torch.zeros((), dtype=torch.float64))
        return argument

    name = {"truediv": "true_divide"}.get(op.name, op.name)
    function = getattr(Tensor, name, None) or getattr(torch, name, None) or getattr(F, name)
    if name == "where":
        function = torch.where
    kwargs = {key: given(value) for key, value in op.kwargs.items() if key not in ("inplace", "out")}
    return function(*(given(argument) for argument in op.args), **kwargs)
