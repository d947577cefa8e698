"""Several objectives at once: the Pareto front, and the hypervolume that it dominates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.errors import ConfigError

FloatArray = npt.NDArray[np.float64]


def pareto_front(values: Any, maximise: Sequence[bool]) -> npt.NDArray[np.bool_]:
    """(N,) whether no other row is at least as good everywhere and better somewhere; rows with NaN never are.

    Args:
        values: (N, M) objectives.
        maximise: (M,) whether larger is better.
    """
    points = _as_losses(values, maximise)
    known = np.isfinite(points).all(axis=1)
    front: npt.NDArray[np.bool_] = np.array(known)
    for row in np.flatnonzero(known):
        better = (points[known] <= points[row]).all(axis=1) & (points[known] < points[row]).any(axis=1)
        front[row] = not better.any()
    return front


def hypervolume(values: Any, maximise: Sequence[bool], reference: Sequence[float]) -> float:
    """Volume that the rows dominate up to the point `reference` (M,), in the product of the objectives' units.

    Exact, by slicing along the last objective: meant for fronts of some hundred points and up to four objectives.
    """
    points = _as_losses(values, maximise)
    corner = _as_losses(np.asarray(reference, dtype=np.float64)[None], maximise)[0]
    points = points[np.isfinite(points).all(axis=1)]
    points = points[(points < corner).all(axis=1)]
    return _volume(points, corner)


def hypervolume_over_trials(values: Any, maximise: Sequence[bool], reference: Sequence[float]) -> FloatArray:
    """(N,) hypervolume of the first 1, 2, …, N rows."""
    table = np.asarray(values, dtype=np.float64)
    found, kept = [], np.zeros((0, len(maximise)))
    for row in table:
        candidate = np.concatenate([kept, row[None]])
        front = pareto_front(candidate, maximise)
        if front[-1]:
            kept = candidate[front]
            found.append(hypervolume(kept, maximise, reference))
        else:
            found.append(found[-1] if found else 0.0)
    return np.array(found)


def worst_corner(values: Any, maximise: Sequence[bool]) -> FloatArray:
    """(M,) the worst value of each objective, a tenth of its range further out: a reference for the hypervolume."""
    table = np.asarray(values, dtype=np.float64)
    table = table[np.isfinite(table).all(axis=1)]
    if not len(table):
        return np.zeros(len(maximise))
    low, high = table.min(axis=0), table.max(axis=0)
    margin = 0.1 * np.where(high > low, high - low, np.maximum(np.abs(high), 1e-12))
    return np.where(np.asarray(maximise), low - margin, high + margin)


def _as_losses(values: Any, maximise: Sequence[bool]) -> FloatArray:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(maximise):
        raise ConfigError(f"objectives: {len(maximise)} a row, not an array of shape {table.shape}")
    return table * np.where(np.asarray(maximise, dtype=bool), -1.0, 1.0)


def _volume(points: FloatArray, corner: FloatArray) -> float:
    """Of losses below `corner`, recursively over slices of the last dimension."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points[:, 0].min())
    order = points[np.argsort(points[:, -1])]
    edges = np.append(order[1:, -1], corner[-1])
    total = 0.0
    for count, (lower, upper) in enumerate(zip(order[:, -1], edges, strict=True), start=1):
        if upper > lower:
            total += float(upper - lower) * _volume(order[:count, :-1], corner[:-1])
    return total
