"""Figures of the sites' inputs: the energy that ReLU discards, and feature maps side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from reborn_nas.report.figures.charts import NARROW, Scale, legend
from reborn_nas.report.figures.drawing import Drawing, shorten, text_width
from reborn_nas.report.results.words import percent

if TYPE_CHECKING:
    from reborn_nas.report.probe import Panel, SiteFeatures


def feature_table(features: Sequence[SiteFeatures]) -> pd.DataFrame:
    """site, lost_energy, dead_channels, negative_share, images: one row per site."""
    names = ("site", "lost_energy", "dead_channels", "negative_share", "images")
    return pd.DataFrame(
        [{name: getattr(row, name) for name in names} for row in features], columns=list(names)
    )


def energy_figure(features: Sequence[SiteFeatures], width: float) -> Drawing:
    """Three shares per site as bars on one scale: lost energy, dead channels, and that of the negative path."""
    narrow = width < NARROW
    series = [
        ("lost_energy", "energy that ReLU discards", "harm"),
        ("dead_channels", "dead channels", "flat"),
    ]
    if any(math.isfinite(row.negative_share) for row in features):
        series.append(("negative_share", "negative path's part of the block's output", "gain"))
    room = 0.0 if narrow else min(max(text_width(s.site, 12.5) for s in features) + 18, width * 0.34)
    step = len(series) * 9.0 + (28 if narrow else 12)
    drawing = Drawing("features", "Feature maps at the sites", "", width, 10)
    top = legend(drawing, [("swatch", tone, words) for _, words, tone in series], 2, 16) + 16
    scale = Scale(0, 1, room + 4, width - 46)
    bottom = top + step * len(features) + 2
    for share in (0, 0.25, 0.5, 0.75, 1):
        drawing.line(scale(share), top - 6, scale(share), bottom, "rule")
        drawing.text(scale(share), bottom + 16, f"{100 * share:.0f} %", "muted", size=11.5, anchor="middle")
    for k, row in enumerate(features):
        y = top + k * step
        hover = row.site + "".join(f"\n{words}: {percent(getattr(row, name))}" for name, words, _ in series)
        with drawing.hover(hover):
            label_y = y + 11 if narrow else y + len(series) * 4.5 + 4
            drawing.text(
                2, label_y, shorten(row.site, (width if narrow else room) - 12, 12.5), "ink", size=12.5
            )
            y += 18 if narrow else 0
            for lane, (name, _, tone) in enumerate(series):
                share = getattr(row, name)
                if math.isfinite(share):
                    drawing.rect(scale(0), y + lane * 9, scale(share) - scale(0), 7, tone, radius=2)
                    drawing.text(scale(share) + 5, y + lane * 9 + 7, percent(share, 0), "muted", size=9)
    drawing.height = bottom + 26
    drawing.alt = "; ".join(
        f"{s.site}: ReLU discards {percent(s.lost_energy, 0)} of the energy, {percent(s.dead_channels, 0)} of the "
        f"channels are dead" for s in features[:12]
    )  # fmt: skip
    return drawing


def maps_figure(row: SiteFeatures, number: int, width: float) -> Drawing:
    """Feature maps of one site: one row per image, with groups of maps side by side (on a phone, one below another)."""
    narrow = width < NARROW
    drawing = Drawing(f"maps_{number}", f"Feature maps at {row.site}", "", width, 10)
    y = 4.0
    kinds: set[str] = set()
    for panel in row.panels:
        groups = _groups(panel)
        kinds |= {words for words, _ in groups}
        count = sum(len(maps) for _, maps in groups)
        size = min(
            62.0 if not narrow else 54.0, (width - 24 * len(groups)) / max(count if not narrow else 4, 1) - 4
        )
        x, tallest = 0.0, y
        for words, maps in groups:
            group_width = max(len(maps) * (size + 4), text_width(words, 11) + 4)
            if x + group_width > width + 4 and x > 0:
                x, y = 0.0, tallest + 12
            drawing.text(x, y + 12, words, "muted", size=11)
            for k, png in enumerate(maps):
                drawing.image(x + k * (size + 4), y + 19, size, size, png)
            x += group_width + 18
            tallest = y + 19 + size
        y = tallest + 14
    drawing.height = y
    drawing.alt = f"{len(row.panels)} images; the strongest channels' maps: {', '.join(sorted(kinds))}."
    return drawing


def _groups(panel: Panel) -> list[tuple[str, tuple[bytes, ...]]]:
    groups = [
        ("image", (panel.image,) if panel.image else ()), ("after ReLU", panel.original),
        ("discarded", panel.discarded), ("after reborn", panel.reborn), ("of it, negative path", panel.negative),
    ]  # fmt: skip
    return [(words, maps) for words, maps in groups if maps]
