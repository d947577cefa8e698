"""Third-party strings and numbers as text."""

from __future__ import annotations

import math

import pytest

from reborn_nas.report.results.words import (
    added,
    clean,
    count,
    csv_cell,
    duration,
    escape,
    interval,
    p_value,
    signed,
    true_minus,
)  # fmt: skip


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1", "\n=1"]
)
def test_a_cell_that_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize("value", ["layer1.0.act1", "-1", "+2.5", "-1e-3", "", 3, -4.5, None, "a=b"])
def test_harmless_cells_stay(value: object) -> None:
    assert csv_cell(value) == value


def test_escape_covers_markup_quotes_and_forbidden_characters() -> None:
    assert escape("<a b=\"c\" d='e'>&") == "&lt;a b=&quot;c&quot; d=&#x27;e&#x27;&gt;&amp;"
    assert clean("a\x00b\x1b\ud800\u202ec") == "a\ufffdb\ufffd\ufffd\ufffdc"


def test_numbers_read_as_people_write_them() -> None:
    assert [signed(v) for v in (0.254, -0.1, 0.001, -0.001, math.nan)] == [
        "+0.25",
        "−0.10",
        "0.00",
        "0.00",
        "–",
    ]
    assert interval(-0.1, 0.4) == "[−0.10, +0.40]"
    assert interval(math.nan, 1.0) == "–"
    assert [count(v) for v in (850, 34_000, 1_234_567, 2.5e9, 123_456)] == [
        "850",
        "34.0 k",
        "1.2 M",
        "2.5 G",
        "123 k",
    ]
    assert [added(v) for v in (0, 1200, -1200)] == ["0", "+1.2 k", "−1.2 k"]
    assert [p_value(v) for v in (0.0004, 0.03)] == ["< 0.001", "0.030"]
    assert [duration(v) for v in (4.23, 200, 7500, 59.9)] == ["4.2 s", "3 min 20 s", "2 h 05 min", "60 s"]
    assert (
        true_minus("-0.10 pp [-0.3, +0.1] at conv-1 and a.-2") == "−0.10 pp [−0.3, +0.1] at conv-1 and a.-2"
    )
