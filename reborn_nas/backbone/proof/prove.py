"""The proof of a conversion: the converted network runs the same program as the untouched one, sites aside.

A site is a place in the source, and its runs are told apart by the turns of the loop around it. Code in which that
does not hold (a loop over activations of several kinds, over the images of a batch, views changed in place) would be
converted into something else. So once for each network every site gets a stand-in, a leaky ReLU with a slope of its
own, and the program of the converted copy is compared with that of the untouched network in which the same
activations act in flight: in eval mode, and in train mode with a larger batch and larger images. For classes that are
neither torch's nor timm's the numbers and gradients are compared too. Sites behind a difference are refused, with
what differed; the rest is proved again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from reborn_nas.activations import get_family
from reborn_nas.backbone.load.third_party import quiet
from reborn_nas.backbone.proof.differences import (
    difference,
    first_line,
    kinds,
    other_numbers,
    place_of,
    randomised,
    rough,
)
from reborn_nas.backbone.proof.marks import Untouched
from reborn_nas.backbone.proof.program import Program
from reborn_nas.backbone.proof.record import is_own
from reborn_nas.backbone.proof.stand_ins import converted, sloped, stand_ins, untouched
from reborn_nas.backbone.replace.apply import apply
from reborn_nas.backbone.replace.draw import draw
from reborn_nas.backbone.replace.plan import Plan
from reborn_nas.backbone.sites.site import WRITTEN, Discovery, Proof, Site, site_values
from reborn_nas.backbone.trace.inputs import arguments, numbered, resized, shrunk
from reborn_nas.backbone.trace.replica import replicate, tensors_in
from reborn_nas.errors import ConversionError

_DRAWS = 8  # seeds that show whether random numbers decide what runs
_SEEDS = 3  # further runs in train mode, where a loop tells sites apart
_GROWN = ((1, 32), (1, 0), (0, 32), (0, 0))  # images and pixels more than in the first run


def prove(model: nn.Module, found: Discovery, inputs: Any) -> Proof:
    """Put every site of a network that could carry an activation to the proof.

    Args:
        model: the network; only copies of it are run.
        found: its sites.
        inputs: what it was traced with.
    """
    return _Prover(model, found, inputs).prove()


@dataclass(frozen=True)
class _Setting:
    """One pair of runs."""

    training: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    device: str


class _Prover:
    def __init__(self, model: nn.Module, found: Discovery, inputs: Any) -> None:
        self.model, self.found, self.inputs = model, found, inputs
        self.own = is_own(model)
        self.faults: dict[str, str] = {}
        self.clones: dict[str, set[str]] = {}
        self.written: set[str] = set()
        self.varying: set[str] = set()
        self.drew = False
        self.seen: dict[
            tuple[bool, tuple[int, int]], set[tuple[Any, ...]]
        ] = {}  # training, growth → what ran
        self.modules = dict(model.named_modules(remove_duplicate=False))

    def prove(self) -> Proof:
        layouts = get_family("leaky_relu").layouts()
        sites = [s for s in self.found.sites if s.own_fault is None and s.layout in layouts]
        sites = self._drawable(sites)
        spare: tuple[str, ...] = ()
        while sites:
            faults, spare = self._try(sites)
            if not faults:
                break
            self.faults.update(faults)
            sites = [site for site in sites if site.name not in faults]
        if sites and self.own and (self._branches_by_size(sites) or self._branches_by_chance(sites)):
            self.varying = {site.name for site in sites}
        clones = dict.fromkeys((site.name for site in sites if site.name in self.written), WRITTEN) | {
            site.name: "both" if len(self.clones[site.name]) > 1 else next(iter(self.clones[site.name]))
            for site in sites
            if self.clones.get(site.name) and site.name not in self.written
        }
        return Proof(
            self.faults, clones, spare, tuple(site.name for site in sites), tuple(sorted(self.varying))
        )

    def _drawable(self, sites: Sequence[Site]) -> list[Site]:
        """The sites that a plan can be made for; the others get what stands against it."""
        kept = []
        double = replicate(self.model, "meta")
        by_owner: dict[str, list[Site]] = {}
        for site in sites:
            by_owner.setdefault("" if site.kind == "module" else f"rewritten {site.owner}", []).append(site)
        for group in by_owner.values():
            if group[0].kind != "module":
                try:
                    draw(double, self.found, stand_ins(group, own=self.own), init="preserve")
                except ConversionError as error:
                    self.faults.update({site.name: str(error) for site in group})
                    continue
            kept += group
        return sorted(kept, key=lambda site: site.index)

    def _try(self, sites: Sequence[Site]) -> tuple[dict[str, str], tuple[str, ...]]:
        """Site → fault, empty where all of them pass; and the modules that are spare then."""
        chosen = stand_ins(sites, own=self.own)
        steps = self._written_back(draw(self.model, self.found, chosen, init="preserve"))
        met: set[str] = set()
        read: set[str] = set()
        self.clones = {}
        self.seen = {}
        for setting, before, marks in self._settings(sites, steps):
            if before.error is not None:
                return self._broken(sites, before), ()
            after = self._converted(steps, setting)
            where = difference(before, after)
            if where is not None:
                again = {site.name for site in sites if site.inplace} & where.lost - self.written
                if again:
                    self.written |= again
                    return self._try(sites)
                return where.blame(sites, self.modules), ()
            met |= before.runs.keys()
            self.drew |= before.drew
            self.varying |= self._elsewhere(sites, before, setting.training)
            read |= before.parameters | after.parameters
            for name, roles in after.overwritten.items():
                self.clones.setdefault(name, set()).update(roles)
            faults = (
                self._uneven(sites, marks)
                or self._other_widths(sites, before)
                or self._run_again(sites, before)
            )
            if faults:
                return faults, ()
        faults = self._unsteady(sites, steps) or self._never_met(sites, met)
        if not faults and self.own:
            faults = self._numbers(sites, steps)
        return faults, self._spare(sites, read)

    def _written_back(self, steps: Plan) -> Plan:
        placements = (
            replace(each, clone=WRITTEN) if each.site in self.written else each for each in steps.placements
        )
        return replace(steps, placements=tuple(placements))

    def _settings(self, sites: Sequence[Site], steps: Plan) -> Iterator[tuple[_Setting, Program, Untouched]]:
        """The runs of the untouched network that serve; each is compared before the next is made."""
        modes = [(False, _GROWN[-1:]), (True, _GROWN)]
        if self.found.train_trace is None:
            modes[1] = (False, _GROWN[:-1])
        met: set[str] = set()
        for training, growths in modes:
            for growth in growths:
                found = self._first(training, growth, sites, steps)
                if found is not None:
                    met |= found[1].runs.keys()
                    yield found
                    break
        if self.found.train_trace is not None and any(site.name not in met for site in sites):
            found = self._first(True, _GROWN[-1], sites, steps)
            if found is not None:
                yield found

    def _first(
        self, training: bool, growth: tuple[int, int], sites: Sequence[Site], steps: Plan
    ) -> tuple[_Setting, Program, Untouched] | None:
        """The first device that the network runs on with these inputs; with an error where only the original does."""
        try:
            inputs = self._grown(*growth)
        except ConversionError:
            return None
        for device in ("meta", "cpu"):
            setting = _Setting(training, *arguments(numbered(inputs, device)), device)
            program, marks = self._untouched(sites, steps, setting)
            if program.error is None:
                self.seen[training, growth] = kinds(program)
                return setting, program, marks
        if self.own and self._untouched((), Plan(()), setting)[0].error is None:
            return setting, program, marks
        return None

    def _broken(self, sites: Sequence[Site], program: Program) -> dict[str, str]:
        """Sites whose maps have other widths, or whose activations would give a gradient where none must be."""
        if faults := self._other_widths(sites, program):
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
        return {site.name: f"{place_of(site, self.modules)}: {reason}" for site in frozen or sites}

    def _grown(self, images: int, pixels: int) -> Any:
        """The inputs with more images, which are larger."""
        return (
            resized(self.model, self.inputs, images=images, pixels=pixels)
            if images or pixels
            else self.inputs
        )

    def _untouched(
        self, sites: Sequence[Site], steps: Plan, setting: _Setting, seed: int = 0
    ) -> tuple[Program, Untouched]:
        double = self._double(setting.device)
        return untouched(double, sites, steps, setting.args, setting.kwargs, setting.training, seed=seed)

    def _converted(self, steps: Plan, setting: _Setting) -> Program:
        return converted(self._double(setting.device), steps, setting.args, setting.kwargs, setting.training)

    def _double(self, device: str) -> nn.Module:
        double = replicate(self.model, device)
        return randomised(double) if device != "meta" and _on_meta(self.model) else double

    def _elsewhere(self, sites: Sequence[Site], program: Program, training: bool) -> set[str]:
        """Sites that ran when the network was traced and not now, or the other way round."""
        trace = self.found.train_trace if training else self.found.eval_trace
        ran = program.runs
        return {site.name for site in sites if trace and bool(site_values(trace, site)) != (site.name in ran)}

    def _branches_by_size(self, sites: Sequence[Site]) -> bool:
        """Whether the network runs something else for other sizes or numbers of images."""
        steps = draw(self.model, self.found, stand_ins(sites, own=True), init="preserve")
        for training in (False, True) if self.found.train_trace is not None else (False,):
            usual = self._kinds(training, _GROWN[-1], sites, steps)
            others = (self._kinds(training, growth, sites, steps) for growth in _GROWN[:-1])
            other = next((found for found in others if found is not None), None)
            if usual is not None and other is not None and usual != other:
                return True
        return False

    def _kinds(
        self, training: bool, growth: tuple[int, int], sites: Sequence[Site], steps: Plan
    ) -> set[tuple[Any, ...]] | None:
        """What runs at least once; None where the network does not take such inputs."""
        if (training, growth) not in self.seen and self._first(training, growth, sites, steps) is None:
            return None
        return self.seen.get((training, growth))

    def _branches_by_chance(self, sites: Sequence[Site]) -> bool:
        """Whether random numbers decide what the network runs, as far as a few seeds show it."""
        if not self.drew:
            return False
        steps = draw(self.model, self.found, stand_ins(sites, own=True), init="preserve")
        for training in (False, True) if self.found.train_trace is not None else (False,):
            ran = [kinds(self._seeded(sites, steps, training, seed)[0]) for seed in range(_DRAWS)]
            if any(one != ran[0] for one in ran):
                return True
        return False

    def _seeded(
        self, sites: Sequence[Site], steps: Plan, training: bool, seed: int
    ) -> tuple[Program, Untouched]:
        """A run of the untouched network from one of several seeds, on the first device that it runs on."""
        for device in ("meta", "cpu"):
            setting = _Setting(training, *arguments(numbered(self.inputs, device)), device)
            program, marks = self._untouched(sites, steps, setting, seed)
            if program.error is None:
                break
        return program, marks

    def _unsteady(self, sites: Sequence[Site], steps: Plan) -> dict[str, str]:
        """Sites of loops in networks whose program changes from run to run."""
        looped = [site for site in sites if site.in_loop]
        if not looped:
            return {}
        for training in (True, False) if self.found.train_trace is not None else (False,):
            first: list[Any] | None = None
            for seed in range(_SEEDS + 1):
                program, marks = self._seeded(sites, steps, training, seed)
                faults = self._uneven(sites, marks)
                if faults:
                    return faults
                first = rough(program) if first is None else first
                if rough(program) != first:
                    reason = (
                        "the network runs other operations from run to run, so that the turns of this loop cannot be "
                        "told apart; give each turn an activation module of its own"
                    )
                    return {site.name: f"{place_of(site, self.modules)}: {reason}" for site in looped}
        return {}

    def _uneven(self, sites: Sequence[Site], marks: Untouched) -> dict[str, str]:
        """Sites of loops that did not take as many turns as there are sites."""
        faults = {}
        for site in sites:
            if not site.in_loop:
                continue
            turns = sum((s.owner, s.span, s.path) == (site.owner, site.span, site.path) for s in sites)
            seen = marks.passes(site)
            if not seen <= {turns}:
                counts = " and ".join(map(str, sorted(seen | {turns})))
                faults[site.name] = (
                    f"{place_of(site, self.modules)}: the loop around it runs it {counts} times, so that its "
                    "turns are no fixed places; "
                    "give each turn an activation module of its own"
                )
        return faults

    def _other_widths(self, sites: Sequence[Site], program: Program) -> dict[str, str]:
        """Sites whose maps have other channels than when the network was traced."""
        by_name, faults = {site.name: site for site in sites}, {}
        for event in program.events:
            if event[0] == "site":
                site, shape = by_name[event[1]], event[2][0][1]
                width = shape[-1] if site.layout.endswith("c") else shape[1]
                if width != site.channels:
                    faults[site.name] = (
                        f"{place_of(site, self.modules)}: it acts on {site.channels} channels in one batch and on "
                        f"{width} in another; keep the images of a batch apart"
                    )
        return faults

    def _run_again(self, sites: Sequence[Site], program: Program) -> dict[str, str]:
        """Sites that would act in the backward pass on what they wrote in the forward pass."""
        return {
            site.name: f"{place_of(site, self.modules)}: it works in place on a map that is read under another name "
            "too, in a part that is checkpointed and so run again on what was written; write x = activation(x), with "
            "an activation that does not work in place"
            for site in sites
            if site.name in self.written & program.checkpointed
        }

    def _never_met(self, sites: Sequence[Site], met: set[str]) -> dict[str, str]:
        return {
            site.name: f"{place_of(site, self.modules)}: it did not run when the conversion was to be proved; "
            "give example_inputs with which it runs"
            for site in sites
            if site.name not in met
        }

    def _numbers(self, sites: Sequence[Site], steps: Plan) -> dict[str, str]:
        """Sites behind other numbers or gradients than the untouched network gives."""
        source = randomised(replicate(self.model, "cpu"))
        paths = [placement.path for placement in steps.placements]
        paths += [placement.replaces for placement in steps.placements if placement.replaces is not None]
        for training in (False, True) if self.found.train_trace is not None else (False,):
            for inputs in shrunk(self.inputs):
                args, kwargs = arguments(numbered(inputs, "cpu"))
                runs = (args, kwargs, training)
                before, _ = untouched(replicate(source, "cpu"), sites, steps, *runs, gradients=True)
                if before.error is None:
                    break
            else:
                continue
            after = converted(replicate(source, "cpu"), steps, *runs, gradients=True)
            if not training and after.error is None:
                faults = self._fused(sites, replicate(source, "cpu"), steps, args, kwargs, after)
                if faults:
                    return faults
            where = difference(before, after)
            if where is not None:
                return where.blame(sites, self.modules)
            reason = other_numbers(before, after, paths)
            if reason is not None:
                return self._suspected(sites, reason)
        return {}

    def _fused(
        self,
        sites: Sequence[Site],
        double: nn.Module,
        steps: Plan,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        watched: Program,
    ) -> dict[str, str]:
        """Sites of networks that give other numbers when nobody watches: torch has fused kernels for such times."""
        new = apply(double, steps, inplace=True).eval()
        for placement in steps.placements:
            sloped(new.get_submodule(placement.path), placement.site)
        with quiet("cpu"), torch.no_grad():
            free = new(*numbered(args, "cpu"), **numbered(kwargs, "cpu"))
        alike = zip(tensors_in(free), tensors_in(watched.output), strict=True)
        if all(torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True) for one, other in alike):
            return {}
        fused = [s for s in sites if isinstance(self.modules.get(s.owner), nn.TransformerEncoderLayer)]
        reason = (
            "in eval mode torch computes the module in one fused step, without calling its activation; write its steps "
            "in a forward of your own"
        )
        return {site.name: f"{place_of(site, self.modules)}: {reason}" for site in fused or sites}

    def _suspected(self, sites: Sequence[Site], reason: str) -> dict[str, str]:
        """The sites that are likeliest behind other numbers: those with edited calls, else all."""
        edited = [site for site in sites if site.kind != "module"] or list(sites)
        return {
            site.name: f"{place_of(site, self.modules)}: {reason}; give the site an activation module of its own"
            for site in edited
        }

    def _spare(self, sites: Sequence[Site], read: set[str]) -> tuple[str, ...]:
        """Shared activation modules with parameters that nothing outside of `sites` reads."""
        names = {site.name for site in sites}
        found = []
        for path in dict.fromkeys(site.path for site in self.found.sites if site.kind == "shared"):
            if path is None or any(s.path == path and s.name not in names for s in self.found.sites):
                continue
            own = [f"{path}.{name}" for name, _ in self.modules[path].named_parameters()]
            if own and read.isdisjoint(own):
                found.append(path)
        return tuple(found)


def _on_meta(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())
