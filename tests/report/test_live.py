"""What optuna-dashboard is given to show."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from plotly.graph_objects import Figure

from reborn_nas.report import study_findings
from reborn_nas.report.page.live import answer_note, forest_graph, graphs
from tests.report import fabricate

TABLE = pd.DataFrame(
    {
        "site": ["a<b>", "b", "c"], "effect": [0.5, -0.4, 0.1], "ci_low": [0.2, -0.7, float("nan")],
        "ci_high": [0.9, -0.1, float("nan")], "verdict": ["confirmed", "harmful", ""],
    }
)  # fmt: skip


def test_the_graph_s_points_and_intervals_are_the_table_s() -> None:
    figure = Figure(json.loads(json.dumps(forest_graph(TABLE, "t"), allow_nan=False)))
    found = {
        site: (x, x - low if low else None, x + high if high else None)
        for trace in figure.data
        for site, x, low, high in zip(trace.y, trace.x, trace.error_x.arrayminus, trace.error_x.array)
    }
    assert {site: [v and round(v, 9) for v in row] for site, row in found.items()} == {
        "a‹b›": [0.5, 0.2, 0.9], "b": [-0.4, -0.7, -0.1], "c": [0.1, None, None],
    }  # fmt: skip
    assert list(figure.layout.yaxis.categoryarray) == ["c", "b", "a‹b›"], "depth order from the top"
    assert [trace.name for trace in figure.data] == ["helps", "does harm", "estimate"]


def test_with_verdicts_the_graph_shows_the_estimates_that_they_rest_on() -> None:
    said = TABLE.assign(said_effect=[0.7, -0.4, 0.1], said_low=[0.1, -0.9, -0.2], said_high=[1.3, -0.05, 0.4])
    figure = Figure(forest_graph(said, "t"))
    first = figure.data[0]
    ends = (first.x[0] - first.error_x.arrayminus[0], first.x[0] + first.error_x.array[0])
    assert (first.name, first.x[0], *ends) == ("helps", 0.7, pytest.approx(0.1), pytest.approx(1.3))
    assert [trace.name for trace in figure.data][2] == "unresolved"


def test_the_note_says_the_answer_and_gives_no_verdict_before_the_end() -> None:
    for finished in (True, False):
        view = replace(fabricate.view(33, title="<b>x</b> [y](z)"), finished=finished)
        findings = study_findings(view)
        note = answer_note(view, findings)
        assert ("no verdict yet" in note) is not finished
        assert "\\<b\\>x" in note
        assert "](z)" not in note.replace("\\]", "")
        assert "σ̂" in note
        assert note.count("\n| ") == 1 + 12
        assert set(graphs(view, findings)) == {"effects"} | {
            name for name in ("confirmation", "control") if getattr(findings, name) is not None
        }
