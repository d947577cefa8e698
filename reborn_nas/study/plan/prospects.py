"""What a planned screen will be able to see, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from reborn_nas.analysis import minimum_detectable_effect
from reborn_nas.analysis.designs.blocks import split_allowance
from reborn_nas.analysis.effects.aliases import find_aliases
from reborn_nas.analysis.effects.budget import spend
from reborn_nas.architecture import BackboneSpec
from reborn_nas.study.plan.contrast import Contrast
from reborn_nas.study.plan.designs import screen_runs
from reborn_nas.study.plan.phases import Phase

__all__ = ["TRUE_SITES", "Prospects", "screen_prospects"]

TRUE_SITES = (1, 2, 5)
"""Numbers of sites with an effect for which the plan says how large it must be."""


@dataclass(frozen=True)
class Prospects:
    """Effects in percentage points that a screen finds with 80 % power, in either direction.

    Args:
        runs: trainings of the screen.
        spread: standard deviation of one training that is assumed, in percentage points.
        effects: number of sites with an effect → the effect that is found at each of them.
        doubled: the effect found at one site by twice the trainings.
        aliases: what else one site's effect could be, a sentence.
    """

    runs: int
    spread: float
    effects: Mapping[int, float]
    doubled: float
    aliases: str

    def lines(self) -> list[str]:
        """Sentences for people."""
        first, *others = self.effects.items()
        also = (
            "; " + ", ".join(f"{size:.2f} pp at each of {count}" for count, size in others) if others else ""
        )
        return [
            f"With its {self.runs} trainings the screen finds an effect of {first[1]:.2f} pp at one site with 80 % "
            f"power{also}, if trainings spread by {self.spread:.2f} pp; the baseline measures the spread.",
            f"Twice the trainings would find {self.doubled:.2f} pp at one site.",
            self.aliases,
        ]


def screen_prospects(
    phase: Phase, contrast: Contrast, seed: int, spread: float, *, retest: bool = False
) -> Prospects | None:
    """What the screen `phase` can see where trainings spread by `spread` percentage points; None without a screen.

    Args:
        retest: whether the study has a retest, to which a part of the error budget goes.
    """
    if not phase.count:
        return None
    runs = screen_runs(phase, contrast, BackboneSpec("own:any"), seed)
    names = list(contrast.factors)
    design = np.array([[run.levels[name] for name in names] for run in runs], dtype=np.bool_)
    block = np.array([run.block for run in runs])
    splits = 1 + int(block.max())
    matrix = np.hstack([design - 0.5, np.eye(splits)[block]])
    wider = float(split_allowance(matrix, len(names), block).mean())
    sides = (contrast.low, contrast.high)
    options = sum(max(0, len(values) - 1) for side in sides for values in (side.kernels, side.compressions))

    level = spend(retest=retest).screen

    def smallest(times: int, true_sites: int) -> float:
        return minimum_detectable_effect(
            times * len(runs), len(names), wider * spread, q=level, true_sites=true_sites,
            df=max(1, times * (len(runs) - splits) - len(names) - options),
        )  # fmt: skip

    effects = {count: smallest(1, count) for count in TRUE_SITES if count <= len(names)}
    return Prospects(len(runs), spread, effects, smallest(2, 1), find_aliases(design).sentence(names))
