"""The proof of a conversion: apart from the sites, the converted network runs the program of the original one.

A site is a place in the source, and its runs are distinguished by the iterations of the loop around it. Code in which
that does not hold (a loop over activations of several kinds, over the images of a batch, views changed in place) would
be converted into something else. Therefore once per network every site gets a stand-in, a leaky ReLU with a unique
slope, and the program of the converted copy is compared with that of the original network in which the same activations
are applied in flight: in eval mode, and in train mode with a larger batch and larger images. For classes that belong to
neither torch nor timm, values and gradients are also compared. Sites that cause a difference are refused with a message
about it, and the others are proved again.
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
    broken,
    difference,
    fused,
    kinds,
    not_executed,
    other_numbers,
    other_widths,
    place_of,
    rough,
    run_again,
    suspected,
    uneven_turns,
)
from reborn_nas.backbone.proof.marks import Converted, Untouched, run
from reborn_nas.backbone.proof.program import Program
from reborn_nas.backbone.proof.record import is_own
from reborn_nas.backbone.proof.stand_ins import acting, randomised, sloped, stand_ins
from reborn_nas.backbone.replace.apply import apply
from reborn_nas.backbone.replace.plan import Plan
from reborn_nas.backbone.replace.planning import make_plan
from reborn_nas.backbone.sites.site import WRITTEN, Discovery, Proof, Site, site_values
from reborn_nas.backbone.trace.inputs import arguments, numbered, resized, shrunk
from reborn_nas.backbone.trace.replica import copied, replicate
from reborn_nas.errors import ConversionError

_DRAWS = 8  # seeds to test whether random numbers decide what runs
_SEEDS = 3  # further runs in train mode, if a loop distinguishes sites
_Kinds = set[tuple[Any, ...]]  # executed operations
_GROWN = ((1, 32), (1, 0), (0, 32), (0, 0))  # additional images and pixels


def prove(model: nn.Module, found: Discovery, inputs: Any) -> Proof:
    """Prove all sites of a network at which the activation can be replaced.

    Args:
        model: the network, of which only copies are run.
        found: sites of the network.
        inputs: inputs of its traces.
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
    """Tries all sites together, and repeats without those with a fault until all pass."""

    def __init__(self, model: nn.Module, found: Discovery, inputs: Any) -> None:
        self.model, self.found, self.inputs = model, found, inputs
        self.own = is_own(model)
        self.faults: dict[str, str] = {}
        self.clones: dict[str, set[str]] = {}
        self.written: set[str] = set()
        self.varying: set[str] = set()
        self.drew = False
        self.seen: dict[tuple[bool, tuple[int, int]], _Kinds] = {}  # training, growth → what ran
        self.modules = dict(model.named_modules(remove_duplicate=False))

    def prove(self) -> Proof:
        layouts = get_family("leaky_relu").layouts()
        sites = [s for s in self.found.sites if s.own_fault is None and s.layout in layouts]
        sites = self._plannable(sites)
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

    def _plannable(self, sites: Sequence[Site]) -> list[Site]:
        """Keep the sites for which a plan can be made; record the reasons for the others."""
        kept = []
        double = replicate(self.model, "meta")
        by_owner: dict[str, list[Site]] = {}
        for site in sites:
            by_owner.setdefault("" if site.kind == "module" else f"rewritten {site.owner}", []).append(site)
        for group in by_owner.values():
            if group[0].kind != "module":
                try:
                    make_plan(double, self.found, stand_ins(group, own=self.own), init="preserve")
                except ConversionError as error:
                    self.faults.update({site.name: str(error) for site in group})
                    continue
            kept += group
        return sorted(kept, key=lambda site: site.index)

    def _try(self, sites: Sequence[Site]) -> tuple[dict[str, str], tuple[str, ...]]:
        """Site → fault, empty if all pass; and the spare modules in that case."""
        chosen = stand_ins(sites, own=self.own)
        steps = self._written_back(make_plan(self.model, self.found, chosen, init="preserve"))
        executed: set[str] = set()
        read: set[str] = set()
        self.clones = {}
        self.seen = {}
        for setting, before, marks in self._settings(sites, steps):
            if before.error is not None:
                return broken(sites, self.modules, before), ()
            after = self._converted(steps, setting)
            where = difference(before, after)
            if where is not None:
                again = {site.name for site in sites if site.inplace} & where.lost - self.written
                if again:
                    self.written |= again
                    return self._try(sites)
                return where.blame(sites, self.modules), ()
            executed |= before.runs.keys()
            self.drew |= before.drew
            self.varying |= self._elsewhere(sites, before, setting.training)
            read |= before.parameters | after.parameters
            for name, roles in after.overwritten.items():
                self.clones.setdefault(name, set()).update(roles)
            faults = (
                uneven_turns(sites, self.modules, marks.passes)
                or other_widths(sites, self.modules, before)
                or run_again(sites, self.modules, before, self.written)
            )
            if faults:
                return faults, ()
        faults = self._unsteady(sites, steps) or not_executed(sites, self.modules, executed)
        if not faults and self.own:
            faults = self._numbers(sites, steps)
        return faults, self._spare(sites, read)

    def _written_back(self, steps: Plan) -> Plan:
        placements = (
            replace(each, clone=WRITTEN) if each.site in self.written else each for each in steps.placements
        )
        return replace(steps, placements=tuple(placements))

    def _settings(self, sites: Sequence[Site], steps: Plan) -> Iterator[tuple[_Setting, Program, Untouched]]:
        """The usable runs of the original network; each is compared before the next is made."""
        modes = [(False, _GROWN[-1:]), (True, _GROWN)]
        if self.found.train_trace is None:
            modes[1] = (False, _GROWN[:-1])
        executed: set[str] = set()
        for training, growths in modes:
            for growth in growths:
                found = self._first(training, growth, sites, steps)
                if found is not None:
                    executed |= found[1].runs.keys()
                    yield found
                    break
        if self.found.train_trace is not None and any(site.name not in executed for site in sites):
            found = self._first(True, _GROWN[-1], sites, steps)
            if found is not None:
                yield found

    def _first(
        self, training: bool, growth: tuple[int, int], sites: Sequence[Site], steps: Plan
    ) -> tuple[_Setting, Program, Untouched] | None:
        """The run on the first device that works; it has an error if only the network without stand-ins runs."""
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

    def _grown(self, images: int, pixels: int) -> Any:
        """The inputs with more and larger images."""
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
        """Sites that run either in the trace or in `program`, but not in both."""
        trace = self.found.train_trace if training else self.found.eval_trace
        ran = program.runs
        return {site.name for site in sites if trace and bool(site_values(trace, site)) != (site.name in ran)}

    def _branches_by_size(self, sites: Sequence[Site]) -> bool:
        """Whether the network runs different operations for other sizes or numbers of images."""
        steps = make_plan(self.model, self.found, stand_ins(sites, own=True), init="preserve")
        for training in (False, True) if self.found.train_trace is not None else (False,):
            usual = self._kinds(training, _GROWN[-1], sites, steps)
            others = (self._kinds(training, growth, sites, steps) for growth in _GROWN[:-1])
            other = next((found for found in others if found is not None), None)
            if usual is not None and other is not None and usual != other:
                return True
        return False

    def _kinds(
        self, training: bool, growth: tuple[int, int], sites: Sequence[Site], steps: Plan
    ) -> _Kinds | None:
        """The operations that run at least once; None if the network does not accept such inputs."""
        if (training, growth) not in self.seen and self._first(training, growth, sites, steps) is None:
            return None
        return self.seen.get((training, growth))

    def _branches_by_chance(self, sites: Sequence[Site]) -> bool:
        """Whether random numbers decide what the network runs, tested with a few seeds."""
        if not self.drew:
            return False
        steps = make_plan(self.model, self.found, stand_ins(sites, own=True), init="preserve")
        for training in (False, True) if self.found.train_trace is not None else (False,):
            ran = [kinds(self._seeded(sites, steps, training, seed)[0]) for seed in range(_DRAWS)]
            if any(one != ran[0] for one in ran):
                return True
        return False

    def _seeded(
        self, sites: Sequence[Site], steps: Plan, training: bool, seed: int
    ) -> tuple[Program, Untouched]:
        """A run of the original network from one of several seeds, on the first device that works."""
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
                faults = uneven_turns(sites, self.modules, marks.passes)
                if faults:
                    return faults
                first = rough(program) if first is None else first
                if rough(program) != first:
                    reason = (
                        "the network runs different operations each time, so the iterations of this loop cannot be "
                        "distinguished; give each iteration its own activation module"
                    )
                    return {site.name: f"{place_of(site, self.modules)}: {reason}" for site in looped}
        return {}

    def _numbers(self, sites: Sequence[Site], steps: Plan) -> dict[str, str]:
        """Sites that cause values or gradients different from those of the original network."""
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
                free = unwatched(replicate(source, "cpu"), steps, args, kwargs)
                faults = fused(sites, self.modules, free, after)
                if faults:
                    return faults
            where = difference(before, after)
            if where is not None:
                return where.blame(sites, self.modules)
            reason = other_numbers(before, after, paths)
            if reason is not None:
                return suspected(sites, self.modules, reason)
        return {}

    def _spare(self, sites: Sequence[Site], read: set[str]) -> tuple[str, ...]:
        """Shared activation modules with parameters that are read by nothing outside of `sites`."""
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


