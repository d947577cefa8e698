"""Both modes of a network, united: every activation unit with the name that it bears for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from reborn_nas.backbone.lexical import calls_named, position
from reborn_nas.backbone.spans import CallSpan
from reborn_nas.backbone.trace import Trace
from reborn_nas.backbone.units import Unit, find_units

Key = tuple[str, str, CallSpan | None, int]  # prefix, owner, span, iteration


@dataclass(frozen=True)
class Place:
    """One activation in the network's code, with its executions.

    Args:
        name: the site's name.
        kind: "module", "shared" or "functional".
        prefix: the name without its ordinal.
        span: its call, for shared and functional ones; also where a module's own call stands.
        iteration: which pass through a loop over that call, from 0.
        turns: how often one run of its owner passes that call, where more than once; else 0.
        runs: its executions in each trace.
    """

    name: str
    kind: str
    prefix: str
    span: CallSpan | None
    iteration: int
    turns: int
    runs: tuple[tuple[Unit, ...], ...]

    @property
    def first(self) -> Unit:
        """Its first execution, in eval mode where it has one."""
        return next(units[0] for units in self.runs if units)


def find_places(
    traces: Sequence[Trace], modules: Mapping[str, nn.Module], live: Sequence[frozenset[int]]
) -> tuple[Place, ...]:
    """All activations in execution order; one that only a later trace runs follows what ran before it there."""
    keyed: dict[Key, list[list[Unit]]] = {}
    order: list[Key] = []
    for number, units in enumerate(find_units(traces, modules, live)):
        before = -1
        for key, unit in _with_keys(units):
            if key not in keyed:
                keyed[key] = [[] for _ in traces]
                order.insert(before + 1, key)
            keyed[key][number].append(unit)
            before = order.index(key) if number else len(order) - 1
    names = _names(keyed)
    turns: dict[tuple[str, str, CallSpan | None], int] = {}
    for key in keyed:
        if key[3] > 0:
            turns[key[:3]] = max(turns.get(key[:3], 0), key[3] + 1)
    return tuple(
        Place(
            name=names[key],
            kind=_kind(key, names[key], keyed[key]),
            prefix=key[0],
            span=key[2],
            iteration=key[3],
            turns=turns.get(key[:3], 0),
            runs=tuple(tuple(units) for units in keyed[key]),
        )
        for key in order
    )


def _with_keys(units: Sequence[Unit]) -> list[tuple[Key, Unit]]:
    """Each unit with what tells its place: repeated runs of one owner are one place, passes of a loop are several."""
    passes: dict[tuple[str, int, CallSpan | None], int] = {}
    keyed = []
    for unit in units:
        span = unit.call.span if unit.call is not None else unit.op.span if unit.op is not None else None
        prefix = unit.path if unit.path is not None else f"{unit.owner}.{unit.name}".lstrip(".")
        # a functional relu and a module named relu may share a prefix, and then count together
        count = passes.get((prefix, unit.parent, span), 0)
        passes[prefix, unit.parent, span] = count + 1
        keyed.append(((prefix, unit.owner, span, count), unit))
    return keyed


def _kind(key: Key, name: str, runs: list[list[Unit]]) -> str:
    first = next(units[0] for units in runs if units)
    if first.path is None:
        return "functional"
    return "module" if name == key[0] else "shared"


def _names(keyed: Mapping[Key, list[list[Unit]]]) -> dict[Key, str]:
    groups: dict[str, list[Key]] = {}
    for key in keyed:
        groups.setdefault(key[0], []).append(key)
    names: dict[Key, str] = {}
    for prefix, keys in groups.items():
        firsts = {key: next(units[0] for units in keyed[key] if units) for key in keys}
        own = [key for key in keys if firsts[key].path is not None]
        ordinals = _ordinals(keys, firsts[keys[0]].name) if own != keys or len(keys) > 1 else {}
        for key in keys:
            names[key] = prefix if own == [key] else f"{prefix}@{ordinals[key]}"
    return names


def _ordinals(keys: Sequence[Key], name: str) -> dict[Key, int]:
    """The ordinal of each key among the calls of `name` in the source of the functions that ran.

    A call that a loop passes n times counts n times.
    """
    functions = sorted({(span.filename, span.first_line) for _, _, span, _ in keys if span is not None})
    slots: list[tuple[object, ...]] = []
    for filename, first_line in functions:
        here = {
            position(key[2])
            for key in keys
            if key[2] and (key[2].filename, key[2].first_line) == (filename, first_line)
        }
        lexical = set(calls_named(filename, first_line, name)) | here
        slots += [(filename, first_line, at) for at in sorted(lexical, key=lambda at: (at[2:], at[:2]))]
    held: dict[tuple[object, ...], list[Key]] = {}
    for key in keys:
        span = key[2]
        slot: tuple[object, ...] = ()  # without a place, and last
        if span is not None:
            slot = (span.filename, span.first_line, position(span))
        held.setdefault(slot, []).append(key)
    ordinals: dict[Key, int] = {}
    count = 0
    for place in [*slots, ()]:
        for key in held.get(place, ()):
            ordinals[key] = count
            count += 1
        count += place not in held
    return ordinals
