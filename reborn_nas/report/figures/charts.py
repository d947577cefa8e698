"""The building blocks of the report's charts: axes, interval rows, scatter plots, lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from reborn_nas.report.figures.drawing import Drawing, shorten, text_width
from reborn_nas.report.results.words import interval, number, signed

NARROW = 480
"""Figures below this width use the layout for phones."""


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        inside = min(max(value, self.low), self.high)
        return self.start + (self.end - self.start) * ((inside - self.low) / span if span else 0.5)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values between `low` and `high`, about `wanted` of them."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def tick_text(value: float, all_ticks: Sequence[float]) -> str:
    """A tick's label, with the digits needed for the step."""
    step = min((b - a for a, b in pairwise(all_ticks)), default=abs(value) or 1.0)
    digits = next((d for d in range(7) if abs(round(step, d) - step) < 1e-9 * max(1.0, step)), 6)
    return number(value, digits)


def count_text(value: float, all_ticks: Sequence[float]) -> str:
    """A large tick's label, such as `21.35 M`, with the digits that distinguish it from its neighbours."""
    size, unit = next(
        ((s, u) for s, u in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if max(all_ticks) >= s), (1.0, "")
    )
    scaled = [tick / size for tick in all_ticks]
    return tick_text(value / size, scaled) + unit


def limits(values: Sequence[float], *, zero: bool = False, margin: float = 0.04) -> tuple[float, float]:
    """The smallest and largest finite value with a margin, including 0 if `zero`."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    finite += [0.0] if zero or not finite else []
    low, high = min(finite), max(finite)
    pad = (high - low) * margin or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


@dataclass(frozen=True)
class Estimate:
    """A point with its interval in a row; the shape `tick` is a small stroke, `bar` the interval without a point.

    `outer_low` and `outer_high` are a wider interval, drawn as a thin line.
    """

    value: float
    low: float
    high: float
    tone: str = "gain"
    shape: str = "circle"
    outer_low: float = math.nan
    outer_high: float = math.nan


@dataclass(frozen=True)
class Row:
    """A line of an interval chart. A new `group` starts a headed group; `note` is at the end of the line."""

    label: str
    estimates: tuple[Estimate, ...]
    group: str = ""
    aside: str = ""
    hover: str = ""
    strong: bool = False
    note: str = ""


def interval_chart(
    name: str,
    title: str,
    alt: str,
    rows: Sequence[Row],
    *,
    width: float,
    axis: str,
    zero: bool = True,
    show: Callable[[float], str] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Drawing:
    """Rows of points with intervals over one axis, values at the right; on a phone labels are above the lines."""
    narrow = width < NARROW
    values = [
        v for row in rows for e in row.estimates for v in (e.value, e.low, e.high, e.outer_low, e.outer_high)
    ]
    low, high = bounds or limits(values, zero=zero)
    lanes = max((len(row.estimates) for row in rows), default=1)
    height = (38 if narrow else 25) + (lanes - 1) * 10
    groups = sum(1 for a, b in zip([Row("", ()), *rows], rows) if b.group != a.group and b.group)
    label_room = (
        0.0 if narrow else min(max((text_width(r.label, 12.5) for r in rows), default=0) + 18, width * 0.34)
    )
    note_room = 0.0 if narrow else max((text_width(r.note, 12) + 10 for r in rows if r.note), default=0.0)
    aside_room = 0.0 if narrow else max((text_width(r.aside, 12) for r in rows), default=0) + 16 + note_room
    scale = Scale(low, high, label_room + 8, width - aside_room - 8)
    drawing = Drawing(name, title, alt, width, 14 + groups * 30 + len(rows) * height + 46)
    bottom = drawing.height - 40
    drawing.height += 14 * (len(_lines(axis, width)) - 1)
    marks = ticks(low, high, 4 if narrow else 6)
    for value in marks:
        x = scale(value)
        drawing.line(x, 8, x, bottom, "flat" if value == 0 and zero else "rule")
        drawing.text(
            x,
            bottom + 17,
            (show or (lambda v: tick_text(v, marks)))(value),
            "muted",
            size=11.5,
            anchor="middle",
        )
    middle = (scale.start + scale.end) / 2
    for line, words in enumerate(_lines(axis, width)):
        drawing.text(middle, bottom + 35 + 14 * line, words, "muted", size=11.5, anchor="middle")
    y, group = 10.0, ""
    for row in rows:
        if row.group != group and row.group:
            drawing.rect(0, y + 4, width, 22, "band", radius=4)
            drawing.text(8, y + 19, shorten(row.group, width - 16, 11.5), "muted", size=11.5, weight=600)
            y += 30
        group = row.group
        _interval_row(drawing, row, y, height, scale, label_room, note_room)
        y += height
    return drawing


def _lines(text: str, width: float) -> list[str]:
    """`text` in one line, or, if it is too wide, in two that break after its last comma or before its bracket."""
    if text_width(text, 11.5) <= width:
        return [text]
    at = text.rfind(", ") + 1 or text.rfind(" (")
    return [text[:at], text[at + 1 :]] if at > 0 else [shorten(text, width, 11.5)]


def _interval_row(
    drawing: Drawing, row: Row, y: float, height: float, scale: Scale, label_room: float, note_room: float
) -> None:
    narrow = drawing.width < NARROW
    weight = 650 if row.strong else 400
    step = 10.0 if len(row.estimates) > 1 else 0.0
    centre = y + (height - 11 - step * (len(row.estimates) - 1) / 2 if narrow else height / 2)
    with drawing.hover(row.hover or f"{row.label}: {row.aside}"):
        drawing.rect(0, y, drawing.width, height, "panel", opacity=0.0)
        if narrow:
            room = drawing.width - text_width(row.aside, 11.5) - 14
            drawing.text(2, y + 15, shorten(row.label, room, 12), "ink", size=12, weight=weight)
            drawing.text(drawing.width - 2, y + 15, row.aside, "muted", size=11.5, anchor="end")
        else:
            drawing.text(
                8, centre + 4, shorten(row.label, label_room - 10, 12.5), "ink", size=12.5, weight=weight
            )
            tone = "ink" if row.strong else "muted"
            drawing.text(drawing.width - 6 - note_room, centre + 4, row.aside, tone, size=12, anchor="end")
            drawing.text(drawing.width - note_room + 4, centre + 4, row.note, tone, size=12)
        start = centre - step * (len(row.estimates) - 1) / 2
        for lane, estimate in enumerate(row.estimates):
            _estimate(drawing, estimate, start + lane * step, scale)


def _estimate(drawing: Drawing, estimate: Estimate, y: float, scale: Scale) -> None:
    if not math.isfinite(estimate.value):
        return
    if estimate.shape == "bar":
        left, right = scale(estimate.low), scale(estimate.high)
        drawing.rect(left, y - 4, right - left, 8, estimate.tone, radius=4, opacity=0.8)
        return
    if math.isfinite(estimate.outer_low) and math.isfinite(estimate.outer_high):
        drawing.line(
            scale(estimate.outer_low), y, scale(estimate.outer_high), y, estimate.tone, width=0.9, opacity=0.9
        )
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        drawing.line(scale(estimate.low), y, scale(estimate.high), y, estimate.tone, width=2.2, opacity=0.75)
    if estimate.shape == "tick":
        x = scale(estimate.value)
        drawing.line(x, y - 5, x, y + 5, estimate.tone, width=2)
    else:
        drawing.shape(estimate.shape, scale(estimate.value), y, 4.6, estimate.tone)


def effect_aside(value: float, low: float, high: float, digits: int = 2) -> str:
    """An estimate and its interval as the text at a row's end."""
    return f"{signed(value, digits)} {interval(low, high, digits)}" if math.isfinite(value) else "–"


