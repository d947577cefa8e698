"""A drawing as a PNG, painted by matplotlib mark by mark."""

from __future__ import annotations

import io
import warnings
from typing import Any

from matplotlib import lines, patches
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from reborn_nas.report.figures.drawing import Drawing, Mark
from reborn_nas.report.figures.palette import TONES

PIXEL = 72 / 96
"""Points per CSS pixel."""


def png(drawing: Drawing, dpi: int = 160) -> bytes:
    """The drawing in its light colours at `dpi` (96 is the size on screen)."""
    figure = Figure(figsize=(drawing.width / 96, drawing.height / 96), dpi=dpi, facecolor=TONES["panel"][0])
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(drawing.height, 0)
    axes.axis("off")
    for order, mark in enumerate(drawing.marks):
        _paint(axes, mark, order + 1)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # missing glyphs become boxes
        figure.savefig(stream, format="png", dpi=dpi, facecolor=TONES["panel"][0])
    return stream.getvalue()


def _paint(axes: Any, mark: Mark, order: int) -> None:
    """Draw one mark on matplotlib `axes`, whose units are the drawing's pixels."""
    if mark.kind in ("open", "close"):
        return
    if mark.kind == "text":
        sides = {"start": "left", "middle": "center", "end": "right"}
        axes.text(
            mark.at[0], mark.at[1], mark.text, color=TONES[mark.fill][0], fontsize=mark.size * PIXEL * 0.9,
            ha=sides[mark.anchor], va="baseline", fontweight="bold" if mark.weight >= 600 else "normal",
            zorder=order, parse_math=False,
        )  # fmt: skip
    elif mark.kind == "image":
        x, y, w, h = mark.at
        picture = imread(io.BytesIO(mark.data), format="png")
        grey = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0} if picture.ndim == 2 else {}
        axes.imshow(
            picture, extent=(x, x + w, y + h, y), zorder=order, aspect="auto", interpolation="nearest", **grey
        )
    else:
        _paint_shape(axes, mark, order)


def _paint_shape(axes: Any, mark: Mark, order: int) -> None:
    style: dict[str, Any] = {"linewidth": mark.width * PIXEL, "alpha": mark.opacity, "zorder": order}
    style["linestyle"] = (0, (3, 3)) if mark.dash else "-"
    stroke = TONES[mark.stroke][0] if mark.stroke else "none"
    at: Any = mark.at
    if mark.kind == "line":
        axes.add_artist(lines.Line2D(at[::2], at[1::2], color=stroke, **style))
        return
    if mark.kind == "path" and not mark.closed:
        axes.add_artist(lines.Line2D(at[::2], at[1::2], color=stroke, **style))
        return
    style |= {"facecolor": TONES[mark.fill][0] if mark.fill else "none", "edgecolor": stroke}
    if mark.kind == "circle":
        axes.add_artist(patches.Circle(at[:2], at[2], **style))
    elif mark.kind == "path":
        axes.add_artist(patches.Polygon(list(zip(at[::2], at[1::2])), closed=True, **style))
    else:
        x, y, w, h, corner = at
        radius = min(corner, w / 2, h / 2)
        box = f"round,pad=0,rounding_size={radius}" if radius > 0 else "square,pad=0"
        axes.add_artist(patches.FancyBboxPatch((x, y), w, h, boxstyle=box, **style))
