"""Whole studies of a planted truth: phase after phase as the product decides them, as records, without a training."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reborn_nas.activations import complete
from reborn_nas.analysis.designs.design import EDITION
from reborn_nas.architecture import ORIGINAL as AS_IT_IS
from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.records import TrialRecord
from reborn_nas.report import RunView
from reborn_nas.study.plan import designs
from reborn_nas.study.plan.candidate import decide_candidate, leading_factors, top_factors
from reborn_nas.study.plan.contrast import Contrast, Side
from reborn_nas.study.plan.designs import TOP_SINGLE, Run, check_runs
from reborn_nas.study.plan.phases import Phase
from tests.sentences.planted import (
    CHANCE,
    EXTENDED,
    KERNELS,
    NORM,
    ORIGINAL,
    REBORN,
    TWIN,
    Networks,
    Planted,
)

CODES = {
    "original": ORIGINAL,
    "reborn": REBORN,
    "positive_twin": TWIN,
    "extended_conv": EXTENDED,
    "norm_relu": NORM,
}
IMAGES = 5000
POOL = 24
"""Designs a cell: a study takes one of them, its truth and noise are its own."""


@dataclass(frozen=True)
class Mix:
    """What a study consists of.

    Args:
        sites, runs: of the screen.
        baseline, candidate, retest, control, checks: trainings of the other phases.
        kernels: whether three kernel sizes are on trial.
    """

    sites: int
    runs: int
    baseline: int = 0
    candidate: int = 0
    retest: int = 0
    control: int = 0
    checks: int = 0
    kernels: bool = False


@dataclass(frozen=True)
class SimulatedStudy:
    """One study: what is true, what was decided, and what the report reads."""

    planted: Planted
    mix: Mix
    view: RunView
    names: tuple[str, ...]
    candidate: Architecture | None = None
    top: tuple[str, ...] = ()

    @functools.cached_property
    def incumbent(self) -> Networks:
        """The candidate as a network of one row; the parent where there is none."""
        if self.candidate is None:
            return _networks([], self.names, parent=True)
        labels = {name: self.candidate.choice(name).label for name in self.names}
        return _rows([labels], [0], self.names)

    def site(self, name: str) -> int:
        """Position of a named site."""
        return self.names.index(name)

    @functools.cached_property
    def average(self) -> dict[str, float]:
        """Site → its effect averaged over half-reborn networks."""
        return dict(zip(self.names, self.planted.average.tolist()))

    @functools.cached_property
    def on_incumbent(self) -> dict[str, float]:
        """Site of the retest → its effect on the candidate, the other sites of the retest half and half."""
        return self._factorial(ORIGINAL)

    @functools.cached_property
    def beside_twin(self) -> dict[str, float]:
        """Site of the control → reborn − positive twin on the candidate, its other sites half and half."""
        return self._factorial(TWIN)

    def _factorial(self, low: int) -> dict[str, float]:
        at = [self.site(name) for name in self.top]
        rows = np.repeat(self.incumbent.kinds, 2 ** len(at), axis=0)
        rows[:, at] = np.array(list(itertools.product((low, REBORN), repeat=len(at))))
        kernels = self.incumbent.kernels
        return {
            name: self.planted.contrast(rows, [site], REBORN, low, kernels)
            for name, site in zip(self.top, at)
        }

    @functools.cached_property
    def gain(self) -> float:
        """Candidate − parent, of trainings that converge."""
        parent = _networks([], self.names, parent=True)
        return float(self.planted.mean(self.incumbent)[0] - self.planted.mean(parent)[0])

    @functools.cached_property
    def whole_gain(self) -> float:
        """The same, trainings that come to nothing included."""
        parent = _networks([], self.names, parent=True)
        return float(self.planted.expected(self.incumbent)[0] - self.planted.expected(parent)[0])

    @functools.cached_property
    def everywhere(self) -> float:
        """All-reborn − parent."""
        parent = _networks([], self.names, parent=True)
        return self.planted.contrast(parent.kinds, range(len(self.names)), REBORN, ORIGINAL)

    @functools.cached_property
    def bend(self) -> float:
        """How far the mean of the two ends lies from the mean over half-reborn networks."""
        parent = _networks([], self.names, parent=True)
        ends = [parent.kinds, np.full_like(parent.kinds, REBORN)]
        level = [
            float(self.planted.mean(Networks(kinds, np.ones_like(kinds), parent.block))[0]) for kinds in ends
        ]
        return sum(level) / 2 - self.planted.level


def site_names(count: int) -> tuple[str, ...]:
    """Names such as a ResNet's, in four stages."""
    return tuple(f"layer{1 + 4 * k // count}.{k}.act" for k in range(count))


