"""Activations that are not sites, each with the reason: gates, comparisons, formulas that no module can replace.

Sites and gates are distinguished by the data flow, never by names. An activation lies inside a gate
(squeeze-and-excitation, a dynamic weight) if and only if at every first join with other data its result is the
broadcast-smaller operand of a multiplication or addition, or passed a squashing function before, and the other operand
does not depend on it. The last condition is necessary: without it, the activation before an efficient channel
attention, x · σ(conv(mean(x))), would be taken for a gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from torch import nn

from reborn_nas.activations import BLOCKS
from reborn_nas.backbone.sites.formulas import Formula, find_formulas
from reborn_nas.backbone.sites.site import NonSite
from reborn_nas.backbone.sites.units import Unit, activation_name
from reborn_nas.backbone.trace.graph import CallSpan, Op, Trace
from reborn_nas.backbone.trace.ops import operation

SPATIAL_ATTENTION = {
    "BatNonLocalAttn": "bilinear attention",
    "FocalModulation": "focal modulation",
    "LiteMLA": "linear attention",
    "SelectiveKernel": "selective kernel",
}


def live_values(trace: Trace) -> frozenset[int]:
    """Ids of the values that depend on the model's inputs."""
    live = set(trace.inputs)
    for op in trace.ops:
        if not live.isdisjoint(op.inputs):
            live.update(op.outputs)
    return frozenset(live)


def gate_reason(trace: Trace, unit: Unit, live: frozenset[int], classes: Mapping[str, str]) -> str | None:
    """The reason why the activation is not a site, or None. `classes` maps module paths to class names."""
    if operation(unit.activation).squashes:
        return f"{unit.activation} bounds its result and serves as a gate or a weight, never as a site"
    for path in trace.ops[unit.first_op].stack:
        kind = classes.get(path, "")
        if kind in SPATIAL_ATTENTION:
            return f"inside {SPATIAL_ATTENTION[kind]} ({path}: {kind}), which weighs places, not features"
    if only_decides(trace, unit):
        return "its result is only compared or ranked; no layer or output uses its values"
    if is_gate(trace, unit, live):
        return "inside a gate: its result only scales or shifts a larger map"
    return None


def only_decides(trace: Trace, unit: Unit) -> bool:
    """Whether only booleans and indices are computed from the result, as from overlaps of boxes."""
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
    """Whether the activation lies inside a gate, by the rule in the module's docstring."""
    joins = 0
    outputs = set(trace.outputs)
    seen: set[tuple[int, bool, str]] = set()
    # value, whether it passed a squashing function, whether it was spread over the map or resized
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
                squash = squashed or operation(op.name).squashes
                wide = "spread" if operation(op.name).spreads else spread
                wide = wide or ("resized" if operation(op.name).resizes else "")
                todo += [(made, squash, wide) for made in op.outputs]
                continue
            if op.name in ("add", "sub") and _pooled(trace, value) and _alike(trace, value, others):
                todo += [(made, squashed, spread) for made in op.outputs]  # branches of one gate
                continue
            joins += 1
            wide_enough = spread == "spread" or (spread == "resized" and op.name not in ("add", "sub"))
            smaller = operation(op.name).broadcasts and (wide_enough or _smaller(trace, value, others))
            if not (smaller or squashed) or _descends(trace, unit.output, others, op):
                return False
    return joins > 0


def _other_data(trace: Trace, op: Op, value: int, live: frozenset[int]) -> tuple[int, ...] | None:
    """The other operands of the operation, except indices; None if only the shape of `value` is used."""
    if operation(op.name).lends_shape:
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
    """Whether the value is a map of one position, as after global pooling."""
    shape = trace.values[value].shape
    return len(shape) > 2 and prod(shape[2:]) == 1


def _alike(trace: Trace, value: int, others: tuple[int, ...]) -> bool:
    return all(trace.values[other].shape == trace.values[value].shape for other in others)


def _descends(trace: Trace, ancestor: int, values: tuple[int, ...], until: Op) -> bool:
    """Whether one of `values` depends on `ancestor`, by operations before `until`."""
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


