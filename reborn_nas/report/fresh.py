"""The phases on unused images: candidate against parent, confirmation, control."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from reborn_nas.errors import ConfigError
from reborn_nas.records import TrialRecord
from reborn_nas.report.screen import Designed, designed, unique_runs
from reborn_nas.report.view import RunView
from reborn_nas.report.words import interval, signed

if TYPE_CHECKING:
    import pandas as pd

    from reborn_nas.analysis import Comparison


def candidate_arms(view: RunView) -> tuple[dict[str, list[float]], str, int]:
    """Accuracies of the reference's network and of the candidate, the part they were measured on, and its images.

    The test set where every training has it, else what the phase judged by.
    """
    runs = [r for r in unique_runs(view.phase("candidate")) if r.state in ("complete", "diverged")]
    runs = [r for r in runs if r.accuracy is not None]
    tested = bool(runs) and all(r.test_accuracy is not None for r in runs)
    arms: dict[str, list[float]] = {view.parent_arm: [], "candidate": []}
    for record in runs:
        value = record.test_accuracy if tested else record.accuracy
        if record.arm in arms and value is not None:
            arms[record.arm].append(value)
    part = "test" if tested else (runs[0].accuracy_part if runs else "")
    images = max((r.test_n if tested else r.accuracy_n for r in runs), default=0)
    return {arm: values for arm, values in arms.items() if values}, part, images


def compared(view: RunView) -> Comparison | None:
    """Candidate − parent with its interval, in pp; None where an arm has fewer than two trainings."""
    from reborn_nas.analysis.compare import candidate_against_parent

    arms, _, images = candidate_arms(view)
    if min(len(arms.get(arm, ())) for arm in (view.parent_arm, "candidate")) < 2:
        return None
    return candidate_against_parent(arms["candidate"], arms[view.parent_arm], n_images=images or None)


def confirmation(view: RunView, chance: float) -> pd.DataFrame | None:
    """The top sites on the incumbent: site, effect, ci_low, ci_high, …; None where there is none."""
    from reborn_nas.analysis.confirm import confirmation_effects

    return _estimated(confirmation_effects, designed(_plain(view.phase("confirm")), view.site_names, chance))


def control(view: RunView, chance: float) -> pd.DataFrame | None:
    """Reborn − positive twin: site, effect, ci_low, ci_high, …, claim; None where there is none."""
    from reborn_nas.analysis.confirm import control_effects

    return _estimated(control_effects, designed(_plain(view.phase("control")), view.site_names, chance))


def _plain(records: list[TrialRecord]) -> list[TrialRecord]:
    """The factorial's runs, without arms of another kind (a site alone on the parent, other controls)."""
    return [record for record in records if record.arm == "design"]


def _estimated(estimate: Any, runs: Designed | None) -> pd.DataFrame | None:
    if runs is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            table: pd.DataFrame = estimate(runs.design, runs.accuracy, names=runs.names, block=runs.block)
        except ConfigError:
            return None
    table.attrs["part"], table.attrs["images"] = runs.part, runs.images
    return table


def baseline(view: RunView, screen: Designed | None, sigma: float) -> tuple[list[str], list[str]]:
    """The baseline in words, one activation everywhere against the other; and a caution where effects do not add up."""
    from reborn_nas.analysis.compare import candidate_against_parent, curvature

    runs = [r for r in unique_runs(view.phase("baseline")) if r.state in ("complete", "diverged")]
    reference, tested = (
        [record.accuracy for record in runs if record.arm == arm and record.accuracy is not None]
        for arm in (view.parent_arm, view.arms[0])
    )
    if min(len(reference), len(tested)) < 2:
        return [], []
    found = candidate_against_parent(tested, reference)
    said = [
        f"Baseline: {view.arms[0]} at every site against {view.parent}, {signed(found.effect)} percentage points "
        f"{interval(found.ci_low, found.ci_high)} ({found.n_first} against {found.n_second} trainings, "
        f"{runs[0].accuracy_part} images)."
    ]
    if screen is None or not math.isfinite(sigma):
        return said, []
    bend = curvature(reference, tested, screen.accuracy, sigma=sigma)
    size = f"{signed(bend.effect)} percentage points {interval(bend.ci_low, bend.ci_high)}"
    said.append(f"Curvature: the mean of the baseline's two ends lies {size} from the screen's mean.")
    if bend.p_value >= 0.05:
        return said, []
    return said, [
        f"Effects do not simply add up here (curvature {size}): what a site adds depends on the other sites, so an "
        f"average over half-{view.arms[0]} networks need not hold on another network."
    ]
