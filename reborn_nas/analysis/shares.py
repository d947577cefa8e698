"""Intervals of shares of right answers."""

from __future__ import annotations

import math

__all__ = ["wilson"]


def wilson(correct: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in [0, 1]; it covers the images drawn, not the training's luck."""
    if n < 1:
        return 0.0, 1.0
    share, z2 = correct / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if correct <= 0 else max(0.0, centre - half)  # exact at both ends, whatever rounding says
    return low, 1.0 if correct >= n else min(1.0, centre + half)
