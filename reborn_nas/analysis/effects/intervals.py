"""Intervals that survive being chosen, from 95 % intervals of one estimate alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reborn_nas.analysis.student import t_quantile

__all__ = ["joint_interval", "said_interval", "widened"]

FloatArray = npt.NDArray[np.float64]


def widened(table: pd.DataFrame, alpha: Any) -> tuple[FloatArray, FloatArray]:
    """The t intervals of `effect` at level 1 − `alpha` (a number, or one a row), from the 95 % ones of `table`.

    Args:
        table: with effect, ci_low, ci_high; `attrs["df"]` degrees of freedom, the normal distribution without.
    """
    df = float(table.attrs.get("df", np.inf))
    effect = table["effect"].to_numpy(dtype=np.float64)
    low, high = (table[name].to_numpy(dtype=np.float64) for name in ("ci_low", "ci_high"))
    factor = [t_quantile(float(one) / 2, df) / t_quantile(0.025, df) for one in np.atleast_1d(alpha)]
    half = (high - low) / 2 * (factor[0] if len(factor) == 1 else np.array(factor))
    return effect - half, effect + half


def joint_interval(table: pd.DataFrame, level: float) -> tuple[FloatArray, FloatArray]:
    """Intervals that hold together with probability 1 − `level` (Bonferroni over the rows).

    Whatever they leave out, Benjamini–Hochberg at `level` selects.
    """
    return widened(table, level / max(len(table), 1))


def said_interval(
    table: pd.DataFrame, selected: npt.NDArray[np.bool_], level: float
) -> tuple[FloatArray, FloatArray]:
    """The interval that a sentence gives of each row: it leaves out 0 where the row is selected, and nowhere else.

    Selected rows: Benjamini and Yekutieli (2005, JASA 100(469)), level 1 − R · `level` / rows with R selected: of all
    intervals given of selected rows, a share of `level` misses on average. Other rows: `joint_interval`.
    """
    many = int(selected.sum())
    return widened(table, np.where(selected, many, 1) * level / max(len(table), 1))
