"""The checks after the control: top sites alone, the other controls, the second learning rate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reborn_nas.errors import ConfigError
from reborn_nas.records import TrialRecord
from reborn_nas.report.results.screen import unique_runs
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import interval, signed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Checks", "checks"]

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
        row = self.rate.iloc[0]
        size = f"{signed(row['effect'])} percentage points {interval(row['ci_low'], row['ci_high'])}"
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
    return None if found is None else found.rename(columns={"arm": "site"})


def _controls(runs: Sequence[TrialRecord], chance: float) -> pd.DataFrame | None:
    found = _compared(runs, lambda record: record.arm.removeprefix(CONTROLS), "reborn", chance)
    if found is None:
        return None
    turned = found.assign(
        label=[WORDS.get(str(arm), str(arm)) for arm in found["arm"]],
        effect=-found["effect"], ci_low=-found["ci_high"], ci_high=-found["ci_low"],
    )  # fmt: skip
    turned.attrs = found.attrs
    return turned


def _compared(
    runs: Sequence[TrialRecord], arm: Callable[[TrialRecord], str], reference: str, chance: float
) -> pd.DataFrame | None:
    from reborn_nas.analysis.effects.collapse import converged
    from reborn_nas.analysis.phases.arms import arm_effects

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
