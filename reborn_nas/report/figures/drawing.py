"""A drawing as a list of marks, rendered as SVG (in the page or a file) or PNG.

One description serves all formats: in the page the colours are CSS variables, which follow the light and dark mode; in
SVG files they are literal; the PNG is painted by matplotlib (`painting`). Rendered as text, a figure takes milliseconds
instead of matplotlib's tenths of a second, which matters for the two pictures of each training, and it keeps its hover
texts and its width for phones. Units are CSS pixels, and y points down.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from reborn_nas.report.figures.palette import TONES
from reborn_nas.report.results.words import clean, escape

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
Point = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One primitive: `kind` is rect, circle, line, path, text, image, open (a hover group) or close."""

    kind: str
    at: tuple[float, ...] = ()
    fill: str = ""
    stroke: str = ""
    width: float = 1.0
    dash: bool = False
    opacity: float = 1.0
    text: str = ""
    size: float = 12.0
    anchor: str = "start"
    weight: int = 400
    closed: bool = False
    data: bytes = b""


@dataclass
class Drawing:
    """A figure under construction.

    Args:
        name: file stem.
        title: short name for screen readers.
        alt: description in one or two sentences.
        width, height: size in CSS pixels.
    """

    name: str
    title: str
    alt: str
    width: float
    height: float
    marks: list[Mark] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, tone: str = "rule", **style: Any) -> None:
        """Add a straight line."""
        self.marks.append(Mark("line", (x1, y1, x2, y2), stroke=tone, **style))

    def rect(
        self, x: float, y: float, w: float, h: float, fill: str = "", *, radius: float = 0.0, **style: Any
    ) -> None:
        """Add a rectangle with corner `radius`."""
        self.marks.append(Mark("rect", (x, y, max(w, 0.0), max(h, 0.0), radius), fill=fill, **style))

    def circle(self, x: float, y: float, r: float, fill: str = "", **style: Any) -> None:
        """Add a circle."""
        self.marks.append(Mark("circle", (x, y, r), fill=fill, **style))

    def path(self, points: Sequence[Point], tone: str = "", *, fill: str = "", **style: Any) -> None:
        """Add a polyline, or a polygon with `closed=True`."""
        flat = tuple(value for point in points for value in point)
        self.marks.append(Mark("path", flat, stroke=tone, fill=fill, **style))

    def text(self, x: float, y: float, text: object, tone: str = "ink", **style: Any) -> None:
        """Add text with its baseline at `y`."""
        self.marks.append(Mark("text", (x, y), fill=tone, text=clean(text), **style))

    def image(self, x: float, y: float, w: float, h: float, png: bytes) -> None:
        """Add a PNG, drawn without smoothing."""
        self.marks.append(Mark("image", (x, y, w, h), data=png))

    def shape(self, kind: str, x: float, y: float, r: float, tone: str, **style: Any) -> None:
        """Add a data point: circle, ring, square, diamond, triangle, cross or none."""
        if kind == "circle":
            self.circle(x, y, r, tone, **style)
        elif kind == "ring":
            self.circle(x, y, r * 0.85, "panel", stroke=tone, **{"width": 1.8, **style})
        elif kind == "square":
            self.rect(x - r * 0.85, y - r * 0.85, r * 1.7, r * 1.7, tone, **style)
        elif kind == "diamond":
            k = r * 1.25
            self.path([(x, y - k), (x + k, y), (x, y + k), (x - k, y)], fill=tone, closed=True, **style)
        elif kind == "triangle":
            k = r * 1.2
            self.path(
                [(x, y - k), (x + k, y + k * 0.8), (x - k, y + k * 0.8)], fill=tone, closed=True, **style
            )
        elif kind == "cross":
            k = r * 0.85
            style = {"width": 2.0, **style}
            self.line(x - k, y - k, x + k, y + k, tone, **style)
            self.line(x - k, y + k, x + k, y - k, tone, **style)

    @contextmanager
    def hover(self, details: str) -> Iterator[None]:
        """Show `details` for the marks of the context on hover and to screen readers."""
        self.marks.append(Mark("open", text=clean(details)))
        yield
        self.marks.append(Mark("close"))

    def svg(self, *, literal: bool = False, hover: bool = True) -> str:
        """The drawing as an `<svg>` element; `literal` writes colours instead of CSS variables.

        Without `hover`, texts that are shown only on hover are omitted.
        """
        w, h = _n(self.width), _n(self.height)
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img"'
        head += f' aria-label="{escape(self.title + ". " + self.alt)}" font-family="{escape(FONT)}">'
        parts = [head]
        if literal:
            parts.append(f"<title>{escape(self.title)}</title><desc>{escape(self.alt)}</desc>")
            parts.append(f'<rect width="{w}" height="{h}" fill="{TONES["panel"][0]}"/>')
        kept = self.marks if hover else [mark for mark in self.marks if mark.kind not in ("open", "close")]
        parts += [_svg_mark(mark, literal) for mark in kept]
        return "".join(parts) + "</svg>"


