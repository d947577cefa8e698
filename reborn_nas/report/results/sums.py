"""Do the effects add up? Their sum beside what was measured between whole networks, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reborn_nas.analysis import Comparison, option_counts
from reborn_nas.analysis.effects.aliases import fit_screen
from reborn_nas.analysis.effects.collapse import collapsed, converged
from reborn_nas.analysis.effects.linear import NO_NOISE, Fit, tilt
from reborn_nas.analysis.effects.shrinkage import shrink
from reborn_nas.analysis.phases.compare import (
    AddsUp,
    adds_up,
    candidate_against_parent,
    curvature,
    fitted_sum,
    shrunk_sum,
)
from reborn_nas.architecture import Choice
from reborn_nas.errors import ConfigError, RebornError
from reborn_nas.metric import spoken
from reborn_nas.records import TrialRecord
from reborn_nas.report.results.fresh import CandidateArms
from reborn_nas.report.results.screen import Designed, option_of, possible, unique_runs
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import in_unit, interval, signed

__all__ = ["Sums", "sums"]

TESTS = 3
"""Everywhere, at the candidate's sites, and the curvature: they share the budget's level."""


@dataclass(frozen=True)
class Sums:
    """Sums of effects beside measured differences.

    Args:
        table: `group, label, effect, ci_low, ci_high`: of each comparison the sum and the measurement; None without
            any.
        words: a sentence for each comparison.
        cautions: what follows where they disagree.
        method: how the two ends were measured.
    """

    table: pd.DataFrame | None = None
    words: Sequence[str] = ()
    cautions: Sequence[str] = ()
    method: Sequence[str] = ()


@dataclass(frozen=True)
class _Ends:
    """The baseline's two arms, and what they differ by; without collapsed trainings, unless they are `counted`."""

    reference: list[float]
    tested: list[float]
    found: Comparison
    record: TrialRecord
    counted: bool


def sums(
    view: RunView,
    screen: Designed | None,
    arms: CandidateArms,
    candidate: Comparison | None,
    chance: float,
    level: float,
) -> Sums:
    """Everything that the view's records allow.

    Effects among the trainings of a screen that converged are not held against a difference in which collapsed ones
    count: that they do not add up to it says nothing of the sites.

    Args:
        screen: its runs, without the accuracies of collapsed ones.
        arms, candidate: candidate against parent.
        chance: accuracy of a guess.
        level: the budget's for saying that effects do not add up.
    """
    ends = _ends(view, chance)
    method = [] if ends is None else [_baseline_words(view, ends)]
    fitted = None if screen is None else _fit(screen)
    if screen is None or fitted is None:
        return Sums(method=method)
    found = []
    alike = ends is not None and not (ends.counted and screen.collapsed)
    if ends is not None and alike:
        found.append((f"{view.arms[0]} everywhere", _everywhere(screen, fitted, ends, level / TESTS)))
    if candidate is not None and not (arms.counted and screen.collapsed):
        found.append(("the candidate", _at_candidate(view, screen, fitted, candidate, level / TESTS)))
    known = [(name, one) for name, one in found if one is not None]
    cautions = [_disagreement(view, name, one) for name, one in known if one.clear]
    if ends is not None and alike:
        more, error = tilt(fitted)
        bend = curvature(
            ends.reference, ends.tested, screen.accuracy, sigma=fitted.sigma, tilt=more, tilt_se=error
        )
        size = f"{signed(bend.effect)}{in_unit()} {interval(bend.ci_low, bend.ci_high)}"
        method.append(f"Curvature: the mean of the baseline's two ends lies {size} from the screen's mean.")
        if bend.p_value <= level / TESTS:
            cautions.append(
                f"Effects do not simply add up here (curvature {size}): what a site adds depends on the other sites, "
                f"so an average over half-{view.arms[0]} networks need not hold on another network."
            )
    return Sums(_table(known), [_words(name, one) for name, one in known], cautions, method)


def _fit(screen: Designed) -> Fit | None:
    """The screen's fit; None where the runs allow none, or hold no noise to compare with."""
    varied = screen.kernel is not None or screen.compression is not None
    counts = option_counts(kernel=screen.kernel, compression=screen.compression) if varied else None
    try:
        found = fit_screen(screen.design, screen.accuracy, block=screen.block, covariates=counts)
    except ConfigError:
        return None
    return found if found.sigma > NO_NOISE else None


def _ends(view: RunView, chance: float) -> _Ends | None:
    """The baseline; None where an arm has fewer than two trainings that converged."""
    runs = [r for r in unique_runs(view.phase("baseline")) if r.state in ("complete", "diverged")]
    runs = [r for r in runs if possible(r.accuracy)]
    if not runs:
        return None
    failed = [r.state == "diverged" for r in runs]
    accuracy = [r.accuracy for r in runs]
    values = converged(accuracy, chance, failed, [r.arm for r in runs])
    counted = bool((collapsed(accuracy, chance, failed) & np.isfinite(values)).any())
    reference, tested = (
        [float(value) for record, value in zip(runs, values) if record.arm == arm and np.isfinite(value)]
        for arm in (view.parent_arm, view.arms[0])
    )
    if min(len(reference), len(tested)) < 2:
        return None
    last = next(record for record in runs if record.arm == view.arms[0])
    return _Ends(reference, tested, candidate_against_parent(tested, reference), last, counted)


