"""Compares measured and published cells, and tests whether the published ordering holds. Pure functions on tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from reborn_nas.analysis.phases.compare import welch
from reborn_nas.replicate.published import Claim

__all__ = [
    "CELL_COLUMNS",
    "COMPARISON_COLUMNS",
    "cell_table",
    "comparison_table",
    "interval_of_mean",
    "ordering",
    "text_in_table",
]

CELL_COLUMNS = (
    "network", "dataset", "row", "published", "n", "mean", "sd", "ci_low", "ci_high",
    "difference", "difference_low", "difference_high",
)  # fmt: skip
COMPARISON_COLUMNS = (
    "network", "dataset", "row", "against", "published", "measured", "ci_low", "ci_high", "p_value", "ordering",
    "text", "text_in_table",
)  # fmt: skip

Accuracies = Mapping[tuple[str, str, str], Sequence[float]]
"""(network, data set, row) → test accuracy of each seed, in [0, 1]."""


def cell_table(cells: Sequence[Any], accuracies: Accuracies) -> pd.DataFrame:
    """One row per cell: published, measured mean and spread over seeds, and their difference with its 95 % interval.

    All in % and percentage points. The paper reports no spread, so that the interval includes only the error of the
    measured mean (t over seeds, needs two), not the error of the published value.
    """
    rows = []
    for cell in cells:
        values = 100 * np.asarray(accuracies.get((cell.network, cell.dataset, cell.row), ()), dtype=float)
        mean, sd, low, high = interval_of_mean(values)
        published = math.nan if cell.published is None else cell.published
        rows.append(
            (
                cell.network,
                cell.dataset,
                cell.row,
                published,
                len(values),
                mean,
                sd,
                low,
                high,
                *(value - published for value in (mean, low, high)),
            )
        )
    return pd.DataFrame(rows, columns=list(CELL_COLUMNS))


def interval_of_mean(values: Any) -> tuple[float, float, float, float]:
    """Mean, standard deviation and 95 % t-interval of the mean; NaN if there are too few values."""
    array = np.asarray(values, dtype=float)
    if len(array) == 0:
        return math.nan, math.nan, math.nan, math.nan
    mean = float(array.mean())
    if len(array) < 2:
        return mean, math.nan, math.nan, math.nan
    sd = float(array.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(array) - 1)) * sd / math.sqrt(len(array))
    return mean, sd, mean - half, mean + half


def comparison_table(cells: Sequence[Any], claims: Sequence[Claim], accuracies: Accuracies) -> pd.DataFrame:
    """One row per comparison, network and data set: row − against, in percentage points, with Welch's interval.

    `ordering` states whether the published ordering holds, see `ordering`; `text_in_table` whether the paper's text
    holds with its table. Intervals are not corrected for their number.
    """
    published = {(cell.network, cell.dataset, cell.row): cell.published for cell in cells}
    places = list(dict.fromkeys((cell.network, cell.dataset) for cell in cells))
    rows = []
    for network, dataset in places:
        for claim in claims:
            for row, against in claim.pairs:
                ends = ((network, dataset, row), (network, dataset, against))
                if not all(end in published for end in ends):
                    continue
                first, second = (published[end] for end in ends)
                printed = math.nan if first is None or second is None else first - second
                measured, low, high, p_value = _difference(*(accuracies.get(end, ()) for end in ends))
                rows.append(
                    (
                        network,
                        dataset,
                        row,
                        against,
                        printed,
                        measured,
                        low,
                        high,
                        p_value,
                        ordering(printed, low, high, claim),
                        claim.says or "",
                        text_in_table(printed, claim),
                    )
                )
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def _difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float, float]:
    if min(len(first), len(second)) < 1:
        return (math.nan,) * 4
    if min(len(first), len(second)) < 2:
        return 100 * float(np.mean(first) - np.mean(second)), math.nan, math.nan, math.nan
    found = welch(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    return found.effect, found.ci_low, found.ci_high, found.p_value


def ordering(printed: float, low: float, high: float, claim: Claim) -> str:
    """Whether the published order of two rows holds, judged by the measured difference's interval `low` … `high`.

    "holds": the interval is on the published side of 0; "reversed": on the other; "unresolved": it contains 0. If
    the text claims "same": "holds" within ± the margin, "reversed" outside of it. "tie": both published numbers are
    equal. "" if there is no interval or nothing was published.
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    if claim.says == "same":
        inside = -claim.margin <= low and high <= claim.margin
        outside = low > claim.margin or high < -claim.margin
        return "holds" if inside else "reversed" if outside else "unresolved"
    if math.isnan(printed):
        return ""
    if abs(printed) < 1e-9:
        return "tie"
    if low <= 0 <= high:
        return "unresolved"
    return "holds" if (low > 0) == (printed > 0) else "reversed"


def text_in_table(printed: float, claim: Claim) -> str:
    """Whether the published numbers agree with the published text: "yes", "no", or "" if the text makes no claim."""
    if claim.says is None or math.isnan(printed):
        return ""
    holds = abs(printed) <= claim.margin + 1e-9 if claim.says == "same" else printed > 1e-9
    return "yes" if holds else "no"
