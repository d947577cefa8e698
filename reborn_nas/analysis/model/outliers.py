"""Trainings that came to nothing among those that did not: what a model with normal noise shall make of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["FENCE", "pull_in"]

FloatArray = npt.NDArray[np.float64]

FENCE = 1.5
"""Interquartile ranges below the lower quartile (Tukey 1977, Exploratory Data Analysis, ch. 2)."""


def pull_in(values: FloatArray, fallen: npt.NDArray[np.bool_] | None = None) -> FloatArray:
    """`values` (N,), larger is better, with those that came to nothing moved to Tukey's lower fence; others as they
    are.

    A training that collapses has the accuracy of chance, tens of standard deviations below the rest. Squared, a few
    of them are all that a linear model explains, and what its noise is estimated by. At the fence they are still the
    worst of all, and the others can be told apart. There is no upper fence: where most trainings collapse, it is
    the good ones that stand out.

    Non-finite values stay what they are; with no spread between the quartiles nothing is moved.

    Args:
        fallen: (N,) bool, which came to nothing, as from `collapse.collapsed`; the fence is then that of the others.
            Without, for values that have no level of chance, all that lie below the fence.
    """
    finite = values[np.isfinite(values)] if fallen is None else values[np.isfinite(values) & ~fallen]
    if len(finite) == 0:
        return values
    low, high = np.quantile(finite, [0.25, 0.75])
    if high <= low:
        return values
    fence = low - FENCE * (high - low)
    if fallen is None:
        return np.maximum(values, fence)  # NaN stays NaN
    return np.where(fallen & np.isfinite(values), fence, values)
