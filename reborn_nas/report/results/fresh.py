"""The phases on unused images: candidate against parent, confirmation, control."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reborn_nas.errors import ConfigError
from reborn_nas.records import TrialRecord
from reborn_nas.report.results.screen import Designed, designed, unique_runs
from reborn_nas.report.results.view import RunView

if TYPE_CHECKING:
    import pandas as pd

    from reborn_nas.analysis import Comparison


def candidate_arms(view: RunView, chance: float = 0.0) -> CandidateArms:
    """Accuracies of the reference's network and of the candidate.

    The test set where every training has it, else what the phase judged by. Collapsed trainings are counted apart, by
    the rule for all phases.
    """
    from reborn_nas.analysis.effects.collapse import collapsed

    runs = [r for r in unique_runs(view.phase("candidate")) if r.state in ("complete", "diverged")]
    runs = [r for r in runs if r.accuracy is not None and r.arm in (view.parent_arm, "candidate")]
    whole = [r for r in runs if r.state == "complete"]
    tested = bool(whole) and all(r.test_accuracy is not None for r in whole)
    values = np.array([_judged(record, tested) for record in runs], dtype=np.float64)
    failed = [record.state == "diverged" for record in runs]
    fallen = collapsed(values, chance, failed, [record.arm for record in runs])
    arms: dict[str, list[float]] = {view.parent_arm: [], "candidate": []}
    lost = dict.fromkeys(arms, 0)
    for record, value, gone in zip(runs, values, fallen):
        if gone:
            lost[record.arm] += 1
        elif math.isfinite(value):
            arms[record.arm].append(float(value))
    part = "test" if tested else (whole[0].accuracy_part if whole else "")
    images = max((r.test_n if tested else r.accuracy_n for r in whole), default=0)
    return CandidateArms({arm: found for arm, found in arms.items() if found}, part, images, lost)


def _judged(record: TrialRecord, tested: bool) -> float:
    value = record.test_accuracy if tested and record.test_accuracy is not None else record.accuracy
    return value if value is not None and 0 <= value <= 1 else math.nan


@dataclass(frozen=True)
class CandidateArms:
    """Accuracies by arm, the part they were measured on, its images, and the collapsed trainings by arm."""

    accuracy: Mapping[str, list[float]]
    part: str
    images: int
    lost: Mapping[str, int]


def compared(view: RunView, arms: CandidateArms, level: float) -> Comparison | None:
    """Candidate − parent with its interval at 1 − `level`, in pp; None where an arm has fewer than two trainings."""
    from reborn_nas.analysis.phases.compare import candidate_against_parent

    first, second = (arms.accuracy.get(arm, []) for arm in ("candidate", view.parent_arm))
    if min(len(first), len(second)) < 2:
        return None
    found = candidate_against_parent(first, second, n_images=arms.images or None, level=level)
    if not any(arms.lost.values()):
        return found
    note = (
        f"{arms.lost['candidate']} of the candidate's and {arms.lost[view.parent_arm]} of the parent's trainings "
        "collapsed and are left out"
    )
    return replace(found, notes=(note, *found.notes))


def confirmation(view: RunView, chance: float) -> pd.DataFrame | None:
    """The top sites on the incumbent: site, effect, ci_low, ci_high, …; None where there is none."""
    from reborn_nas.analysis.phases.confirm import confirmation_effects

    runs = designed(_plain(view.phase("confirm")), view.site_names, chance)
    return _estimated(confirmation_effects, runs, chance)


def control(view: RunView, chance: float) -> pd.DataFrame | None:
    """Reborn − positive twin: site, effect, ci_low, ci_high, …, claim; None where there is none."""
    from reborn_nas.analysis.phases.confirm import control_effects

    return _estimated(
        control_effects, designed(_plain(view.phase("control")), view.site_names, chance), chance
    )


def _plain(records: list[TrialRecord]) -> list[TrialRecord]:
    """The factorial's runs, without arms of another kind (a site alone on the parent, other controls)."""
    return [record for record in records if record.arm == "design"]


def _estimated(estimate: Any, runs: Designed | None, chance: float) -> pd.DataFrame | None:
    from reborn_nas.analysis.effects.collapse import converged
    from reborn_nas.analysis.effects.linear import NO_NOISE

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
