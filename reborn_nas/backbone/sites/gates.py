"""Site or gate: read off the data flow, never off names.

An activation lies inside a gate (squeeze-and-excitation, a dynamic weight) if and only if, at every first join
that its result reaches, it arrives as the broadcast-smaller operand of a multiplication or addition, or went
through a squashing function first, and the other operand does not descend from it. Without the last clause the
real activation in front of an efficient channel attention, x · σ(conv(mean(x))), would be taken for a gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from reborn_nas.backbone.sites.units import SQUASHING, Unit
from reborn_nas.backbone.trace.trace import Op, Trace

_BROADCASTING = frozenset({"mul", "add", "sub", "div", "truediv"})
_SHAPE_FROM_OTHER = frozenset({"expand_as", "view_as", "reshape_as", "type_as", "to"})
_SPREADING = frozenset({"expand", "expand_as", "repeat", "repeat_interleave", "tile"})
_RESIZING = frozenset({"interpolate", "upsample"})  # a factor when it multiplies, a feature when it is added
SPATIAL_ATTENTION = {
    "BatNonLocalAttn": "bilinear attention",
    "FocalModulation": "focal modulation",
    "LiteMLA": "linear attention",
    "SelectiveKernel": "selective kernel",
}


def live_values(trace: Trace) -> frozenset[int]:
    """Ids of the values that descend from the model's inputs."""
    live = set(trace.inputs)
    for op in trace.ops:
        if not live.isdisjoint(op.inputs):
            live.update(op.outputs)
    return frozenset(live)


def gate_reason(trace: Trace, unit: Unit, live: frozenset[int], classes: Mapping[str, str]) -> str | None:
    """Why the activation is no site, or None where it is one. `classes` maps module paths to class names."""
    if unit.activation in SQUASHING:
        return f"{unit.activation} bounds its result and serves as a gate or a weight, never as a site"
    for path in trace.ops[unit.first_op].stack:
        kind = classes.get(path, "")
        if kind in SPATIAL_ATTENTION:
            return f"inside {SPATIAL_ATTENTION[kind]} ({path}: {kind}), which weighs places, not features"
    if only_decides(trace, unit):
        return "its result is only compared or ranked; none of its numbers reaches a layer or an output"
    if is_gate(trace, unit, live):
        return "inside a gate: its result only scales or shifts a larger map"
    return None


def only_decides(trace: Trace, unit: Unit) -> bool:
    """Whether all that is made of the result are truth values and indices, as of overlaps between boxes."""
    outputs, seen, todo = set(trace.outputs), {unit.output}, [unit.output]
    decides = False
    while todo:
        value = todo.pop()
        if value in outputs:
            return False
        for op in trace.consumers(value):
            if any(trace.values[other].param is not None for other in op.inputs):
                return False
            decides = decides or not all(trace.values[made].floating for made in op.outputs)
            new = {made for made in op.outputs if trace.values[made].floating} - seen
            seen |= new
            todo += new
    return decides


def is_gate(trace: Trace, unit: Unit, live: frozenset[int]) -> bool:
    """Whether the activation lies inside a gate, by the rule at the head of this file."""
    joins = 0
    outputs = set(trace.outputs)
    seen: set[tuple[int, bool, str]] = set()
    # value, did it pass a squashing function, was it spread over the map or resized
    todo = [(unit.output, False, "")]
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        value, squashed, spread = state
        if value in outputs:
            return False
        for op in trace.consumers(value):
            others = _other_data(trace, op, value, live)
            if others is None:
                continue
            if not others:
                squash = squashed or op.name in SQUASHING
                wide = "spread" if op.name in _SPREADING else spread
                wide = wide or ("resized" if op.name in _RESIZING else "")
                todo += [(made, squash, wide) for made in op.outputs]
                continue
            if op.name in ("add", "sub") and _pooled(trace, value) and _alike(trace, value, others):
                todo += [(made, squashed, spread) for made in op.outputs]  # the branches of one gate
                continue
            joins += 1
            wide_enough = spread == "spread" or (spread == "resized" and op.name not in ("add", "sub"))
            smaller = op.name in _BROADCASTING and (wide_enough or _smaller(trace, value, others))
            if not (smaller or squashed) or _descends(trace, unit.output, others, op):
                return False
    return joins > 0


def _other_data(trace: Trace, op: Op, value: int, live: frozenset[int]) -> tuple[int, ...] | None:
    """The other numbers that the operation joins with `value`, not indices; None where `value` only lends its shape."""
    if op.name in _SHAPE_FROM_OTHER:
        return () if op.inputs[0] == value else None
    if op.inputs.count(value) > 1:
        return (value,)
    return tuple(
        other for other in op.inputs if other != value and other in live and trace.values[other].floating
    )


def _smaller(trace: Trace, value: int, others: tuple[int, ...]) -> bool:
    size = prod(trace.values[value].shape)
    return all(size < prod(trace.values[other].shape) for other in others)


def _pooled(trace: Trace, value: int) -> bool:
    """Whether the value is a map of one place, as global pooling leaves it."""
    shape = trace.values[value].shape
    return len(shape) > 2 and prod(shape[2:]) == 1


def _alike(trace: Trace, value: int, others: tuple[int, ...]) -> bool:
    return all(trace.values[other].shape == trace.values[value].shape for other in others)


def _descends(trace: Trace, ancestor: int, values: tuple[int, ...], until: Op) -> bool:
    """Whether one of `values` descends from `ancestor`, looking at the operations before `until`."""
    wanted = set(values)
    family = {ancestor}
    if ancestor in wanted:
        return True
    first = trace.producer(ancestor)
    for op in trace.ops[first.index + 1 if first else 0 : until.index]:
        if not family.isdisjoint(op.inputs):
            family.update(op.outputs)
            if not wanted.isdisjoint(op.outputs):
                return True
    return False
