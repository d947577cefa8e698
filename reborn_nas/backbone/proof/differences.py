"""Differences between two programs or their values, the sites that cause them, and messages about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reborn_nas.backbone.proof.program import Event, Program
from reborn_nas.backbone.sites.site import Site
from reborn_nas.backbone.trace.replica import tensors_in

_APART = "give each use its own activation module (self.acts[i])"


_OUT_OF_PLACE = "write x = activation(x), with an activation that does not work in place"


_BY_NAME = "access the needed modules and parameters by name, without testing for their classes"


@dataclass(frozen=True)
class Difference:
    """The first event at which the programs of the original and of the converted network differ.

    Args:
        before: program of the original network.
        after: program of the converted network.
        index: index of the event.
    """

    before: Program
    after: Program
    index: int

    @property
    def lost(self) -> set[str]:
        """Sites whose results only the original network reads there."""
        old, new = _event(self.before, self.index), _event(self.after, self.index)
        if old is None or new is None or old[:2] != new[:2]:
            return set()
        return {self._name(label) for label in _labels(old) - _labels(new) if isinstance(label, tuple)}

    def blame(self, sites: Sequence[Site], modules: Mapping[str, nn.Module]) -> dict[str, str]:
        """Site → fault, for at least one of `sites`."""
        by_name = {site.name: site for site in sites}
        names, what, way_out = self._suspects()
        blamed = [by_name[name] for name in names if name in by_name]
        # a replaced module has the same role; an edited call may have another
        blamed = [site for site in blamed if site.kind != "module"] or blamed or self._nearby(sites)
        widened = [
            site for site in sites if any(site is other or _same_loop(site, other) for other in blamed)
        ]
        if all(site.kind == "module" for site in blamed) and way_out == _APART:
            way_out = _BY_NAME  # the call of a module is not edited: the code around it inspects modules
        return {site.name: f"{place_of(site, modules)}: {what}; {way_out}" for site in widened}

    def _suspects(self) -> tuple[list[str], str, str]:
        """Sites named by the events, what differs, and how to fix it."""
        old, new = _event(self.before, self.index), _event(self.after, self.index)
        if new is None and self.after.error is not None:
            return [], f"the converted network fails: {first_line(self.after.error)}", _APART
        if new is not None and (joined := self._joined(new)):
            what = f"after conversion {self._described(new)} would also read {joined}, which the activation brings"
            return [], what, _BY_NAME
        if old is not None and new is not None and old[:2] == new[:2] and old[0] in ("op", "site", "return"):
            return self._other_operands(old, new)
        names = [event[1] for event in (old, new) if event is not None and event[0] == "site"]
        then = "nothing" if new is None else self._described(new)
        now = "nothing" if old is None else self._described(old)
        return names, f"after conversion {then} would run where the network runs {now}", _APART

    def _other_operands(self, old: Event, new: Event) -> tuple[list[str], str, str]:
        """`_suspects` for one operation with other operands."""
        mine, theirs = _labels(old), _labels(new)
        names = sorted(
            {self._name(label) for label in mine ^ theirs if isinstance(label, tuple)}
            | ({old[1]} if old[0] == "site" and mine == theirs else set())
        )
        reader = self._described(old)
        if self.lost:
            lost = ", ".join(map(repr, sorted(self.lost)[:3]))
            what = (
                f"after conversion {reader} would not read the result of {lost}, which "
                "the original writes over a value that is in use under another name"
            )
            return names, what, _OUT_OF_PLACE
        more = [label for label in theirs - mine if isinstance(label, str)]
        given = ", ".join(map(repr, sorted(more)[:3])) or "something else"
        return names, f"after conversion {reader} would read {given}", _APART

    def _joined(self, new: Event) -> str:
        """Text on parameters of new activations that other operations read."""
        names = {label for label in _labels(new) if isinstance(label, str)} if new[0] == "op" else set()
        joined = (names & self.after.known) - self.before.known
        return ", ".join(repr(name) for name in sorted(joined)[:3])

    def _nearby(self, sites: Sequence[Site]) -> list[Site]:
        """Sites of the running modules: those in loops if any, else those with an edited call, else all."""
        stack = self.before.stack(min(self.index, len(self.before.events)))
        edited = [site for site in sites if site.kind != "module"]
        for owner in reversed(stack):
            here = [site for site in edited if site.owner == owner]
            for group in ([site for site in here if site.in_loop], here):
                if group:
                    return group
        return [site for site in edited if site.in_loop] or edited or list(sites)

    def _name(self, label: Any) -> str:
        return str(self.before.events[label[1]][1])

    def _described(self, event: Event) -> str:
        kind: str = event[0]
        name: Any = event[1] if len(event) > 1 else ""
        stack = self.before.stack(self.index)
        inside = f" in {stack[-1]!r}" if stack and stack[-1] else ""
        if kind == "op":
            return f"{name.overloadpacket.__name__}{inside}"
        if kind == "site":
            return f"site {name!r}"
        if kind == "enter":
            return f"module {name!r}"
        if kind == "exit":
            return f"the end of {name or 'the network'!r}"
        return "the network's output"


def difference(before: Program, after: Program) -> Difference | None:
    """The first difference of two programs, or None."""
    for index, (old, new) in enumerate(zip(before.events, after.events)):
        if old != new:
            return Difference(before, after, index)
    if len(before.events) != len(after.events) or after.error is not None:
        return Difference(before, after, min(len(before.events), len(after.events)))
    return None


def rough(program: Program) -> list[Any]:
    """A program without its values: the executed events, in order."""
    return [event[:2] if event[0] != "return" else event[:1] for event in program.events]


def kinds(program: Program) -> set[tuple[Any, ...]]:
    """The operations that a program runs at least once, by module."""
    found: set[tuple[Any, ...]] = set()
    stack: list[str] = []
    for event in program.events:
        if event[0] == "exit":
            stack.pop()
            continue
        found.add((tuple(stack[-1:]), *event[:2]) if event[0] != "return" else event[:1])
        if event[0] == "enter":
            stack.append(event[1])
    return found


def _event(program: Program, index: int) -> Event | None:
    return program.events[index] if index < len(program.events) else None


def _labels(tree: Any) -> set[Any]:
    """The labels in the operands of an event."""
    found: set[Any] = set()
    if isinstance(tree, tuple):
        if len(tree) == 4 and isinstance(tree[1], tuple) and isinstance(tree[2], tuple):
            return set(tree[2])
        for item in tree:
            found |= _labels(item)
    return found


def _same_loop(one: Site, other: Site) -> bool:
    return one.in_loop and other.in_loop and (one.owner, one.span) == (other.owner, other.span)


def place_of(site: Site, modules: Mapping[str, nn.Module]) -> str:
    """Class, file and line of a site's call, for messages."""
    owner = modules.get(site.owner)
    kind = type(owner).__name__ if owner is not None else "the network"
    return f"{kind} ({site.span.place})" if site.span is not None else kind


