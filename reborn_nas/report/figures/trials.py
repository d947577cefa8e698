"""Figures of trainings: candidate against parent, accuracy against cost, learning curves, pictures of one training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reborn_nas.metric import spoken
from reborn_nas.records import TrialRecord
from reborn_nas.report.figures.charts import NARROW, Scale, axes, legend, limits, tick_text, ticks
from reborn_nas.report.figures.drawing import Drawing, shorten
from reborn_nas.report.figures.network import architecture_figure
from reborn_nas.report.figures.palette import PHASE_SHAPES, PHASE_TONES
from reborn_nas.report.results.networks import curve_scores
from reborn_nas.report.results.words import as_value, capital, cases, count, metric_label

MOST_POINTS = 1200
MOST_CURVES = 60


def strip_figure(arms: Mapping[str, Sequence[float]], width: float, part: str, n: int) -> Drawing:
    """The accuracies (in [0, 1]) of each arm as a row of points with their mean."""
    narrow = width < NARROW
    left = 8.0 if narrow else 130.0
    height = 46
    drawing = Drawing(
        "candidate", f"Candidate against {next(iter(arms))}", "", width, 16 + height * len(arms) + 48
    )
    values = [spoken().plotted(value) for seeds in arms.values() for value in seeds]
    scale = Scale(*limits(values, margin=0.12), left + 6, width - (14 if narrow else 76))
    bottom = drawing.height - 42
    marks = ticks(scale.low, scale.high, 4 if narrow else 6)
    for value in marks:
        drawing.line(scale(value), 8, scale(value), bottom, "rule")
        drawing.text(scale(value), bottom + 17, tick_text(value, marks), "muted", size=11.5, anchor="middle")
    axis = f"{part} {spoken().axis} ({cases(n)}), one point a training"
    drawing.text((scale.start + scale.end) / 2, bottom + 36, axis, "muted", size=11.5, anchor="middle")
    texts = []
    for position, (arm, seeds) in enumerate(arms.items()):
        y = 12 + height * position + height / 2 + (8 if narrow else 0)
        tone = "gain" if arm == "candidate" else "flat"
        mean = sum(seeds) / len(seeds)
        texts.append(f"{arm}: mean {as_value(mean)} of {len(seeds)} trainings")
        with drawing.hover(texts[-1]):
            if narrow:
                drawing.text(2, y - 17, f"{arm}, mean {as_value(mean)}", "ink", size=12, weight=600)
            else:
                drawing.text(2, y + 4, shorten(arm, left - 6, 13), "ink", size=13, weight=600)
                drawing.text(width - 4, y + 4, as_value(mean), "ink", size=13, weight=600, anchor="end")
            drawing.line(scale.start, y, scale.end, y, "rule")
            for k, value in enumerate(seeds):
                drawing.circle(scale(spoken().plotted(value)), y + (k % 3 - 1) * 4.5, 4.4, tone, opacity=0.6)
            drawing.line(
                scale(spoken().plotted(mean)), y - 13, scale(spoken().plotted(mean)), y + 13, "ink", width=2.2
            )
    drawing.alt = "; ".join(texts) + "."
    return drawing


def pareto(cost: Sequence[float], gain: Sequence[float]) -> list[int]:
    """Indices of the points that are not dominated, by ascending cost."""
    front, best = [], -math.inf
    for index in sorted(range(len(cost)), key=lambda k: (cost[k], -gain[k])):
        if gain[index] > best:
            front.append(index)
            best = gain[index]
    return front


def cost_figure(trials: pd.DataFrame, width: float, column: str, words: str, unit: str = "") -> Drawing:
    """Accuracy against one cost, one point per training, with the Pareto front.

    The front is of the trainings judged on validation images, if there are any: only accuracies on the same images can
    be compared.
    """
    shown = trials[(trials[column] > 0) & trials["accuracy"].notna() & (trials["state"] == "complete")]
    total = len(shown)
    alike = shown[shown["part"] == "validation"]
    alike = alike if len(alike) else shown
    front = [alike.index[k] for k in pareto(list(alike[column]), list(alike["accuracy"]))]
    if total > MOST_POINTS:
        shown = shown.loc[sorted({*shown.sample(MOST_POINTS, random_state=0).index, *front})]
    drawing = Drawing(
        f"{spoken().name}_{column}",
        f"{capital(metric_label())} against {words}",
        "",
        width,
        330 if width < NARROW else 380,
    )
    phases = [phase for phase in PHASE_TONES if phase in set(shown["phase"])]
    entries = [(PHASE_SHAPES[p], PHASE_TONES[p], p) for p in phases] + [("line", "ink", "best at its cost")]
    top = legend(drawing, entries, 2, 38) + 20
    frame = axes(
        drawing, limits(list(shown[column])), limits([spoken().plotted(v) for v in shown["accuracy"]]),
        words + unit, spoken().axis, counts=True, top=top,
    )  # fmt: skip
    rows: dict[Any, dict[Any, Any]] = dict(zip(shown.index, shown.to_dict("records")))
    for row in rows.values():
        x, y = frame.x(row[column]), frame.y(spoken().plotted(row["accuracy"]))
        shape, tone = PHASE_SHAPES.get(row["phase"], "circle"), PHASE_TONES.get(row["phase"], "flat")
        if total <= 400:
            with drawing.hover(f"{row['key']}: {as_value(row['accuracy'], 2)}, {count(row[column])} {words}"):
                drawing.shape(shape, x, y, 3.8, tone, opacity=0.75)
        else:
            drawing.shape(shape, x, y, 3.0, tone, opacity=0.6)
    steps: list[tuple[float, float]] = []
    for index in front:
        x, y = frame.x(rows[index][column]), frame.y(spoken().plotted(rows[index]["accuracy"]))
        steps += [(x, steps[-1][1])] if steps else []
        steps.append((x, y))
    if len(steps) > 1:
        drawing.path(steps, "ink", width=1.6)
    best = rows[front[-1]] if front else None
    thinned = f", {len(shown)} of {total} drawn" if len(shown) < total else ""
    drawing.alt = f"{total} trainings{thinned}." + (
        f" Best on the front: {as_value(best['accuracy'])} at {count(best[column])} {words}."
        if best is not None
        else ""
    )
    return drawing


def hypervolume_figure(numbers: Sequence[int], values: Sequence[float], width: float) -> Drawing:
    """The hypervolume of the exploration's front over its trainings, as a rising staircase."""
    height = 260 if width < NARROW else 300
    drawing = Drawing("hypervolume", "Hypervolume over the exploration's trainings", "", width, height)
    frame = axes(
        drawing, (float(numbers[0]), float(max(numbers[-1], numbers[0] + 1))), limits(values, zero=True),
        "training of the exploration", "hypervolume", integers=True,
    )  # fmt: skip
    steps: list[tuple[float, float]] = []
    for training, value in zip(numbers, values):
        x, y = frame.x(training), frame.y(value)
        if not steps or y != steps[-1][1] or training == numbers[-1]:
            steps += [(x, steps[-1][1])] if steps else []
            steps.append((x, y))
    drawing.path(steps, PHASE_TONES["exploration"], width=2)
    drawing.alt = f"Hypervolume from {values[0]:.3g} to {values[-1]:.3g} over {len(values)} trainings."
    return drawing


