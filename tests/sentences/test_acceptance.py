"""How often what is printed is so: a share of the table of `tests.benchmarks.sentences`, with its limits."""

from __future__ import annotations

import math

import pytest

from tests.benchmarks.sentences import PHASES
from tests.sentences.studies import Mix
from tests.sentences.tally import measures, read_many, rows_of


def found(scenario: str, sites: int, runs: int, phases: str, studies: int) -> dict[str, float]:
    mix = Mix(sites, runs, **PHASES[phases])
    return measures(rows_of(read_many(scenario, mix, studies)))


def within(share: float, limit: float, studies: int) -> bool:
    """Whether a share over `studies` is at most `limit`, three standard errors allowed for."""
    return share <= limit + 3 * math.sqrt(limit * (1 - limit) / studies)


def test_a_share_of_the_table() -> None:
    """No effect, and a retest: with unadjusted intervals of the retest a quarter of these studies claimed a site."""
    null = found("null", 5, 32, "retest", 100)
    assert within(null["false_site"], 0.05, 100)
    assert within(1 - null["coverage"], 0.05, 300)  # five intervals a study, and they share one spread
    five = found("five", 5, 32, "retest", 25)
    assert five["power"] > 0.8
    assert five["false_site"] == 0
    assert within(five["fcr"], 0.05, 50)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sites", "runs", "phases", "studies"),
    [
        (5, 32, "screen", 300), (5, 32, "candidate", 300), (10, 48, "retest", 300), (33, 96, "retest", 200),
        (5, 32, "all", 400), (33, 72, "all", 150), (2, 8, "all", 200),
    ],
)  # fmt: skip
def test_nothing_planted(sites: int, runs: int, phases: str, studies: int) -> None:
    null = found("null", sites, runs, phases, studies)
    assert within(null["false_site"], 0.05, studies)
    assert within(null["false_candidate"], 0.05, studies)
    assert within(null["false_any"], 0.10, studies)
    assert within(null["false_failure"], 0.02, studies)
    assert within(null["fcr"], 0.05, studies)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "sites", "runs", "least_coverage"),
    [
        ("harm", 5, 32, 0.93), ("weak", 33, 96, 0.93), ("split", 5, 32, 0.93), ("split", 33, 96, 0.93),
        ("triples", 33, 96, 0.92), ("tails", 5, 32, 0.93), ("drift", 5, 32, 0.93), ("unequal", 5, 32, 0.93),
        ("ceiling", 5, 32, 0.92), ("many", 33, 96, 0.93),
    ],
)  # fmt: skip
def test_intervals_of_what_is_named_cover(
    scenario: str, sites: int, runs: int, least_coverage: float
) -> None:
    studies = 100
    row = found(scenario, sites, runs, "retest", studies)
    assert row["coverage"] >= least_coverage
    assert within(row["fcr"], 0.06, studies)


@pytest.mark.slow
def test_no_trend_is_seen_in_unrelated_effects() -> None:
    studies = 200
    assert within(found("scatter", 5, 32, "screen", studies)["false_trend"], 0.05, studies)
    assert within(found("scatter", 10, 48, "screen", studies)["false_trend"], 0.05, studies)


@pytest.mark.slow
def test_failed_trainings_are_named_by_site_and_cost_little() -> None:
    plain, fallen = (found(name, 33, 96, "screen", 60) for name in ("five", "collapses"))
    assert fallen["power"] >= 0.95 * plain["power"]
    assert fallen["false_failure"] <= 0.05
    quarter, often = (found(name, 33, 96, "screen", 60) for name in ("diverges", "diverges_often"))
    assert quarter["failing_named"] >= 0.7
    assert often["failing_named"] >= 0.95
    assert quarter["power"] >= 0.9 * plain["power"]
