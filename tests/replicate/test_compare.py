"""Measured beside published, by hand."""

from __future__ import annotations

import math

import pytest

from reborn_nas.replicate.cells import Cell
from reborn_nas.replicate.compare import cell_table, comparison_table, ordering, text_in_table
from reborn_nas.replicate.published import Claim

ABOVE = Claim(rows=("b",), against=("a",), says="above")
SAME = Claim(rows=("b",), against=("a",), says="same", margin=0.5)
OPEN = Claim(rows=("b",), against=("a",))


def test_a_cell_by_hand() -> None:
    """Accuracies 90, 91 and 92 %: mean 91, sd 1, t(.975, 2) = 4.3027, half width 4.3027 / √3 = 2.4841."""
    cells = [Cell("net", "data", "a", 90.5), Cell("net", "data", "b", None), Cell("net", "data", "c", 80.0)]
    table = cell_table(cells, {("net", "data", "a"): [0.90, 0.91, 0.92], ("net", "data", "c"): [0.5]})
    a, b, c = table.to_dict("records")
    assert (a["n"], a["mean"], a["sd"]) == (3, pytest.approx(91), pytest.approx(1))
    assert a["ci_high"] - a["mean"] == pytest.approx(2.4841, abs=1e-4)
    assert a["difference"] == pytest.approx(0.5)
    assert a["difference_low"] == pytest.approx(0.5 - 2.4841, abs=1e-4)
    assert b["n"] == 0
    assert math.isnan(b["mean"])
    assert (c["mean"], c["difference"]) == (pytest.approx(50), pytest.approx(-30))
    assert math.isnan(c["difference_low"])  # one seed has no interval


def test_a_comparison_by_hand() -> None:
    """Means 90 and 91, sd 1 each, n = 3: se = √(2/3) = .8165, df = 4, t = 2.7764, half width 2.2669."""
    cells = [Cell("net", "data", "a", 90.0), Cell("net", "data", "b", 90.4)]
    seeds = {("net", "data", "a"): [0.89, 0.90, 0.91], ("net", "data", "b"): [0.90, 0.91, 0.92]}
    (row,) = comparison_table(cells, [ABOVE], seeds).to_dict("records")
    assert row["published"] == pytest.approx(0.4)
    assert row["measured"] == pytest.approx(1)
    assert row["ci_low"] == pytest.approx(1 - 2.2669, abs=1e-4)
    assert row["ci_high"] == pytest.approx(1 + 2.2669, abs=1e-4)
    assert row["ordering"] == "unresolved"
    assert row["text_in_table"] == "yes"


def test_comparisons_whose_rows_are_not_wanted_are_left_out() -> None:
    assert len(comparison_table([Cell("net", "data", "a", 90.0)], [ABOVE], {})) == 0


@pytest.mark.parametrize(
    ("claim", "printed", "low", "high", "verdict"),
    [
        (OPEN, 0.3, 0.1, 0.5, "holds"),
        (OPEN, 0.3, -0.5, -0.1, "reversed"),
        (OPEN, -0.3, -0.5, -0.1, "holds"),
        (OPEN, -0.3, 0.1, 0.5, "reversed"),
        (OPEN, 0.3, -0.1, 0.5, "unresolved"),
        (OPEN, 0.0, 0.1, 0.5, "tie"),
        (OPEN, math.nan, 0.1, 0.5, ""),
        (OPEN, 0.3, math.nan, math.nan, ""),
        (ABOVE, -0.3, -0.5, -0.1, "holds"),  # the table's order, whatever the text says
        (SAME, 0.0, -0.4, 0.4, "holds"),
        (SAME, 0.0, 0.2, 0.6, "unresolved"),
        (SAME, 0.0, 0.6, 0.9, "reversed"),
        (SAME, math.nan, -0.9, -0.6, "reversed"),
    ],
)
def test_orderings(claim: Claim, printed: float, low: float, high: float, verdict: str) -> None:
    assert ordering(printed, low, high, claim) == verdict


def test_the_text_and_its_table() -> None:
    assert [text_in_table(x, ABOVE) for x in (0.01, 0.0, -0.01, math.nan)] == ["yes", "no", "no", ""]
    assert [text_in_table(x, SAME) for x in (0.5, -0.5, 0.51)] == ["yes", "yes", "no"]
    assert text_in_table(1.0, OPEN) == ""
