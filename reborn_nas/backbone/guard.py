"""The guard of conversion: what is put in must be heard, and nothing else may change.

Replacements never work in place, originals often do. A network that drops the result of an in-place activation, or
reads its input again under another name, would compute something else after conversion. So once for each network
every site gets a stand-in on a meta copy, the copy is run, and each stand-in's result must have the readers that the
original's had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import nn

from reborn_nas.architecture import Choice
from reborn_nas.backbone.apply import apply
from reborn_nas.backbone.events import Trace
from reborn_nas.backbone.plan import draw
from reborn_nas.backbone.replica import replicate
from reborn_nas.backbone.sites import Discovery, Site, site_values
from reborn_nas.backbone.trace import trace_double
from reborn_nas.errors import ConversionError

_STAND_IN = Choice("relu")  # out of place; the fastest on the meta device


def guard(model: nn.Module, found: Discovery) -> Mapping[str, str]:
    """Site → why nothing else can stand there although it could be put in. Found once and kept with the discovery."""
    kept = found.__dict__.get("_guard")
    if kept is None:
        kept = _guard(model, found)
        object.__setattr__(found, "_guard", kept)
    reasons: Mapping[str, str] = kept
    return reasons


def _guard(model: nn.Module, found: Discovery) -> dict[str, str]:
    sites = [site for site in found.sites if site.admits(_STAND_IN)]
    if all(site.kind == "module" and not site.inplace for site in sites):
        return {}
    double = replicate(model, "meta")
    steps = draw(double, found, {site.name: _STAND_IN for site in sites})
    apply(double, steps, inplace=True)
    paths = {placement.site: placement.path for placement in steps.placements}
    reasons: dict[str, str] = {}
    for before in (found.eval_trace, found.train_trace):
        if before is None or (before.training and not any(site.train_only for site in sites)):
            continue  # the modes differ in what only train mode runs
        try:
            after = trace_double(double, found.inputs, training=before.training)
        except ConversionError as error:
            raise ConversionError(f"once its activations work out of place, {error}") from error
        old = _Readers(before, {site.name: _runs(before, site) for site in sites})
        new = _Readers(after, {site.name: _calls(after, paths[site.name]) for site in sites})
        for site in sites:
            if old.of(site.name) != new.of(site.name):
                reasons.setdefault(
                    site.name,
                    f"it works in place, and {_named(old.of(site.name) - new.of(site.name))} would read what it "
                    "was given instead of its result; write x = activation(x) and use x from there on",
                )
    return reasons


class _Readers:
    """What reads the results of sites in one run.

    Args:
        executions: site → its executions: the operations inside, and the value that comes out.
    """

    def __init__(self, run: Trace, executions: Mapping[str, list[tuple[range, int]]]) -> None:
        self.run, self.executions = run, executions
        self._inside = {op: name for name, done in executions.items() for ops, _ in done for op in ops}

    def of(self, site: str) -> Counter[tuple[str, str]]:
        """(operation, module) of each reader; another site counts once, as it may become one operation or many."""
        readers: Counter[tuple[str, str]] = Counter()
        for _, value in self.executions[site]:
            sites = set()
            for op in self.run.consumers(value):
                if op.index in self._inside:
                    sites.add(self._inside[op.index])
                else:
                    readers[op.name, op.module] += op.inputs.count(value)
            readers.update(("the activation", name) for name in sites - {site})
            readers["the output", ""] += self.run.outputs.count(value)
        return +readers


def _runs(run: Trace, site: Site) -> list[tuple[range, int]]:
    found = []
    for _, output in site_values(run, site):
        if site.path is None:
            producer = run.producer(output)
            ops = range(0) if producer is None else range(producer.index, producer.index + 1)
        else:
            calls = [c for c in run.calls if c.path == site.path and output in c.outputs]
            ops = range(calls[0].first_op, calls[0].last_op + 1)
        found.append((ops, output))
    return found


def _calls(run: Trace, path: str) -> list[tuple[range, int]]:
    return [(range(c.first_op, c.last_op + 1), c.outputs[0]) for c in run.calls if c.path == path]


def _named(readers: Counter[tuple[str, str]]) -> str:
    names = [f"{name} in {module!r}" if module else name for name, module in readers]
    return ", ".join(names[:3]) or "something"
