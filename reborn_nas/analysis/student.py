"""Student's t distribution: quantiles that are asked for again and again, and two-sided p values."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = ["t_quantile", "two_sided_p"]


@lru_cache(maxsize=4096)
def t_quantile(tail: float, df: float) -> float:
    """What a t variable of `df` degrees of freedom exceeds with probability `tail`: 2.04 at .025 and 31."""
    return float(-special.ndtri(tail) if np.isinf(df) else -special.stdtrit(df, tail))


def two_sided_p(effect: Any, se: Any, df: float) -> npt.NDArray[np.float64]:
    """P(|t_df| ≥ |effect| / se); a zero error leaves no doubt, and a zero effect no finding."""
    size, error = np.asarray(effect, dtype=np.float64), np.asarray(se, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num(np.abs(size) / error, posinf=np.inf)
    return np.asarray(np.where(size == 0, 1.0, 2 * special.stdtr(df, -t)))