def with_formulas(
    traces: Sequence[Trace], units: Sequence[Sequence[Unit]], live: Sequence[frozenset[int]]
) -> tuple[tuple[tuple[Unit, ...], ...], tuple[tuple[Formula, ...], ...]]:
    """The activation units of each run, including expressions, in execution order; and the other formulas."""
    merged, listed = [], []
    for run, own, alive in zip(traces, units, live):
        found = find_formulas(run, alive, own)
        taken = {op.index for each in found if each.unit.expression is not None for op in each.unit.ops}
        kept = [unit for unit in own if not taken.issuperset(range(unit.first_op, unit.last_op + 1))]
        kept += [each.unit for each in found if each.reason is None]
        merged.append(tuple(sorted(kept, key=lambda unit: unit.first_op)))
        listed.append(tuple(each for each in found if each.reason is not None))
    return tuple(merged), tuple(listed)


def written_out(traces: Sequence[Trace], formulas: Sequence[Sequence[Formula]]) -> list[NonSite]:
    """The activations of several operations that no module can replace, from `with_formulas`."""
    found: dict[str, NonSite] = {}
    for run, listed in zip(traces, formulas):
        for number, formula in enumerate(listed):
            unit, last = formula.unit, formula.unit.ops[-1]
            place = f" ({last.span.place})" if last.span is not None else ""
            known = unit.activation.removeprefix("other:")
            call = "a module" if known == "formula" else f"F.{known} or a module"
            name = f"{unit.owner}.{last.name}@formula{number}".lstrip(".")
            reason = f"it is written out in several operations{place}, and {formula.reason}; call {call}"
            shape = run.values[unit.output].shape[1:]
            found.setdefault(name, NonSite(name, unit.activation, tuple(shape), reason))
    return list(found.values())


def outside_torch(traces: tuple[Trace, ...], live: tuple[frozenset[int], ...]) -> list[NonSite]:
    """The activations of values computed outside of torch, such as a map that passed through numpy."""
    found: dict[tuple[str, CallSpan | None], NonSite] = {}
    for run, alive in zip(traces, live):
        foreign = _foreign(run) - alive
        for op in run.ops:
            if foreign.isdisjoint(op.inputs):
                continue
            foreign.update(value for value in op.outputs if value not in alive)
            name = activation_name(op)
            where = f"{op.module}.{op.name}".lstrip(".")
            if name is None or not alive.isdisjoint(op.inputs) or (where, op.span) in found:
                continue
            place = f" ({op.span.place})" if op.span is not None else ""
            reason = (
                f"its input{place} is not computed from the network's input by torch operations only (numpy, lists of "
                "numbers, torch.vmap); use tensors only, or convert the inner network separately"
            )
            number = sum(known == where for known, _ in found)
            shape = run.values[op.outputs[0]].shape[1:]
            found[where, op.span] = NonSite(f"{where}@unseen{number}", name, tuple(shape), reason)
    return list(found.values())


def _foreign(run: Trace) -> set[int]:
    """Numeric values that are not results of operations on tensors, inputs or parameters."""
    made = {
        value for op in run.ops for value in op.outputs if op.inputs or not operation(op.name).from_numbers
    }
    known = made | set(run.inputs)
    return {
        value.id for value in run.values if value.param is None and value.floating and value.id not in known
    }


def fused_norms(modules: Mapping[str, nn.Module]) -> tuple[NonSite, ...]:
    """Norms with a built-in activation, and doubled blocks of an earlier conversion: nothing can be replaced."""
    found = []
    for path, module in modules.items():
        kind = type(module).__name__
        if kind.startswith("EvoNorm") and getattr(module, "apply_act", True):
            reason = "EvoNorm normalises and activates in one formula; it holds no activation to replace"
        elif kind.startswith("FilterResponseNormTlu"):
            reason = "the learned threshold of FRN is part of the norm; it holds no activation to replace"
        elif isinstance(module, BLOCKS) and getattr(module, "out_channels", 0) != module.channels:
            reason = "an earlier conversion doubled its channels and widened its readers; convert the original network"
        else:
            continue
        found.append(NonSite(path, f"other:{kind}", (), reason))
    return tuple(found)
