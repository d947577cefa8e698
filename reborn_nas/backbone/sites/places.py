"""The activations of all modes, each with its final name and its block."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from reborn_nas.backbone.sites.units import Unit
from reborn_nas.backbone.trace.call_site import calls_named, position
from reborn_nas.backbone.trace.graph import CallSpan, Trace

Key = tuple[str, str, CallSpan | None, int]  # prefix, owner, span, iteration


Call = tuple[str, str, CallSpan | None]  # prefix, owner, span


@dataclass(frozen=True)
class Place:
    """An activation in the network's code, with its executions.

    Args:
        name: name of the site.
        kind: "module", "shared" or "functional".
        prefix: the name without its ordinal.
        span: its call; for a module, the call of that module.
        iteration: index of the pass of a loop over that call, from 0.
        turns: how often one run of its owner executes that call, if more than once, else 0.
        repeated: whether all passes are this place, since all act on results of the same layer.
        runs: executions in each trace.
    """

    name: str
    kind: str
    prefix: str
    span: CallSpan | None
    iteration: int
    turns: int
    repeated: bool
    runs: tuple[tuple[Unit, ...], ...]

    @property
    def mode(self) -> int:
        """Index of the first trace that runs it: 0, or 1 if it runs in train mode only."""
        return next(number for number, units in enumerate(self.runs) if units)

    @property
    def first(self) -> Unit:
        """Its first execution, in eval mode if possible."""
        return self.runs[self.mode][0]


def find_places(traces: Sequence[Trace], found: Sequence[Sequence[Unit]]) -> tuple[Place, ...]:
    """All activations in execution order; those of a later trace only follow their predecessor there.

    Args:
        found: the activation units of each trace.
    """
    keyed: dict[Key, list[list[Unit]]] = {}
    order: list[Key] = []
    repeated = _repeated(traces, found)
    for number, units in enumerate(found):
        before = -1
        for key, unit in _with_keys(units, repeated):
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
            repeated=key[:3] in repeated,
            runs=tuple(tuple(units) for units in keyed[key]),
        )
        for key in order
    )


def _with_keys(units: Sequence[Unit], repeated: Collection[Call]) -> list[tuple[Key, Unit]]:
    """Each unit with the key of its place: repeated runs of one owner are one place, passes of a loop several."""
    passes: dict[tuple[Call, int], int] = {}
    keyed = []
    for unit in units:
        call = _call(unit)
        # a functional relu and a module named relu may share a prefix, and are then counted together
        count = passes.get((call, unit.parent), 0)
        passes[call, unit.parent] = count + 1
        keyed.append(((*call, 0 if call in repeated else count), unit))
    return keyed


def _call(unit: Unit) -> Call:
    span = unit.call.span if unit.call is not None else unit.op.span if unit.op is not None else None
    prefix = unit.path if unit.path is not None else f"{unit.owner}.{unit.name}".lstrip(".")
    return prefix, unit.owner, span


def _repeated(traces: Sequence[Trace], found: Sequence[Sequence[Unit]]) -> set[Call]:
    """Calls that run several times on results of one layer: for the images of a batch, or the steps of a recurrence.

    All their passes are one place; passes after different layers are separate places.
    """
    passes: dict[tuple[int, Call, int], list[Unit]] = {}
    for number, units in enumerate(found):
        for unit in units:
            passes.setdefault((number, _call(unit), unit.parent), []).append(unit)
    several = {call for (_, call, _), units in passes.items() if len(units) > 1}
    sources: dict[Call, set[frozenset[str]]] = {}
    for (number, call, _), units in passes.items():
        if call in several:
            sources.setdefault(call, set()).update(_layers(traces[number], unit.input) for unit in units)
    return {
        call
        for call, layers in sources.items()
        if call[2] is not None and len(layers) == 1 and not any("input" in names for names in layers)
    }


def _layers(run: Trace, value: int) -> frozenset[str]:
    """Names of the parameters of the last layers before the value."""
    names: set[str] = set()
    todo, seen = [value], {value}
    while todo:
        op = run.producer(todo.pop())
        if op is None:
            names.add("input")
            continue
        params = [name for given in op.inputs if (name := run.values[given].param) is not None]
        names.update(params)
        for given in () if params else op.inputs:
            if given not in seen:
                seen.add(given)
                todo.append(given)
    return frozenset(names)


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
    """The ordinal of each key among the calls of `name` in the source of the executed functions.

    A call that a loop executes n times counts n times.
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


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


class BlockFinder:
    """Finds the block of a module path; counts each module's weighted layers once.

    From the model downwards, plain containers are skipped, and so are stages: modules that hold blocks (modules with
    two or more convolutions) of one class, or containers of such blocks. The next module is the block.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._weighted: dict[str, int] = {}
        for path, module in modules.items():
            if isinstance(module, _WEIGHTED):
                parts = path.split(".")
                for end in range(1, len(parts) + 1):
                    prefix = ".".join(parts[:end])
                    self._weighted[prefix] = self._weighted.get(prefix, 0) + 1

    def block(self, path: str) -> str:
        """The path of the block that contains the module at `path`; "" for the model's own forward."""
        parts = path.split(".") if path else []
        for end in range(1, len(parts)):
            here, below = ".".join(parts[:end]), ".".join(parts[: end + 1])
            if not self._is_stage(here, below, ".".join(parts[: end + 2])):
                return here
        return path

    def _is_stage(self, here: str, below: str, inner: str) -> bool:
        module, child = self._modules.get(here), self._modules.get(below)
        if type(module) in _CONTAINERS or (
            isinstance(module, _CONTAINERS) and self._weighted.get(below, 0) >= 2
        ):
            return True
        if module is None or child is None:
            return False
        if type(child) in _CONTAINERS:
            return inner != below and self._weighted.get(inner, 0) >= 2
        if self._weighted.get(below, 0) < 2:
            return False
        sizes = [name for name, other in module.named_children() if type(other) is type(child)]
        return len(sizes) >= 2 and all(self._weighted.get(f"{here}.{name}", 0) >= 2 for name in sizes)