def untouched(
    double: nn.Module,
    sites: Sequence[Site],
    steps: Plan,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    training: bool,
    *,
    gradients: bool = False,
    seed: int = 0,
) -> tuple[Program, Untouched]:
    """The program of `double`, with the activations of `steps` applied in flight."""
    functions = acting(double, steps)

    def make(recorder: Any) -> Untouched:
        return Untouched(double, recorder, sites, functions)

    program, marks = run(make, double, args, kwargs, training=training, gradients=gradients, seed=seed)
    assert isinstance(marks, Untouched)
    return program, marks


def unwatched(double: nn.Module, steps: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The output of the converted `double` in an unrecorded run in eval mode."""
    new = apply(double, steps, inplace=True).eval()
    for placement in steps.placements:
        sloped(new.get_submodule(placement.path), placement.site)
    with quiet("cpu"), torch.no_grad():
        return new(*numbered(args, "cpu"), **numbered(kwargs, "cpu"))


def converted(
    double: nn.Module,
    steps: Plan,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    training: bool,
    *,
    gradients: bool = False,
) -> Program:
    """The program of a copy of the converted `double`."""
    try:
        new = apply(double, steps, inplace=True)
        if not gradients:  # runs without gradients also show that copies run the same program
            new = copied(new)
    except ConversionError as error:
        return Program(error=error)
    for placement in steps.placements:
        sloped(new.get_submodule(placement.path), placement.site)
    paths = {placement.path: placement.site for placement in steps.placements}
    program, _ = run(
        lambda recorder: Converted(new, recorder, paths),
        new,
        args,
        kwargs,
        training=training,
        gradients=gradients,
    )
    return program
