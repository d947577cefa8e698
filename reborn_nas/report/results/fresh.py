"""Estimates from trainings after the exploration: candidate against parent, retest, control, checks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from reborn_nas.analysis import Comparison
from reborn_nas.analysis.effects.collapse import collapsed, converged
from reborn_nas.analysis.effects.linear import NO_NOISE
from reborn_nas.analysis.phases.compare import candidate_against_parent
from reborn_nas.analysis.phases.confirm import arm_effects, confirmation_effects, control_effects
from reborn_nas.errors import ConfigError
from reborn_nas.metric import spoken
from reborn_nas.records import TrialRecord, standard_error
from reborn_nas.report.results.screen import Designed, designed, possible, unique_runs
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import in_unit, interval, signed


def candidate_arms(view: RunView, chance: float = 0.0) -> CandidateArms:
    """Accuracies of the reference's network and of the candidate.

    The test set where every training has it, else what the phase judged by. Collapsed trainings are counted apart, by
    the rule for all phases.
    """
    runs = [r for r in unique_runs(view.phase("candidate")) if r.state in ("complete", "diverged")]
    runs = [r for r in runs if r.accuracy is not None and r.arm in (view.parent_arm, "candidate")]
    whole = [r for r in runs if r.state == "complete"]
    tested = bool(whole) and all(r.test_accuracy is not None for r in whole)
    values = np.array([_judged(record, tested) for record in runs], dtype=np.float64)
    failed = [record.state == "diverged" for record in runs]
    came_to_nothing = collapsed(values, chance, failed)
    fallen = collapsed(values, chance, failed, [record.arm for record in runs])
    kept = [record for record, gone in zip(runs, fallen) if not gone and record.state == "complete"]
    arms: dict[str, list[float]] = {view.parent_arm: [], "candidate": []}
    lost = {arm: sum(r.arm == arm for r, gone in zip(runs, came_to_nothing) if gone) for arm in arms}
    for record, value, gone in zip(runs, values, fallen):
        if not gone and math.isfinite(value):
            arms[record.arm].append(float(value))
    part = "test" if tested else (whole[0].accuracy_part if whole else "")
    images = max((r.test_n if tested else r.accuracy_n for r in whole), default=0)
    return CandidateArms(
        {arm: found for arm, found in arms.items() if found}, part, images, lost, typical_error(whole), kept,
        counted=bool((came_to_nothing & ~fallen).any()),
    )  # fmt: skip


def typical_error(records: Collection[TrialRecord]) -> float | None:
    """The records' standard errors over images, root mean square; None where none is known."""
    known = [error for record in records if (error := standard_error(record, spoken())) is not None]
    return math.sqrt(sum(error**2 for error in known) / len(known)) if known else None


def _judged(record: TrialRecord, tested: bool) -> float:
    value = record.test_accuracy if tested and record.test_accuracy is not None else record.accuracy
    return value if possible(value) else math.nan


@dataclass(frozen=True)
class CandidateArms:
    """Accuracies by arm, the part they were measured on, its images, and the collapsed trainings by arm.

    `se` is the standard error of one over images, root mean square, where the trainings have one; `kept` are the
    trainings that count. `counted`: whether the collapsed ones count too, because half of an arm's collapsed.
    """

    accuracy: Mapping[str, list[float]]
    part: str
    images: int
    lost: Mapping[str, int]
    se: float | None = None
    kept: Sequence[TrialRecord] = ()
    counted: bool = False


def compared(view: RunView, arms: CandidateArms, level: float) -> Comparison | None:
    """Candidate − parent with its interval at 1 − `level`, in pp; None where an arm has fewer than two trainings."""
    first, second = (arms.accuracy.get(arm, []) for arm in ("candidate", view.parent_arm))
    if min(len(first), len(second)) < 2:
        return None
    accuracy = spoken().is_accuracy
    known = accuracy or arms.se is not None
    found = candidate_against_parent(
        first,
        second,
        n_images=(arms.images or None) if known else None,
        se=None if accuracy else arms.se,
        level=level,
    )
    if not any(arms.lost.values()):
        return found
    what = "counted as they are" if arms.counted else "left out"
    candidate, parent = arms.lost["candidate"], arms.lost[view.parent_arm]
    note = f"{candidate} of the candidate's and {parent} of the parent's trainings collapsed and are {what}"
    return replace(found, notes=(note, *found.notes), collapses=what)


def confirmation(view: RunView, chance: float) -> pd.DataFrame | None:
    """The top sites on the incumbent: site, effect, ci_low, ci_high, …; None where there is none."""
    runs = designed(_plain(view.phase("confirm")), view.site_names, chance)
    return _estimated(confirmation_effects, runs, chance)


def control(view: RunView, chance: float) -> pd.DataFrame | None:
    """Reborn − positive twin: site, effect, ci_low, ci_high, …, claim; None where there is none."""
    return _estimated(
        control_effects, designed(_plain(view.phase("control")), view.site_names, chance), chance
    )