def first_line(error: BaseException | None) -> str:
    """The first line of an error's message, or its class."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_CLOSE = 1e-4  # gradients are sums, whose order may differ


def other_numbers(before: Program, after: Program, inserted: Sequence[str]) -> str | None:
    """Describe which values differ in the converted network; None if none do.

    Args:
        before: run of the original network.
        after: run of the converted network.
        inserted: module paths of new activations.
    """
    mine, theirs = list(tensors_in(before.output)), list(tensors_in(after.output))
    for one, other in zip(mine, theirs, strict=True):
        if not torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)):
            gap = float((one.double() - other.double()).abs().max())
            return (
                f"the converted network gives other numbers than the original (largest difference {gap:.2g})"
            )
    inside = tuple(f"{path}." for path in inserted)
    for name, gradient in before.gradients.items():
        if name.startswith(inside):
            continue
        got = after.gradients.get(name)
        if got is None:
            return f"the parameter {name!r} would get no gradient any more"
        if not _close(gradient, got):
            return f"the gradient of {name!r} would be another"
    for name in after.gradients:
        if name not in before.gradients and not name.startswith(inside):
            return f"the parameter {name!r}, which the original does not train, would get a gradient"
    return None


def _close(one: Tensor, other: Tensor) -> bool:
    one, other = one.to_dense(), other.to_dense()
    if torch.equal(one, other):
        return True
    one, other = one.double(), other.double()
    scale = float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True)


def broken(sites: Sequence[Site], modules: Mapping[str, nn.Module], program: Program) -> dict[str, str]:
    """Site → fault, for an original network that fails with other activations at its sites.

    Either the widths of their maps differ, or the activations create a gradient where there must be none.
    """
    if faults := other_widths(sites, modules, program):
        return faults
    what = first_line(program.error).partition(". ")[0]
    frozen = [site for site in sites if site.name in program.frozen]
    if frozen:
        reason = (
            f"it acts on a map that gets no gradient; with one the network fails: {what}; "
            "write what follows without working in place (x = activation(x))"
        )
    else:
        reason = f"with an activation that learns the network fails: {what}; write x = activation(x)"
    return {site.name: f"{place_of(site, modules)}: {reason}" for site in frozen or sites}


def uneven_turns(
    sites: Sequence[Site], modules: Mapping[str, nn.Module], passes: Callable[[Site], set[int]]
) -> dict[str, str]:
    """Sites of loops whose number of iterations is not the number of their sites.

    Args:
        passes: site → how often calls of its owner ran it.
    """
    faults = {}
    for site in sites:
        if not site.in_loop:
            continue
        turns = sum((s.owner, s.span, s.path) == (site.owner, site.span, site.path) for s in sites)
        seen = passes(site)
        if not seen <= {turns}:
            counts = " and ".join(map(str, sorted(seen | {turns})))
            faults[site.name] = (
                f"{place_of(site, modules)}: the loop around it runs it {counts} times, so that its iterations are not "
                "fixed places; give each iteration its own activation module"
            )
    return faults


def other_widths(sites: Sequence[Site], modules: Mapping[str, nn.Module], program: Program) -> dict[str, str]:
    """Sites whose maps have a different number of channels than in the traces."""
    by_name, faults = {site.name: site for site in sites}, {}
    for event in program.events:
        if event[0] == "site":
            site, shape = by_name[event[1]], event[2][0][1]
            width = shape[-1] if site.layout.endswith("c") else shape[1]
            if width != site.channels:
                faults[site.name] = (
                    f"{place_of(site, modules)}: it acts on {site.channels} channels in one batch and on "
                    f"{width} in another; keep the images of a batch apart"
                )
    return faults


def run_again(
    sites: Sequence[Site], modules: Mapping[str, nn.Module], program: Program, written: Set[str]
) -> dict[str, str]:
    """Sites whose recomputation in the backward pass would read what they overwrote in the forward pass.

    Args:
        written: sites whose result is written over their map.
    """
    reason = (
        "it works in place on a map that is read under another name too, in a part that is checkpointed and so run "
        "again on what was written; write x = activation(x), with an activation that does not work in place"
    )
    found = written & program.checkpointed
    return {site.name: f"{place_of(site, modules)}: {reason}" for site in sites if site.name in found}


def not_executed(
    sites: Sequence[Site], modules: Mapping[str, nn.Module], executed: Set[str]
) -> dict[str, str]:
    """Sites that no run of the proof executed."""
    reason = "it did not run when the conversion was to be proved; give example_inputs with which it runs"
    return {site.name: f"{place_of(site, modules)}: {reason}" for site in sites if site.name not in executed}


def suspected(sites: Sequence[Site], modules: Mapping[str, nn.Module], reason: str) -> dict[str, str]:
    """The most likely causes of different values: sites with edited calls, else all."""
    edited = [site for site in sites if site.kind != "module"] or list(sites)
    fault = f"{reason}; give the site its own activation module"
    return {site.name: f"{place_of(site, modules)}: {fault}" for site in edited}


def fused(
    sites: Sequence[Site], modules: Mapping[str, nn.Module], free: Any, watched: Program
) -> dict[str, str]:
    """Sites of networks that compute different values in unrecorded runs, for which torch has fused kernels."""
    alike = zip(tensors_in(free), tensors_in(watched.output), strict=True)
    if all(torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True) for one, other in alike):
        return {}
    layers = [site for site in sites if isinstance(modules.get(site.owner), nn.TransformerEncoderLayer)]
    reason = (
        "in eval mode torch computes the module in one fused step, without calling its activation; write its steps "
        "in a forward of your own"
    )
    return {site.name: f"{place_of(site, modules)}: {reason}" for site in layers or sites}
