"""The arithmetic of the comparison at equal training time."""

from __future__ import annotations

import pytest

from tests.benchmarks import equal_time, fronts


def test_gains_are_over_paired_searches() -> None:
    accuracies = {
        ("additive", "recommended"): (0.97, 0.95, 0.96),
        ("additive", "best observed"): (0.96, 0.96, 0.96),
        ("tpe", "recommended"): (0.96, 0.95, 0.94),
    }
    rows = [
        {"seed": seed, "sampler": sampler, "network": way, "trainings": 50 + seed, "test accuracy": value}
        for (sampler, way), values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    means, gains = equal_time.summary(rows)
    first = next(row for row in means if (row["sampler"], row["network"]) == ("additive", "recommended"))
    assert (first["test accuracy, %"], first["sd"], first["searches"], first["trainings a search"]) == (
        96,
        1,
        3,
        51,
    )
    found = {row["additive, recommended, less"]: row for row in gains}
    assert set(found) == {"additive, best observed", "tpe, recommended"}
    # gaps of 1, 0 and 2 points: mean 1, sd 1, t₂ = 4.303
    assert found["tpe, recommended"]["points"] == 1
    assert found["tpe, recommended"]["ci_low"] == pytest.approx(1 - 4.303 / 3**0.5, abs=0.01)
    assert found["additive, best observed"]["points"] == 0


def test_the_front_of_a_study_grows() -> None:
    few, more = fronts.one_study("random", [5, 20], seed=1)
    assert 0 < few["volume"] <= more["volume"]
