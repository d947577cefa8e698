"""Trainings that came to nothing among those that did not: what a model with normal noise shall make of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["FENCE", "pull_in"]

FloatArray = npt.NDArray[np.float64]

FENCE = 1.5
"""Interquartile ranges below the lower quartile (Tukey 1977, Exploratory Data Analysis, ch. 2)."""


def pull_in(values: FloatArray) -> FloatArray:
    """`values` (N,), larger is better, with those below Tukey's lower fence moved up to it; others as they are.

    A training that collapses has the accuracy of chance, tens of standard deviations below the rest. Squared, a few
    of them are all that a linear model explains, and what its noise is estimated by. At the fence they are still the
    worst of all, and the others can be told apart. There is no upper fence: where most trainings collapse, it is
    the good ones that stand out.

    Non-finite values stay what they are; with no spread between the quartiles nothing is moved.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return values
    low, high = np.quantile(finite, [0.25, 0.75])
    if high <= low:
        return values
    return np.maximum(values, low - FENCE * (high - low))  # NaN stays NaN
