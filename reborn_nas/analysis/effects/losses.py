"""Lost runs, which never ended: how far they could move the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reborn_nas.analysis.effects.collapse import collapsed
from reborn_nas.analysis.effects.linear import as_accuracy, as_design
from reborn_nas.analysis.effects.screening import complete_effects
from reborn_nas.analysis.effects.verdicts import NO_VERDICT
from reborn_nas.errors import ConfigError


@dataclass(frozen=True)
class LossBounds:
    """The screen's table under both readings of its lost runs.

    Args:
        chance: as if every lost run had come out at chance. Where that is a collapse by the one rule for it
            (`collapse.collapsed`), the effects are those among the other runs, as for any collapsed run.
        block_mean: as if every lost run had been an ordinary one, at its block's mean.
        lost: runs that were replaced.
    """

    chance: pd.DataFrame
    block_mean: pd.DataFrame
    lost: int


def loss_bounds(
    design: Any,
    accuracy: Any,
    *,
    lost: Any = None,
    chance: float = 0.0,
    names: Sequence[Any] | None = None,
    block: Any = None,
    covariates: Any = None,
    failed: Any = None,
    level: float = 0.05,
) -> LossBounds:
    """`site_effects` with the lost runs at chance and at their block's mean.

    Args:
        design, accuracy, names, block, covariates, failed, level: as in `site_effects`.
        lost: (N,) bool; the missing runs (NaN accuracy) without, and always counted among them.
        chance: accuracy of a guess, such as 1/classes.
    """
    levels = as_design(design)
    outcome = as_accuracy(accuracy, len(levels))
    gone = np.isnan(outcome) if lost is None else np.asarray(lost, dtype=np.bool_) | np.isnan(outcome)
    if gone.shape != outcome.shape or gone.all():
        raise ConfigError("lost: one bool a run, and at least one run that was not lost")
    ordinary = ~(gone | collapsed(outcome, chance, failed))
    tables = [
        complete_effects(
            levels, filled, names=names, block=block, covariates=covariates, failed=failed, chance=chance, level=level,
        )
        for filled in (np.where(gone, chance, outcome), _at_block_mean(outcome, gone, ordinary, block))
    ]  # fmt: skip
    return LossBounds(tables[0], tables[1], int(gone.sum()))


def agreed_verdicts(bounds: LossBounds) -> npt.NDArray[np.object_]:
    """The verdict on which both readings agree, `no verdict` elsewhere."""
    first, second = bounds.chance["verdict"].to_numpy(), bounds.block_mean["verdict"].to_numpy()
    return np.where(first == second, first, NO_VERDICT).astype(object)


def _at_block_mean(
    outcome: npt.NDArray[np.float64], gone: npt.NDArray[np.bool_], ordinary: npt.NDArray[np.bool_], block: Any
) -> npt.NDArray[np.float64]:
    blocks = np.zeros(len(outcome), dtype=np.int64) if block is None else pd.factorize(np.asarray(block))[0]
    filled = outcome.copy()
    overall = outcome[ordinary if ordinary.any() else ~gone].mean()
    for index in np.unique(blocks):
        here = blocks == index
        kept = outcome[here & ordinary]
        filled[here & gone] = kept.mean() if len(kept) else overall
    return filled