def _plain(records: list[TrialRecord]) -> list[TrialRecord]:
    """The factorial's runs, without arms of another kind (a site by itself on the parent, other controls)."""
    return [record for record in records if record.arm == "design"]


def _estimated(estimate: Any, runs: Designed | None, chance: float) -> pd.DataFrame | None:
    if runs is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            accuracy = converged(runs.accuracy, chance, runs.diverged)
            table: pd.DataFrame = estimate(runs.design, accuracy, names=runs.names, block=runs.block)
        except ConfigError:
            return None
    if table.attrs["sigma"] <= NO_NOISE:
        return None
    table.attrs.pop("interactions", None)  # in no report, and pandas copies attributes with every column
    table.attrs["part"], table.attrs["images"] = runs.part, runs.images
    return table


CONTROLS = "controls:"
WORDS = {
    "positive_twin": "positive twin",
    "extended_conv": "extended conv",
    "norm_relu": "norm + ReLU",
}


@dataclass(frozen=True)
class Checks:
    """Tables with `effect, ci_low, ci_high` in percentage points; None where a check did not run.

    Args:
        alone: `site`, each top site alone on the parent − the parent.
        controls: `label`, reborn − another thing at all top sites of the incumbent at once.
        rate: `site`, one row: the top site on the incumbent at the second learning rate.
        learning_rate: that rate.
        rate_named: whether that site has a verdict; only then is its effect at another rate more than numbers.
    """

    alone: pd.DataFrame | None = None
    controls: pd.DataFrame | None = None
    rate: pd.DataFrame | None = None
    learning_rate: float = float("nan")
    rate_named: bool = False

    def rate_words(self) -> str:
        """What the second learning rate says of the top site, a sentence; "" where it was not tried."""
        if self.rate is None:
            return ""
        row = {name: self.rate[name].iloc[0] for name in self.rate}
        size = f"{signed(row['effect'])}{in_unit()} {interval(row['ci_low'], row['ci_high'])}"
        held = (
            "is above 0 at another learning rate" if self.rate_named and row["ci_low"] > 0
            else "is below 0 at another learning rate" if self.rate_named and row["ci_high"] < 0
            else "is not resolved at another learning rate"
        )  # fmt: skip
        return (
            f"The top site's effect {held}: {row['site']} adds {size} to the candidate at "
            f"{self.learning_rate:.3g} ({row['runs']:.0f} against {self.rate.attrs['reference_runs']} trainings)."
        )


def checks(view: RunView, chance: float = 0.0, named: Collection[str] = ()) -> Checks:
    """What the check runs of `view` say; `named` are the sites that have a verdict."""
    runs = [r for r in unique_runs(view.phase("checks")) if r.state in ("complete", "diverged")]
    rate = [record for record in runs if record.arm == "rate"]
    again = _alone(rate, chance)
    return Checks(
        alone=_alone([record for record in runs if record.arm == "alone"], chance),
        controls=_controls([record for record in runs if record.arm.startswith(CONTROLS)], chance),
        rate=again,
        rate_named=again is not None and str(again["site"].iloc[0]) in named,
        learning_rate=next(
            (float(record.extra.get("learning_rate", "nan")) for record in rate), float("nan")
        ),
    )


def _alone(runs: Sequence[TrialRecord], chance: float) -> pd.DataFrame | None:
    """Runs with one factor on, or none: each factor against none."""
    found = _compared(
        runs, lambda record: next((name for name, on in record.levels.items() if on), ""), "", chance
    )
    if found is not None:
        found.columns = pd.Index(["site", *found.columns[1:]])
    return found


def _controls(runs: Sequence[TrialRecord], chance: float) -> pd.DataFrame | None:
    """Reborn − each of the others, which were compared the other way round."""
    found = _compared(runs, lambda record: record.arm.removeprefix(CONTROLS), "reborn", chance)
    if found is None:
        return None
    columns = {name: found[name].to_numpy() for name in found.columns}
    turned = pd.DataFrame(
        columns
        | {
            "effect": -columns["effect"], "ci_low": -columns["ci_high"], "ci_high": -columns["ci_low"],
            "label": [WORDS.get(str(arm), str(arm)) for arm in columns["arm"]],
        }
    )  # fmt: skip
    turned.attrs = found.attrs
    return turned


def _compared(
    runs: Sequence[TrialRecord], arm: Callable[[TrialRecord], str], reference: str, chance: float
) -> pd.DataFrame | None:
    accuracy = [float("nan") if record.accuracy is None else record.accuracy for record in runs]
    arms = [arm(record) for record in runs]
    try:
        return arm_effects(
            arms,
            converged(accuracy, chance, [record.state == "diverged" for record in runs], arms),
            reference=reference,
            block=[record.block for record in runs],
        )
    except ConfigError:
        return None
