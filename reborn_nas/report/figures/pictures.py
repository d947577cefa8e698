"""What stands beside one training in optuna-dashboard: its architecture and its learning curve, as small SVGs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reborn_nas.records import TrialRecord
from reborn_nas.report.figures.charts import axes, legend, limits
from reborn_nas.report.figures.drawing import Drawing
from reborn_nas.report.figures.network import architecture_figure
from reborn_nas.report.results.words import percent

__all__ = ["learning_curve", "trial_pictures"]

NARROW, WIDE = 480.0, 824.0
FEW = 8
"""Sites that fit a narrow picture."""
MOST_POINTS = 200


def trial_pictures(
    record: TrialRecord, sites: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, str]]
) -> dict[str, str]:
    """File name → SVG: the architecture, drawn as in the report, and the learning curve where there is one.

    Args:
        record: the training.
        sites: the backbone's sites, one mapping each, with `name, stage, block, shape, activation`.
        curve: the rows of its curve's file: `epoch`, `train_loss`, `<part>_accuracy`.
    """
    choices = record.architecture.get("choices")
    rows = [{**site, "shape": " × ".join(map(str, site["shape"]))} for site in sites]
    labels = (
        {str(site): str(label) for site, label in choices.items()} if isinstance(choices, Mapping) else {}
    )
    width = WIDE if len(rows) > FEW else NARROW
    network = architecture_figure(rows, labels, width, f"{record.label}: architecture")
    pictures = {"architecture.svg": network.svg(literal=True, hover=False)}
    drawn = learning_curve(record.label, curve)
    if drawn is not None:
        pictures["learning-curve.svg"] = drawn.svg(literal=True, hover=False)
    return pictures


def learning_curve(key: str, curve: Sequence[Mapping[str, str]]) -> Drawing | None:
    """Accuracy by epoch in %, and the training loss scaled into the same frame; None without an accuracy."""
    column = next((name for name in (curve[0] if curve else ()) if name.endswith("_accuracy")), None)
    if column is None:
        return None
    step = math.ceil(len(curve) / MOST_POINTS)
    kept = [*curve[:-1:step], curve[-1]]
    accuracy = _points(kept, column, 100.0)
    loss = _points(kept, "train_loss", 1.0)
    if not accuracy:
        return None
    words = f"{column.removesuffix('_accuracy')} accuracy"
    drawing = Drawing("curve", f"{key}: learning curve", "", NARROW, 300)
    last = accuracy[-1][1]
    entries = [("line", "gain", f"{words}, {percent(last / 100)} at the end")]
    span = limits([value for _, value in loss], zero=True) if len(loss) > 1 else None
    if span is not None:
        entries.append(("line", "faint", f"training loss, {loss[0][1]:.3g} to {loss[-1][1]:.3g}"))
    top = legend(drawing, entries, 2, 36) + 16
    first, end = float(curve[0]["epoch"]), float(curve[-1]["epoch"])
    frame = axes(
        drawing, (first, max(end, first + 1)), limits([value for _, value in accuracy]), "epoch", "accuracy, %",
        top=top, whole=True,
    )  # fmt: skip
    if span is not None:
        low, high = span
        height = frame.y.start - frame.y.end
        line = [(frame.x(e), frame.y.start - (value - low) / (high - low) * height) for e, value in loss]
        drawing.path(line, "faint", width=1.5)
    points = [(frame.x(e), frame.y(value)) for e, value in accuracy]
    drawing.path(points, "gain", width=2.2)
    drawing.circle(*points[-1], 3.6, "gain")
    drawing.alt = f"{words.capitalize()} after {len(curve)} epochs: {percent(last / 100)}."
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