@functools.cache
def contrast_of(count: int, kernels: bool) -> Contrast:
    """Reborn against the original at `count` sites."""
    sizes = KERNELS if kernels else (3,)
    variants = {(k, "1x1"): complete(Choice("reborn", kernel_size=k, compression="1x1")) for k in sizes}
    names = site_names(count)
    low = Side(AS_IT_IS, {(0, ""): AS_IT_IS})
    return Contrast(low, Side(Choice("reborn"), variants), {name: (name,) for name in names}, {})


SPEC = BackboneSpec("timm:resnet34", num_classes=round(1 / CHANCE))


@functools.lru_cache(maxsize=4096)
def _screen(mix: Mix, seed: int) -> tuple[list[Run], Networks]:
    contrast = contrast_of(mix.sites, mix.kernels)
    runs = designs.screen_runs(
        Phase("screen", mix.runs, batches=(mix.runs,), editions=(EDITION,)), contrast, SPEC, seed
    )
    return runs, _networks(runs, site_names(mix.sites))


@functools.lru_cache(maxsize=4096)
def _baseline(mix: Mix, seed: int, blocks: int) -> tuple[list[Run], Networks]:
    contrast = contrast_of(mix.sites, mix.kernels)
    runs = designs.baseline_runs(mix.baseline, contrast, SPEC, seed, blocks)
    return runs, _networks(runs, site_names(mix.sites))


def _later(
    mix: Mix, drawn: int, labels: tuple[str, ...], top: tuple[str, ...], leading: tuple[str, ...]
) -> Iterator[tuple[list[Run], Networks]]:
    """The runs of the phases after the screen, each phase with its networks.

    Args:
        labels: what the candidate has at each site.
        top, leading: the sites of retest and control, and those that the checks try alone.
    """
    contrast, names = contrast_of(mix.sites, mix.kernels), site_names(mix.sites)
    if mix.candidate:
        yield _against(mix, drawn, labels)
    for which, count in (("confirm", mix.retest), ("control", mix.control)):
        if count:
            yield _factorial(which, mix, drawn, labels, top)
    if mix.checks:
        candidate = Architecture(SPEC, dict(zip(names, labels)))
        runs = check_runs(mix.checks, candidate, top, leading, contrast, drawn, lambda site, choice: True)
        yield runs, _networks(runs, names)


@functools.lru_cache(maxsize=256)
def _against(mix: Mix, drawn: int, labels: tuple[str, ...]) -> tuple[list[Run], Networks]:
    names = site_names(mix.sites)
    candidate = Architecture(SPEC, dict(zip(names, labels)))
    runs = designs.candidate_runs(mix.candidate, candidate, contrast_of(mix.sites, mix.kernels), drawn)
    return runs, _networks(runs, names)


@functools.lru_cache(maxsize=256)
def _factorial(
    which: str, mix: Mix, drawn: int, labels: tuple[str, ...], top: tuple[str, ...]
) -> tuple[list[Run], Networks]:
    names = site_names(mix.sites)
    candidate, contrast = Architecture(SPEC, dict(zip(names, labels))), contrast_of(mix.sites, mix.kernels)
    make = designs.confirm_runs if which == "confirm" else designs.control_runs
    phase = Phase(which, mix.retest if which == "confirm" else mix.control, editions=(EDITION,))
    runs = make(phase, candidate, top, contrast, drawn)
    return runs, _networks(runs, names)


