"""Content for optuna-dashboard in addition to the trials: the answer so far as a note, the forest plot as a graph."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd

from reborn_nas.report.figures.palette import TONES, tone_of
from reborn_nas.report.results.findings import Findings
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import (
    clean,
    difference,
    effect_size,
    in_short,
    interval,
    signed,
    unit_name,
)

__all__ = ["answer_note", "forest_graph", "graphs"]

MOST_ROWS = 12
MOST_LABELS = 45
"""With more sites, only some of the graph's rows are labelled."""
HEIGHT = 470
"""Pixels; the dashboard's card clips taller graphs."""

INK, GRID = TONES["flat"][0], "rgba(128,128,128,0.25)"
"""Legible on the dashboard's light and dark background."""


def answer_note(view: RunView, findings: Findings) -> str:
    """The answer so far in Markdown, with noise, power and the largest estimates."""
    state = "The study is complete." if view.finished else (
        "**So far**, descriptive: the study is running, intervals shrink, and there is no verdict yet."
    )  # fmt: skip
    lines = [f"## {_plain(view.title)}", "", state, ""]
    lines += [f"- {_plain(sentence)}" for sentence in findings.sentences]
    s = findings.summary
    if math.isfinite(s.get("sigma", math.nan)):
        detectable = s.get("detectable", math.nan)
        seen = (
            f"; {s['planned']:.0f} find an effect of {effect_size(detectable)}{in_short()} with 80 % power"
            if detectable == detectable
            else ""
        )
        lines.append(
            f"- Noise of one training σ̂ = {effect_size(s['sigma'])}{in_short()}, {s['runs']:.0f} screen runs{seen}."
        )
    if findings.effects is not None:
        lines += ["", *_table(findings.effects)]
    return "\n".join(lines)


def _table(effects: pd.DataFrame) -> list[str]:
    """The largest estimates as a Markdown table."""
    top = effects.sort_values("effect", ascending=False).head(MOST_ROWS)
    title = "Largest estimates" if len(top) < len(effects) else "Estimates"
    lines = [f"{title} ({unit_name()}, with intervals that allow for the number of sites):", ""]
    lines += ["| site | effect | interval | verdict |", "|---|---|---|---|"]
    for row in top.to_dict("records"):
        size = f"{signed(row['said_effect'])} | {interval(row['said_low'], row['said_high'])}"
        lines.append(f"| {_plain(row['site'])} | {size} | {row['verdict'] or '–'} |")
    return lines


def _plain(text: object) -> str:
    """`text` without characters that are markup in Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", " ".join(clean(text).split()))


def graphs(view: RunView, findings: Findings) -> dict[str, dict[str, Any]]:
    """Graph id → Plotly figure as JSON values: the forest plot, and confirmation and control if they ran."""
    tested, reference = view.arms
    found = {}
    if findings.effects is not None:
        found["effects"] = forest_graph(
            findings.effects, f"{difference(_text(tested), _text(reference))} at each site, in depth order"
        )
    for name, table, title in (
        ("confirmation", findings.confirmation, "Retest of the top sites on the candidate"),
        ("control", findings.control, difference(_text(tested), "positive twin")),
    ):
        if table is not None:
            found[name] = forest_graph(table, title)
    return found


def forest_graph(table: pd.DataFrame, title: str) -> dict[str, Any]:
    """A Plotly figure of `site, effect, ci_low, ci_high`, one row per site, the first at the top.

    If the table has verdicts, estimates and intervals are those of the verdicts; otherwise all are grey.
    """
    decided = "said_effect" in table
    if decided:
        table = table.assign(
            effect=table["said_effect"], ci_low=table["said_low"], ci_high=table["said_high"]
        )
    rows = table.to_dict("records")
    colours = [TONES[tone_of(row.get("verdict", ""))][0] for row in rows]
    sites = [_text(row["site"]) for row in rows]
    hover = [
        f"{site}: {signed(row['effect'])} {interval(row['ci_low'], row['ci_high'])}{in_short()}"
        + (f", {row['verdict']}" if row.get("verdict") else "")
        for site, row in zip(sites, rows)
    ]
    traces = []
    for tone, words in (
        ("gain", "helps"),
        ("harm", "does harm"),
        ("flat", "unresolved" if decided else "estimate"),
    ):
        kept = [k for k, colour in enumerate(colours) if colour == TONES[tone][0]]
        if kept:
            traces.append(_trace(rows, sites, hover, kept, TONES[tone][0], words))
    kind = "interval allows for the number of sites" if decided else "95 % interval"
    axis = {
        "title": {"text": f"{unit_name()} ({kind})"}, "zeroline": True, "zerolinewidth": 2,
        "zerolinecolor": INK, "gridcolor": GRID, "rangemode": "tozero",
    }  # fmt: skip
    return {
        "data": traces,
        "layout": {
            "title": {"text": title},
            "height": HEIGHT,
            "font": {"color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "modebar": {"bgcolor": "rgba(0,0,0,0)"},
            "template": {"layout": {}},
            "xaxis": axis,
            "yaxis": {
                "type": "category", "categoryorder": "array", "categoryarray": sites[::-1], "automargin": True,
                "gridcolor": GRID,
                "dtick": 1 if len(rows) <= MOST_LABELS else None,
                "tickfont": {"size": min(12, max(7, 330 // max(1, len(rows))))},
            },
            "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
            "margin": {"l": 20, "r": 20, "t": 80, "b": 45},
        },
    }  # fmt: skip


def _trace(
    rows: list[dict[Any, Any]], sites: list[str], hover: list[str], kept: list[int], colour: str, words: str
) -> dict[str, Any]:
    def away(column: str, sign: int) -> list[float | None]:
        """Distance from the estimate to one end of the interval; None if there is none."""
        gaps = [sign * (float(rows[k][column]) - float(rows[k]["effect"])) for k in kept]
        return [gap if math.isfinite(gap) else None for gap in gaps]

    return {
        "type": "scatter", "mode": "markers", "name": words, "marker": {"color": colour, "size": 9},
        "x": [float(rows[k]["effect"]) for k in kept], "y": [sites[k] for k in kept],
        "text": [hover[k] for k in kept], "hoverinfo": "text",
        "error_x": {
            "type": "data", "symmetric": False, "array": away("ci_high", 1), "arrayminus": away("ci_low", -1),
            "color": colour, "thickness": 2, "width": 0,
        },
    }  # fmt: skip


def _text(text: object) -> str:
    """`text` without the tags that Plotly supports."""
    return clean(text).replace("<", "‹").replace(">", "›")