def text_width(text: str, size: float = 12.0) -> float:
    """An upper estimate of a text's width in pixels."""
    return sum(0.34 if char in " .,:;|!'il1()[]" else 0.62 for char in text) * size


def shorten(text: object, room: float, size: float = 12.0) -> str:
    """Shorten `text` to `room` pixels: at its start, at a dot, or else in the middle of its last part.

    The names of a network differ least at the start; a part without dots may differ at both ends.
    """
    cleaned = clean(text)
    if text_width(cleaned, size) <= room:
        return cleaned
    cleaned = cleaned[-200:]
    parts = cleaned.split(".")
    for first in range(1, len(parts)):
        tail = "…" + ".".join(parts[first:])
        if text_width(tail, size) <= room and len(tail) > 2:
            return tail
    last = parts[-1]
    for kept in range(len(last) - 1, 0, -1):
        cut = f"{last[: kept // 2]}…{last[len(last) - (kept + 1) // 2 :]}"
        if text_width(cut, size) <= room:
            return cut
    return "…"


def _n(value: float) -> str:
    if not math.isfinite(value):
        return "0"
    return f"{value:.1f}".rstrip("0").rstrip(".") if value % 1 else str(int(value))


def _colour(tone: str, literal: bool) -> str:
    return TONES[tone][0] if literal else f"var(--{tone})"


def _svg_mark(mark: Mark, literal: bool) -> str:
    if mark.kind == "open":
        return f"<g><title>{escape(mark.text)}</title>"
    if mark.kind == "close":
        return "</g>"
    if mark.kind == "image":
        x, y, w, h = map(_n, mark.at)
        data = base64.b64encode(mark.data).decode()
        return (
            f'<image x="{x}" y="{y}" width="{w}" height="{h}" preserveAspectRatio="none" '
            f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
        )
    if mark.kind == "text":
        style = f' font-size="{_n(mark.size)}"' + (
            f' font-weight="{mark.weight}"' if mark.weight != 400 else ""
        )
        style += f' text-anchor="{mark.anchor}"' if mark.anchor != "start" else ""
        where = f'x="{_n(mark.at[0])}" y="{_n(mark.at[1])}"'
        return f'<text {where} fill="{_colour(mark.fill, literal)}"{style}>{escape(mark.text)}</text>'
    paint = f' fill="{_colour(mark.fill, literal) if mark.fill else "none"}"'
    if mark.stroke:
        paint += f' stroke="{_colour(mark.stroke, literal)}"'
        paint += f' stroke-width="{_n(mark.width)}"' if mark.width != 1 else ""
        paint += ' stroke-dasharray="3 3"' if mark.dash else ""
    paint += f' opacity="{mark.opacity:g}"' if mark.opacity != 1 else ""
    return f"<{_geometry(mark)}{paint}/>"


def _geometry(mark: Mark) -> str:
    at = [_n(value) for value in mark.at]
    if mark.kind == "line":
        return f'line x1="{at[0]}" y1="{at[1]}" x2="{at[2]}" y2="{at[3]}"'
    if mark.kind == "circle":
        return f'circle cx="{at[0]}" cy="{at[1]}" r="{at[2]}"'
    if mark.kind == "rect":
        corner = f' rx="{at[4]}"' if mark.at[4] else ""
        return f'rect x="{at[0]}" y="{at[1]}" width="{at[2]}" height="{at[3]}"{corner}'
    points = " ".join(f"{x},{y}" for x, y in zip(at[::2], at[1::2]))
    return f'poly{"gon" if mark.closed else "line"} points="{points}"'