def simulate(planted: Planted, mix: Mix, seed: int) -> SimulatedStudy:
    """Run one study: baseline and screen, then what the product decides from them."""
    rng = np.random.default_rng(np.random.SeedSequence([abs(seed), 17]))
    contrast, names = contrast_of(mix.sites, mix.kernels), site_names(mix.sites)
    drawn = seed % POOL
    runs, networks = _screen(mix, drawn)
    screen = _records(runs, networks, planted, rng, planted.collapses)
    made = [*screen]
    if mix.baseline:
        ends = _baseline(mix, drawn, int(networks.block.max()) + 1)
        made = [*_records(*ends, planted, rng), *made]
    candidate: Architecture | None = None
    top: list[str] = []
    if mix.candidate or mix.retest or mix.control or mix.checks:
        candidate = decide_candidate(screen, [], contrast, SPEC).architecture
        leading: list[str] = []
        if mix.retest or mix.control or mix.checks:
            top = top_factors(screen, contrast)
        if mix.checks:
            leading = leading_factors(screen, contrast, TOP_SINGLE)
        labels = tuple(candidate.choice(name).label for name in names)
        for own, later in _later(mix, drawn, labels, tuple(top), tuple(leading)):
            made += _records(own, later, planted, rng)
    return SimulatedStudy(planted, mix, _view(mix, made), names, candidate, tuple(top))


def _view(mix: Mix, records: Sequence[TrialRecord]) -> RunView:
    planned: dict[str, int] = {}
    for record in records:
        planned[record.phase] = planned.get(record.phase, 0) + 1
    return RunView(
        title="simulated", records=records, sites=_sites(mix.sites),
        phases=[{"phase": name, "planned": count} for name, count in planned.items()],
    )  # fmt: skip


@functools.cache
def _sites(count: int) -> tuple[dict[str, object], ...]:
    return tuple(
        {"name": name, "index": k, "stage": 4 * k // count, "shape": (64, 8, 8), "activation": "relu"}
        for k, name in enumerate(site_names(count))
    )


def _records(
    runs: Sequence[Run], networks: Networks, planted: Planted, rng: np.random.Generator, collapses: int = 0
) -> list[TrialRecord]:
    accuracy, diverged = planted.observe(networks, rng)
    if collapses:
        accuracy = accuracy.copy()
        accuracy[rng.choice(len(runs), min(collapses, len(runs)), replace=False)] = CHANCE
    made = []
    for number, (run, value, lost) in enumerate(zip(runs, accuracy.tolist(), diverged.tolist())):
        test = run.part == "test"
        made.append(
            TrialRecord(
                key=run.key, phase=run.phase, arm=run.arm, number=number,
                state="diverged" if lost else "complete", architecture=run.architecture or {},
                parameters=run.parameters, levels=run.levels, block=run.block, seed=run.seed, accuracy=value,
                accuracy_part="validation" if lost else run.part, accuracy_n=IMAGES,
                test_accuracy=value if test else None, test_n=IMAGES if test else 0,
                extra={} if run.rate == 1.0 else {"learning_rate": 0.1 * run.rate},
            )
        )  # fmt: skip
    return made


def _networks(runs: Sequence[Run], names: Sequence[str], *, parent: bool = False) -> Networks:
    if parent:
        return _rows([{}], [0], names)
    return _rows([run.parameters for run in runs], [run.block for run in runs], names)


def _rows(labels: Sequence[object], block: Sequence[int], names: Sequence[str]) -> Networks:
    coded = [[_code(row.get(name, "original")) for name in names] for row in labels]  # type: ignore[attr-defined]
    both = np.array(coded, dtype=np.int64)
    return Networks(both[:, :, 0], both[:, :, 1], np.array(block, dtype=np.int64))


@functools.cache
def _code(label: str) -> tuple[int, int]:
    choice = Choice.parse(label)
    size = choice.options.get("kernel_size", 3)
    return CODES[choice.name], KERNELS.index(int(size)) if size in KERNELS else 1