def curve_points(rows: Sequence[Mapping[str, Any]], column: str | None) -> list[tuple[float, float]]:
    """(epoch, value as it is drawn) of a learning curve's rows, of the metric where `column` is None."""
    if column is not None:
        return _points(rows, column, 1.0)
    return [(epoch, spoken().plotted(score)) for epoch, score in curve_scores(rows)]


def curve_figure(
    curves: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    width: float,
    column: str | None,
    note: str = "",
) -> Drawing:
    """Learning curves, each a phase and its `curve_points`, of the metric where `column` is None, else of the loss."""
    name, words = (
        (f"curves_{spoken().name}", metric_label()) if column is None else ("curves_loss", "training loss")
    )
    drawing = Drawing(name, f"Learning curves: {words}", "", width, 300 if width < NARROW else 340)
    phases = [phase for phase in PHASE_TONES if any(phase == p for p, _ in curves)]
    top = legend(drawing, [(PHASE_SHAPES[p], PHASE_TONES[p], p) for p in phases], 2, 38) + 18
    epochs = [epoch for _, curve in curves for epoch, _ in curve]
    values = [value for _, curve in curves for _, value in curve]
    low, high = min(epochs), max(epochs)
    frame = axes(
        drawing, (low, high if high > low else low + 1), limits(values), "epoch",
        spoken().axis if column is None else words, top=top, integers=True,
    )  # fmt: skip
    for phase, curve in curves:
        points = [(frame.x(e), frame.y(v)) for e, v in curve]
        if len(points) > 120:
            points = [*points[:: math.ceil(len(points) / 120)], points[-1]]
        drawing.shape(PHASE_SHAPES[phase], *points[-1], 3.0, PHASE_TONES[phase], opacity=0.75)
        drawing.path(points, PHASE_TONES[phase], width=1.3, opacity=0.55)
    drawing.alt = f"{words.capitalize()} by epoch of {len(curves)} trainings{note}."
    return drawing


