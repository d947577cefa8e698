"""What looks like an activation and is no site, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from reborn_nas.activations import BLOCKS
from reborn_nas.backbone.sites.formulas import Formula, find_formulas
from reborn_nas.backbone.sites.units import Unit, activation_name
from reborn_nas.backbone.trace.spans import CallSpan
from reborn_nas.backbone.trace.trace import Trace

_FROM_NUMBERS = frozenset({"tensor", "as_tensor", "asarray", "from_numpy", "frombuffer"})


@dataclass(frozen=True)
class NonSite:
    """An activation that is deliberately no site, with the reason."""

    name: str
    activation: str
    shape: tuple[int, ...]
    reason: str


def with_formulas(
    traces: Sequence[Trace], units: Sequence[Sequence[Unit]], live: Sequence[frozenset[int]]
) -> tuple[tuple[tuple[Unit, ...], ...], tuple[tuple[Formula, ...], ...]]:
    """The activation units of each run with those that are expressions, in execution order; and what is only listed."""
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
    """Activations of several operations that no module can take the place of, as `with_formulas` gave them."""
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


def out_of_sight(traces: tuple[Trace, ...], live: tuple[frozenset[int], ...]) -> list[NonSite]:
    """Activations on values that come from outside of torch, such as a map that went through numpy."""
    found: dict[tuple[str, CallSpan | None], NonSite] = {}
    for run, alive in zip(traces, live):
        strange = _strange(run) - alive
        for op in run.ops:
            if strange.isdisjoint(op.inputs):
                continue
            strange.update(value for value in op.outputs if value not in alive)
            name = activation_name(op)
            where = f"{op.module}.{op.name}".lstrip(".")
            if name is None or not alive.isdisjoint(op.inputs) or (where, op.span) in found:
                continue
            place = f" ({op.span.place})" if op.span is not None else ""
            reason = (
                f"what it acts on{place} does not come from the input by operations of torch alone (numpy, lists of "
                "numbers, torch.vmap); stay with tensors, or convert what is inside by itself"
            )
            number = sum(known == where for known, _ in found)
            shape = run.values[op.outputs[0]].shape[1:]
            found[where, op.span] = NonSite(f"{where}@unseen{number}", name, tuple(shape), reason)
    return list(found.values())


def _strange(run: Trace) -> set[int]:
    """Values of numbers that no operation made of tensors, neither inputs nor parameters."""
    made = {value for op in run.ops for value in op.outputs if op.inputs or op.name not in _FROM_NUMBERS}
    known = made | set(run.inputs)
    return {
        value.id for value in run.values if value.param is None and value.floating and value.id not in known
    }


def fused_norms(modules: Mapping[str, nn.Module]) -> tuple[NonSite, ...]:
    """Norms that activate by themselves and doubled blocks of an earlier conversion: there is nothing to replace."""
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
