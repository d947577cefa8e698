"""Lost runs: missing ones and diverged ones, and how far they could move the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reborn_nas.analysis.linear import as_accuracy, as_design, fit, site_names
from reborn_nas.analysis.verdicts import NO_VERDICT
from reborn_nas.errors import ConfigError

SUSPICIOUS = 0.1
"""Below this p value, divergence is taken to go with the number of reborn sites."""


@dataclass(frozen=True)
class LossBounds:
    """The screen's table under both readings of its lost runs.

    Args:
        chance: as if every lost run had been at chance.
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
    seed: int = 0,
) -> LossBounds:
    """`site_effects` with the lost runs at chance and at their block's mean.

    Args:
        design, accuracy, names, block, covariates, seed: as in `site_effects`.
        lost: (N,) bool; the missing runs (NaN accuracy) without, and always counted among them.
        chance: accuracy of a guess, such as 1/classes.
    """
    from reborn_nas.analysis.effects import effect_table

    levels = as_design(design)
    outcome = as_accuracy(accuracy, len(levels))
    gone = np.isnan(outcome) if lost is None else np.asarray(lost, dtype=np.bool_) | np.isnan(outcome)
    if gone.shape != outcome.shape or gone.all():
        raise ConfigError("lost: one bool a run, and at least one run that was not lost")
    listed = site_names(names, levels.shape[1])
    tables = []
    for filled in (np.where(gone, chance, outcome), _at_block_mean(outcome, gone, block)):
        fitted = fit(levels, filled, block=block, covariates=covariates, names=names)
        tables.append(effect_table(fitted, listed, seed=seed))
    return LossBounds(tables[0], tables[1], int(gone.sum()))


def agreed_verdicts(bounds: LossBounds) -> npt.NDArray[np.object_]:
    """The verdict on which both readings agree, `no verdict` elsewhere."""
    first, second = bounds.chance["verdict"].to_numpy(), bounds.block_mean["verdict"].to_numpy()
    return np.where(first == second, first, NO_VERDICT).astype(object)


def divergence_p_value(design: Any, diverged: Any) -> float:
    """Does divergence go with the number of reborn sites? Exact two-sided permutation p value.

    Given k diverged runs, all sets of k runs are equally likely if it does not; the statistic is the sum of
    their reborn counts, its distribution counted by dynamic programming. 1 when none or all diverged.
    """
    levels = as_design(design)
    flags = np.asarray(diverged, dtype=np.bool_)
    if flags.shape != (len(levels),):
        raise ConfigError(f"diverged: one bool for each of the {len(levels)} runs, not shape {flags.shape}")
    counts = levels.sum(axis=1)
    counts = counts - counts.min()
    k, top = int(flags.sum()), int(counts.sum())
    if k in (0, len(flags)):
        return 1.0
    ways = np.zeros((k + 1, top + 1))
    ways[0, 0] = 1.0
    for done, count in enumerate(counts, start=1):
        # probability that j of the first `done` runs are chosen: keep the table a distribution for each j
        chosen = np.arange(1, k + 1)[:, None] / done
        shifted = np.zeros_like(ways[:-1])
        shifted[:, count:] = ways[:-1, : top + 1 - count]
        kept = np.maximum(1 - np.arange(k + 1)[:, None] / done, 0.0)
        ways = ways * kept
        ways[1:] += shifted * chosen
    sums = np.arange(top + 1)
    middle = k * counts.mean()
    far = np.abs(sums - middle) >= abs(float(counts[flags].sum()) - middle) - 1e-9
    return float(min(1.0, ways[k][far].sum() / ways[k].sum()))


def needs_bounds(design: Any, accuracy: Any, diverged: Any = None) -> bool:
    """Whether both bounds must be printed: a run is missing, or divergence goes with the reborn count."""
    outcome = np.asarray(accuracy, dtype=np.float64)
    if np.isnan(outcome).any():
        return True
    return diverged is not None and divergence_p_value(design, diverged) < SUSPICIOUS


def _at_block_mean(
    outcome: npt.NDArray[np.float64], gone: npt.NDArray[np.bool_], block: Any
) -> npt.NDArray[np.float64]:
    blocks = np.zeros(len(outcome), dtype=np.int64) if block is None else pd.factorize(np.asarray(block))[0]
    filled = outcome.copy()
    overall = outcome[~gone].mean()
    for index in np.unique(blocks):
        here = blocks == index
        kept = outcome[here & ~gone]
        filled[here & gone] = kept.mean() if len(kept) else overall
    return filled