PICTURE, BROAD = 480.0, 824.0
"""Widths of the pictures of one training."""
FEW = 8
"""Most sites of a narrow picture."""
CURVE_POINTS = 200


def trial_pictures(
    record: TrialRecord, sites: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, str]]
) -> dict[str, str]:
    """File name → SVG: the architecture, drawn as in the report, and the learning curve if there is one.

    Args:
        record: the training.
        sites: the backbone's sites, one mapping per site, with `name, stage, block, shape, activation`.
        curve: rows of the curve's file: `epoch`, `train_loss`, the metric.
    """
    choices = record.architecture.get("choices")
    rows = [{**site, "shape": " × ".join(map(str, site["shape"]))} for site in sites]
    labels = (
        {str(site): str(label) for site, label in choices.items()} if isinstance(choices, Mapping) else {}
    )
    width = BROAD if len(rows) > FEW else PICTURE
    network = architecture_figure(rows, labels, width, f"{record.label}: architecture")
    pictures = {"architecture.svg": network.svg(literal=True, hover=False)}
    drawn = learning_curve(record.label, curve)
    if drawn is not None:
        pictures["learning-curve.svg"] = drawn.svg(literal=True, hover=False)
    return pictures


def learning_curve(key: str, curve: Sequence[Mapping[str, str]]) -> Drawing | None:
    """The metric by epoch, and the training loss scaled to the same frame; None where no row has the metric."""
    step = math.ceil(len(curve) / CURVE_POINTS)
    kept = [*curve[:-1:step], *curve[-1:]] if curve else []
    scores = curve_scores(kept)
    if not scores:
        return None
    accuracy = [(epoch, spoken().plotted(score)) for epoch, score in scores]
    loss = _points(kept, "train_loss", 1.0)
    words = f"validation {metric_label()}"
    drawing = Drawing("curve", f"{key}: learning curve", "", PICTURE, 300)
    last_value = as_value(scores[-1][1])
    entries = [("line", "gain", f"{words}, {last_value} at the end")]
    span = limits([value for _, value in loss], zero=True) if len(loss) > 1 else None
    if span is not None:
        entries.append(("line", "faint", f"training loss, {loss[0][1]:.3g} to {loss[-1][1]:.3g}"))
    top = legend(drawing, entries, 2, 36) + 16
    first, end = float(curve[0]["epoch"]), float(curve[-1]["epoch"])
    frame = axes(
        drawing, (first, max(end, first + 1)), limits([value for _, value in accuracy]), "epoch", spoken().axis,
        top=top, integers=True,
    )  # fmt: skip
    if span is not None:
        low, high = span
        height = frame.y.start - frame.y.end
        line = [(frame.x(e), frame.y.start - (value - low) / (high - low) * height) for e, value in loss]
        drawing.path(line, "faint", width=1.5)
    points = [(frame.x(e), frame.y(value)) for e, value in accuracy]
    drawing.path(points, "gain", width=2.2)
    drawing.circle(*points[-1], 3.6, "gain")
    drawing.alt = f"{words.capitalize()} after {len(curve)} epochs: {last_value}."
    return drawing


def _points(curve: Sequence[Mapping[str, str]], column: str, scale: float) -> list[tuple[float, float]]:
    """(epoch, value) where both are finite numbers."""
    found = []
    for row in curve:
        try:
            epoch, value = float(row["epoch"]), scale * float(row[column])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(epoch) and math.isfinite(value):
            found.append((epoch, value))
    return found