def _baseline_words(view: RunView, ends: _Ends) -> str:
    found = ends.found
    return (
        f"Baseline: {view.arms[0]} at every site against {view.parent}, {signed(found.effect)}{in_unit()} "
        f"{interval(found.ci_low, found.ci_high)} ({found.n_first} against {found.n_second} trainings, "
        f"{ends.record.accuracy_part} {spoken().counted})."
    )


def _everywhere(screen: Designed, fitted: Fit, ends: _Ends, level: float) -> AddsUp | None:
    """All effects, with what the baseline's kernel and compression add to them, against the baseline's difference."""
    change = _option_change(screen, ends.record)
    if change is None or len(change) != len(fitted.extra):
        return None
    return adds_up(fitted_sum(fitted, np.ones(len(fitted.beta)), change), ends.found, level)


def _at_candidate(
    view: RunView, screen: Designed, fitted: Fit, candidate: Comparison, level: float
) -> AddsUp | None:
    """The shrunk effects of the candidate's sites, and what its kernel and compression add, against what it gains."""
    record = next((r for r in view.phase("candidate") if r.arm == "candidate"), None)
    change = None if record is None else _option_change(screen, record)
    if record is None or change is None or len(change) != len(fitted.extra):
        return None
    sites = np.array([_holds(record, name, view.arms[0]) for name in screen.names], dtype=np.bool_)
    if not sites.any():
        return None
    total = shrunk_sum(shrink(fitted.beta, fitted.se, fitted.df, fitted.widening), sites, fitted.df)
    if len(change):
        form = fitted_sum(fitted, np.zeros(len(fitted.beta)), change)
        total = total.plus(form.shrunk())  # chosen for being large, as the sites are
    return adds_up(total, candidate, level)


def _holds(record: TrialRecord, name: str, tested: str) -> bool:
    """Whether a network has the tested activation at a site, or at a group of sites."""
    labels = {**(record.architecture.get("choices") or {}), **record.parameters}
    try:
        return name in labels and Choice.parse(str(labels[name])).name == Choice.parse(tested).name
    except RebornError:
        return False


def _option_change(screen: Designed, record: TrialRecord) -> Any:
    """(k,) by how much the counts of kernels and compressions differ from the parent's; None where a form is
    unknown."""
    rows: dict[str, Any] = {}
    for option, column, absent in (
        ("kernel_size", screen.kernel, 0),
        ("compression", screen.compression, ""),
    ):
        if column is None:
            continue
        own = np.array([option_of(record, name, option, absent) for name in screen.names])
        if not set(own.tolist()) <= set(np.unique(column).tolist()):
            return None
        rows["kernel" if absent == 0 else "compression"] = np.vstack([column, own, np.full_like(own, absent)])
    if not rows:
        return np.zeros(0)
    counts = option_counts(**rows).to_numpy(dtype=np.float64)
    return counts[-2] - counts[-1]


def _table(found: Sequence[tuple[str, AddsUp]]) -> pd.DataFrame | None:
    if not found:
        return None
    parts = [part for _, one in found for part in (one.total, one.measured)]
    low, high = zip(*(part.interval() for part in parts))
    return pd.DataFrame(
        {
            "group": [name[0].upper() + name[1:] for name, _ in found for _ in range(2)],
            "label": ["sum of the effects", "measured"] * len(found),
            "effect": [part.effect for part in parts], "ci_low": low, "ci_high": high,
        }
    )  # fmt: skip


def _sizes(one: AddsUp) -> str:
    total = f"{signed(one.total.effect)}{in_unit()} {interval(*one.total.interval())}"
    measured = f"{signed(one.measured.effect)}{in_unit()} {interval(*one.measured.interval())}"
    gap = f"{signed(one.gap)}{in_unit()} {interval(one.gap_low, one.gap_high)}"
    return f"their sum is {total}, the measured difference {measured}, a gap of {gap}"


def _words(name: str, one: AddsUp) -> str:
    if one.clear:
        return f"For {name}, the effects do not add up: {_sizes(one)}."
    return f"For {name}, whether the effects add up is not resolved: {_sizes(one)}."


def _disagreement(view: RunView, name: str, one: AddsUp) -> str:
    """The caution, and what follows for the candidate."""
    return (
        f"The effects do not add up for {name}: {_sizes(one)}. What a site adds depends on the other sites, so what "
        f"the candidate gains over {view.parent} is what was measured of it, not the sum of its sites' effects."
    )
