"""Verdicts: the word, the interval and the sign of a site, decided in one place.

Its intervals survive being chosen; they are made from 95 % intervals of one estimate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reborn_nas.analysis.columns import Table, floats
from reborn_nas.analysis.effects.budget import CONFIRMED as CONFIRMED_LEVEL
from reborn_nas.analysis.effects.budget import SITES, Budget, spend
from reborn_nas.analysis.student import t_quantile
from reborn_nas.errors import ConfigError

FloatArray = npt.NDArray[np.float64]


def widened(table: Table, alpha: Any) -> tuple[FloatArray, FloatArray]:
    """The t intervals of `effect` at level 1 − `alpha` (a number, or one a row), from the 95 % ones of `table`.

    Args:
        table: with effect, ci_low, ci_high; `attrs["df"]` degrees of freedom, the normal distribution without.
    """
    df = float(table.attrs.get("df", np.inf))
    effect, low, high = (floats(table, name) for name in ("effect", "ci_low", "ci_high"))
    factor = [t_quantile(one / 2, df) / t_quantile(0.025, df) for one in np.atleast_1d(alpha).tolist()]
    half = (high - low) / 2 * (factor[0] if len(factor) == 1 else np.array(factor))
    return effect - half, effect + half


def joint_interval(table: Table, level: float) -> tuple[FloatArray, FloatArray]:
    """Intervals that hold together with probability 1 − `level` (Bonferroni over the rows).

    Whatever they leave out, Benjamini–Hochberg at `level` selects.
    """
    return widened(table, level / max(len(table), 1))


def said_interval(
    table: Table, selected: npt.NDArray[np.bool_], level: float
) -> tuple[FloatArray, FloatArray]:
    """The interval that a sentence gives of each row: it leaves out 0 where the row is selected, and nowhere else.

    Selected rows: Benjamini and Yekutieli (2005, JASA 100(469)), level 1 − R · `level` / rows with R selected: of all
    intervals given of selected rows, a share of `level` misses on average. Other rows: `joint_interval`.
    """
    many = int(selected.sum())
    low, high = widened(table, np.where(selected, many, 1) * level / max(len(table), 1))
    if "lost_low" not in table:
        return low, high
    # a verdict that depends on lost runs leaves open what any reading of them does
    widest = np.fmin(low, floats(table, "lost_low")), np.fmax(high, floats(table, "lost_high"))
    return np.where(selected, low, widest[0]), np.where(selected, high, widest[1])


def settled(
    table: Table, selected: npt.NDArray[np.bool_], level: float
) -> tuple[npt.NDArray[np.bool_], FloatArray, FloatArray]:
    """Those of the `selected` rows whose `said_interval` leaves out 0, and the intervals.

    All that Benjamini and Hochberg's method selects; of fewer, such as those on which both readings of lost runs agree,
    the intervals are wider.
    """
    while True:
        low, high = said_interval(table, selected, level)
        kept = selected & (low * high > 0)
        if (kept == selected).all():
            return kept, low, high
        selected = kept


CONFIRMED, SUGGESTIVE, UNRESOLVED, HARMFUL = "confirmed", "suggestive", "unresolved", "harmful"
NO_VERDICT = "no verdict"
"""The data cannot carry one: a screen smaller than one foldover, no noise to compare with, lost runs on which the
verdict
depends, or a screen and a retest that contradict each other."""

VERDICTS = (CONFIRMED, SUGGESTIVE, UNRESOLVED, HARMFUL, NO_VERDICT)
SCREEN, RETEST, BOTH = "screen", "retest", "screen and retest"

BoolArray = npt.NDArray[np.bool_]


def screen_verdicts(effect: FloatArray, q_value: FloatArray, level: float = SITES) -> npt.NDArray[np.object_]:
    """Verdicts from the screen alone: suggestive or harmful where q ≤ `level`, by the sign, else unresolved."""
    words = np.where(np.asarray(effect) > 0, SUGGESTIVE, HARMFUL)
    return np.where(np.asarray(q_value) <= level, words, UNRESOLVED).astype(object)


def verdicts(screen: pd.DataFrame, confirmation: pd.DataFrame | None = None) -> pd.Series:
    """The verdict of each site of `screen`, in its order; arguments as in `decide`."""
    return decide(screen, confirmation)["verdict"]


def decide(
    screen: pd.DataFrame, retest: pd.DataFrame | None = None, budget: Budget | None = None
) -> pd.DataFrame:
    """What may be said of each site of `screen`, in its order.

    confirmed: the screen's q within the budget and, above 0 too, the retest's p by Holm's method at 5 % over the
        sites that
    the screen found. suggestive: above 0 in the screen alone, or in the retest alone at the retest's own level.
    harmful: either, below 0. no verdict: the screen cannot carry one, or the two phases contradict each other.
        unresolved: else.

    Args:
        screen: what `site_effects` returned.
        retest: what `confirmation_effects` returned; sites that it lacks were not tested again.
        budget: the levels; by default those of a study with or without a retest.

    Returns:
        Columns verdict, basis (the phases that it rests on, "" without), and the estimate that belongs to the word:
        said_effect, said_low, said_high (the screen's, or the retest's where that alone speaks), retest_low,
        retest_high (the retest's interval where a sentence gives it). Word, sign and interval agree: said_low > 0 for
        confirmed and suggestive, said_high < 0 for harmful, 0 inside for unresolved.

    Raises:
        ConfigError: `screen` lacks a column.
    """
    missing = {"site", "effect", "ci_low", "ci_high", "q_value", "verdict"} - set(screen.columns)
    if missing:
        raise ConfigError(f"screen: a table of site_effects is needed; it lacks {', '.join(sorted(missing))}")
    return pd.DataFrame(decided(screen, retest, budget), index=screen.index)


def decided(screen: Table, retest: Table | None, budget: Budget | None) -> dict[str, npt.NDArray[Any]]:
    """The columns of `decide`."""
    tested = retest if retest is not None and len(retest) else None
    budget = spend(retest=tested is not None) if budget is None else budget
    told = np.asarray(screen["verdict"], dtype=object)
    able = told != NO_VERDICT
    open_ = told == UNRESOLVED  # by its lost runs, perhaps, in spite of its q
    effect = floats(screen, "effect")
    selected = able & ~open_ & (floats(screen, "q_value") <= budget.screen)
    found, low, high = settled(screen, selected, budget.screen)
    able &= ~selected | found
    selected = found
    again = _retested(screen, tested, selected, budget)
    first = np.where(selected, np.sign(effect), 0.0)
    own, joined = again["own"], again["joined"]
    against = (first * own < 0) | (first * joined < 0)
    spoken = np.where(first != 0, first, np.where(able, own, 0.0))
    words = np.where(spoken > 0, SUGGESTIVE, np.where(spoken < 0, HARMFUL, UNRESOLVED)).astype(object)
    words[(first > 0) & (joined > 0)] = CONFIRMED
    words[~able | against] = NO_VERDICT
    alone = (first == 0) & (own != 0) & able
    basis = np.where(first == 0, np.where(alone, RETEST, ""), np.where(first * joined > 0, BOTH, SCREEN))
    return {
        "verdict": words,
        "basis": np.where(words == NO_VERDICT, "", basis).astype(object),
        "contradicts": against,
        "said_effect": np.where(alone, again["effect"], effect),
        "said_low": np.where(alone, again["low"], low),
        "said_high": np.where(alone, again["high"], high),
        "retest_low": again["low"],
        "retest_high": again["high"],
    }


def holm(p_value: FloatArray, level: float) -> BoolArray:
    """Which hypotheses Holm's step-down method rejects."""
    order = np.argsort(p_value, kind="stable")
    within = p_value[order] <= level / np.arange(len(p_value), 0, -1)
    rejected = np.zeros(len(p_value), dtype=np.bool_)
    rejected[order] = np.logical_and.accumulate(within)
    return rejected


def _retested(
    screen: Table, retest: Table | None, selected: BoolArray, budget: Budget
) -> dict[str, FloatArray]:
    """By site of the screen: the retest's estimate, its interval, and the sign found on its own and after the screen.

    Both selections are simple ones, so that Benjamini–Yekutieli's intervals at 5 % leave out 0 wherever they reject.
    """
    n = len(screen)
    found = {name: np.full(n, np.nan) for name in ("effect", "low", "high")}
    found |= {name: np.zeros(n) for name in ("own", "joined")}
    if retest is None:
        return found
    place = {site: k for k, site in enumerate(retest["site"])}
    where = np.array([place.get(site, -1) for site in screen["site"]])
    there = where >= 0
    effect, p_value = floats(retest, "effect"), floats(retest, "p_value")
    own = holm(p_value, budget.retest) if budget.retest else np.zeros(len(retest), dtype=np.bool_)
    gate = np.zeros(len(retest), dtype=np.bool_)
    gate[where[there & selected]] = True
    joined = np.zeros(len(retest), dtype=np.bool_)
    joined[gate] = holm(p_value[gate], CONFIRMED_LEVEL)
    # a site's interval is that of the family in which it is found
    alpha = np.full(len(retest), (budget.retest or CONFIRMED_LEVEL) / len(retest))
    alpha[own] = own.sum() * CONFIRMED_LEVEL / len(retest)
    alpha[gate] = np.where(joined[gate], int(joined.sum()), 1) * CONFIRMED_LEVEL / max(int(gate.sum()), 1)
    low, high = widened(retest, alpha)
    sign = np.sign(effect)
    for name, values in (
        ("effect", effect), ("low", low), ("high", high), ("own", own * sign), ("joined", joined * sign)
    ):  # fmt: skip
        found[name][there] = values[where[there]]
    return found
