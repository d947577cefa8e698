"""Fronts and volumes against counting by hand and by random points."""

from __future__ import annotations

import numpy as np
import pytest

from reborn_nas.analysis.model.pareto import (
    hypervolume,
    hypervolume_over_trials,
    pareto_front,
    worst_corner,
)
from reborn_nas.errors import ConfigError

BOTH = (True, False)  # accuracy up, parameters down


def test_a_front_by_hand() -> None:
    values = [(0.9, 10), (0.8, 5), (0.85, 12), (0.8, 5), (0.7, 6), (float("nan"), 1), (0.95, 30)]
    assert pareto_front(values, BOTH).tolist() == [True, True, False, True, False, False, True]


def test_a_volume_by_hand() -> None:
    # accuracies above .5 and parameters below 20: rectangles (.4 × 10) ∪ (.3 × 15)
    values = [(0.9, 10), (0.8, 5), (0.4, 1), (0.95, 30)]
    assert hypervolume(values, BOTH, (0.5, 20)) == pytest.approx(0.4 * 10 + 0.3 * 5)


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_a_volume_by_random_points(dimensions: int) -> None:
    rng = np.random.default_rng(dimensions)
    points = rng.random((12, dimensions))
    inside = rng.random((40_000, dimensions))
    share = (points[None] <= inside[:, None]).all(axis=2).any(axis=1).mean()
    assert hypervolume(points, [False] * dimensions, [1.0] * dimensions) == pytest.approx(share, abs=0.015)


def test_volume_over_trials_only_grows_and_ends_at_the_whole() -> None:
    values = np.column_stack([np.random.default_rng(0).random(40), np.random.default_rng(1).random(40)])
    values[3] = np.nan
    corner = worst_corner(values, BOTH)
    series = hypervolume_over_trials(values, BOTH, corner)
    assert (np.diff(series) >= 0).all()
    assert series[-1] == pytest.approx(hypervolume(values, BOTH, corner))
    assert series[0] > 0


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 a row"):
        pareto_front([(1.0, 2.0, 3.0)], BOTH)
