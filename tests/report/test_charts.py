"""Axes, charts and the network's layout."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from reborn_nas.records import TrialRecord
from reborn_nas.report.figures.charts import (
    Estimate,
    Row,
    Scale,
    count_text,
    interval_chart,
    limits,
    tick_text,
    ticks,
)
from reborn_nas.report.figures.drawing import text_width
from reborn_nas.report.figures.network import TILE_H, TILE_W, _short, layout
from reborn_nas.report.figures.trials import cost_figure, hypervolume_figure, pareto
from reborn_nas.report.results.tables import cost_columns, trial_table
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import count
from reborn_nas.study.config.objectives import OBJECTIVES
from tests.report import fabricate


def test_ticks_are_round_and_inside() -> None:
    assert ticks(-0.63, 1.21, 5) == [-0.5, 0.0, 0.5, 1.0]
    assert ticks(85.2, 89.9, 5) == [86, 87, 88, 89]
    assert ticks(3, 3) == [3]
    assert [tick_text(v, [0, 0.25, 0.5]) for v in (0.25, -0.5)] == ["0.25", "−0.50"]


def test_large_ticks_are_distinct() -> None:
    marks = ticks(21.30e6, 21.37e6, 4)
    labels = [count_text(mark, marks) for mark in marks]
    assert labels == ["21.30 M", "21.32 M", "21.34 M", "21.36 M"]


def test_limits_and_scale() -> None:
    assert limits([1.0, 3.0], margin=0.5) == (0.0, 4.0)
    low, high = limits([float("nan")])
    assert low < 0 < high
    scale = Scale(0, 10, 100, 200)
    assert [scale(v) for v in (0, 5, 10, 99)] == [100, 150, 200, 200]
    assert Scale(1, 1, 0, 10)(1) == 5


def test_pareto_front_by_hand() -> None:
    cost = [3, 1, 2, 2, 4, 1]
    gain = [0.8, 0.5, 0.7, 0.9, 0.85, 0.4]
    assert pareto(cost, gain) == [1, 3]
    assert pareto([], []) == []


def test_the_front_is_of_what_was_judged_on_the_same_images() -> None:
    """Three validation trainings, the second beaten; a test accuracy above them all is shown, not joined."""

    def record(k: int, params: int, accuracy: float, part: str) -> TrialRecord:
        made = TrialRecord(
            f"screen/{k}", "screen", "design", k, "complete", {}, params=params, accuracy=accuracy
        )
        return replace(made, accuracy_part=part, extra={"latency": 0.001 * params})

    rows = [(1, 0.5, "validation"), (2, 0.4, "validation"), (3, 0.6, "validation"), (2, 0.9, "test")]
    table = trial_table(RunView("t", [record(k, *row) for k, row in enumerate(rows)]))
    assert list(table["latency_ms"]) == [1.0, 2.0, 3.0, 2.0]
    assert [name for name, _, _ in cost_columns(table)] == ["params", "latency_ms"]
    drawing = cost_figure(table, 800, "latency_ms", "ms of latency")
    assert "Best on the front: 60.0 % at 3 ms of latency" in drawing.alt
    (front,) = [mark for mark in drawing.marks if mark.kind == "path" and mark.stroke == "ink"]
    heights = front.at[1::2]
    assert len(heights) == 3  # two trainings and the corner between them
    assert heights[0] == heights[1] > heights[2]


@pytest.mark.parametrize("width", [350.0, 824.0])
def test_an_axis_title_stays_inside_its_drawing(width: float) -> None:
    title = "against the mean of the levels, percentage points at one site (95 % interval)"
    rows = [Row("1 × 1", (Estimate(0.1, -0.2, 0.4),)), Row("3 × 3", (Estimate(-0.1, -0.4, 0.2),))]
    drawing = interval_chart("pooled", "Pooled", "", rows, width=width, axis=title)
    parts = [mark for mark in drawing.marks if mark.kind == "text" and mark.text and mark.text in title]
    assert " ".join(mark.text for mark in parts) == title
    assert len(parts) == (2 if width < 400 else 1)
    for mark in parts:
        half = text_width(mark.text, mark.size) / 2
        assert mark.at[0] - half >= 0
        assert mark.at[0] + half <= width
        assert mark.at[1] < drawing.height


def test_hypervolume_is_a_staircase_that_ends_at_the_last_training() -> None:
    drawing = hypervolume_figure([0, 1, 2, 5], [0.1, 0.1, 0.3, 0.3], 800)
    (line,) = [mark for mark in drawing.marks if mark.kind == "path"]
    x, y = line.at[0::2], line.at[1::2]
    assert list(x) == sorted(x)
    assert len(x) == 5  # first, two of the step, two to the end
    assert x[-1] - x[0] == pytest.approx(5 / 2 * (x[2] - x[0]))
    assert y[0] > y[-1]


@pytest.mark.parametrize("count", [5, 33])
@pytest.mark.parametrize("width", [350.0, 824.0])
def test_every_site_has_one_tile_inside_the_drawing_and_none_overlap(count: int, width: float) -> None:
    sites = RunView("t", (), sites=fabricate.sites(count)).sites
    lanes, bottom = layout(sites.to_dict("records"), width, 20)
    tiles = [tile for lane in lanes for box in lane.boxes for tile in box.tiles]
    assert [tile.row for tile in tiles] == list(range(count))
    for tile in tiles:
        assert 0 <= tile.x <= width - TILE_W
        assert 20 <= tile.y <= bottom - TILE_H
    for a, b in itertools.combinations(tiles, 2):
        assert abs(a.x - b.x) >= TILE_W or abs(a.y - b.y) >= TILE_H


def test_a_block_never_spans_two_stages_even_where_names_agree() -> None:
    rows = [{"name": f"a{k}", "stage": k, "block": "body", "shape": ""} for k in range(3)]
    lanes, _ = layout(rows, 824, 0)
    assert [[len(box.tiles) for box in lane.boxes] for lane in lanes] == [[1], [1], [1]]


@pytest.mark.parametrize(
    ("name", "block", "shown"),
    [
        ("layer1.0.act1", "layer1.0", "act1"), ("conv1.2", "conv1.2", "conv1.2"),
        ("features.denseblock1.7", "features", "denseblock1.7"),
        ("stage:0", "", "stage:0"), ("block:layer1.0", "", "block:layer1.0"), ("relu@1", "", "relu@1"),
    ],
)  # fmt: skip
def test_tile_names_are_short_and_say_something(name: str, block: str, shown: str) -> None:
    assert _short({"site": name, "block": block}) == shown


def test_a_measured_latency_and_memory_get_their_figures() -> None:
    """Under the names by which a study keeps what it measures: `OBJECTIVES`, latency in seconds."""
    told = [
        replace(one, extra={"latency": 0.002 + 0.0001 * k, "memory": 1e9 + 1e6 * k})
        if one.phase == "search"
        else one
        for k, one in enumerate(fabricate.records(5))
    ]
    assert {"latency", "memory"} <= set(OBJECTIVES)
    table = trial_table(RunView("t", tuple(told), sites=fabricate.sites(5)))
    columns = {column: words for column, words, _ in cost_columns(table)}
    assert list(columns) == ["params", "macs", "latency_ms", "extra_memory"]
    searched = table[table["phase"] == "exploration"]["latency_ms"]
    assert 2 < searched.min() < searched.max() < 20
    drawn = cost_figure(table, 824.0, "latency_ms", columns["latency_ms"]).svg()
    assert "ms of latency" in drawn
    assert count(2.309) == "2.31"
    plain = trial_table(RunView("t", tuple(fabricate.records(5)), sites=fabricate.sites(5)))
    assert [column for column, _, _ in cost_columns(plain)] == ["params", "macs"]