@dataclass(frozen=True)
class Frame:
    """The plot area of an x-y chart."""

    x: Scale
    y: Scale


def axes(
    drawing: Drawing,
    x_limits: tuple[float, float],
    y_limits: tuple[float, float],
    x_title: str,
    y_title: str,
    *,
    counts: bool = False,
    integers: bool = False,
    top: float = 30,
) -> Frame:
    """Draw light grid lines, tick labels and axis titles; return the scales."""
    narrow = drawing.width < NARROW
    frame = Frame(Scale(*x_limits, 46, drawing.width - 16), Scale(*y_limits, drawing.height - 46, top))
    y_marks = ticks(*y_limits, 5)
    for value in y_marks:
        y = frame.y(value)
        drawing.line(46, y, drawing.width - 16, y, "rule")
        drawing.text(40, y + 4, tick_text(value, y_marks), "muted", size=11.5, anchor="end")
    x_marks = ticks(*x_limits, 3 if narrow and counts else 4 if narrow else 7)
    for value in (mark for mark in x_marks if not integers or mark == round(mark)):
        text = f"{value:.0f}" if integers else (count_text if counts else tick_text)(value, x_marks)
        drawing.text(frame.x(value), drawing.height - 28, text, "muted", size=11.5, anchor="middle")
    drawing.line(46, frame.y.start, drawing.width - 16, frame.y.start, "faint")
    drawing.text(drawing.width - 16, drawing.height - 8, x_title, "muted", size=11.5, anchor="end")
    drawing.text(4, 14, y_title, "muted", size=11.5)
    return frame


def legend(drawing: Drawing, entries: Sequence[tuple[str, str, str]], x: float, y: float) -> float:
    """Draw shapes with their texts in a row, wrapped; `entries` are (shape, tone, text). Returns y of the last line."""
    at = x
    for shape, tone, text in entries:
        room = text_width(text, 11.5) + 30
        if at + room > drawing.width and at > x:
            at, y = x, y + 19
        if shape == "line":
            drawing.line(at, y - 4, at + 14, y - 4, tone, width=2)
        elif shape == "thin":
            drawing.line(at, y - 4, at + 14, y - 4, tone, width=0.9)
        elif shape == "swatch":
            drawing.rect(at, y - 10, 14, 12, tone, radius=3)
        else:
            drawing.shape(shape, at + 6, y - 4, 4.6, tone)
        drawing.text(at + 19, y, text, "muted", size=11.5)
        at += room
    return y
