"""Figures of estimates and their intervals: per site, per stage, pooled, retest, control."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reborn_nas.report.figures.charts import NARROW, Estimate, Row, effect_aside, interval_chart, legend
from reborn_nas.report.figures.drawing import Drawing
from reborn_nas.report.figures.palette import tone_of
from reborn_nas.report.results.words import difference, in_short, percent, unit_name


def stage_heading(stage: int, shape: str = "") -> str:
    """`Stage 1 · 64 × 32 × 32`."""
    return f"Stage {stage + 1}" + (f" · {shape}" if shape else "")


def forest_figure(effects: pd.DataFrame, width: float, arms: tuple[str, str]) -> Drawing:
    """The effects of all sites in order of depth."""
    shapes = effects.drop_duplicates("stage").set_index("stage")["shape"].to_dict()
    several = len(shapes) > 1
    rows = []
    for row in effects.to_dict("records"):
        value = row.get("said_effect", row["effect"])
        retested = row.get("basis") == "retest"
        tone = tone_of(row["verdict"])
        shape = {"suggestive": "ring", "harmful": "cross"}.get(row["verdict"], "circle")
        inner = (row["confirmed_low"], row["confirmed_high"]) if retested else (row["ci_low"], row["ci_high"])
        outer = (row["said_low"], row["said_high"]) if retested else (row["joint_low"], row["joint_high"])
        points = [Estimate(value, *inner, tone, shape, *outer)]
        aside = effect_aside(value, row["said_low"], row["said_high"])
        heading = stage_heading(int(row["stage"]), str(shapes[row["stage"]])) if several else ""
        hover = f"{row['site']}: {aside}{in_short()}" + (f", {row['verdict']}" if row["verdict"] else "")
        note = row["verdict"] if row["verdict"] in ("confirmed", "suggestive", "harmful") else ""
        note += ", on the candidate" if retested else ""
        rows.append(Row(str(row["site"]), tuple(points), heading, aside, hover, strong=bool(note), note=note))
    clear = [str(r["site"]) for r in effects.to_dict("records") if tone_of(r["verdict"]) == "gain"]
    alt = (
        f"Effect of {arms[0]} against {arms[1]} at each of {len(rows)} sites, in depth order, with intervals. "
        + (f"Sites where it helps: {', '.join(clear[:12])}." if clear else "It is seen to help at none.")
    )
    axis = f"{difference(*arms)}, {unit_name()}"
    chart = interval_chart("effects", "Effect by site, in depth order", alt, rows, width=width, axis=axis)
    chart.height += 28
    entries = [("line", "flat", "95 % interval, one site alone"), ("thin", "flat", "all sites together")]
    chart.height += legend(chart, entries, 8, chart.height - 8) - chart.height + 8
    return chart


def rank_figure(effects: pd.DataFrame, width: float, most: int = 15) -> Drawing:
    """The sites that are most likely among the five best, with their 90 % rank intervals."""
    top = effects[effects["p_top5"].notna()].sort_values(["p_top5", "effect"], ascending=False)
    top = top[(top["p_top5"] >= 0.005) | (np.arange(len(top)) < 8)].head(most)
    rows = []
    for row in top.to_dict("records"):
        share = percent(row["p_top5"], 0)
        aside = f"{share} in top 5" if width >= NARROW else share
        hover = f"{row['site']}: rank {row['rank_low']:.0f} to {row['rank_high']:.0f}; P(top 5) {share}"
        tone = tone_of(row["verdict"])
        span = Estimate(row["rank_low"], row["rank_low"] - 0.4, row["rank_high"] + 0.4, tone, "bar")
        rows.append(Row(str(row["site"]), (span,), "", aside, hover))
    alt = (
        f"90 % intervals of the rank of the {len(rows)} sites most likely among the best five: "
        + "; ".join(row.hover for row in rows[:8])
    )
    return interval_chart(
        "ranks", "Which sites rank first", alt, rows, width=width, zero=False,
        axis="rank among all sites, 1 = largest effect (90 % interval)", bounds=(0.5, len(effects) + 0.5),
        show=lambda v: f"{v:.0f}",
    )  # fmt: skip


def table_figure(
    frame: pd.DataFrame, width: float, *, name: str, title: str, label: str, axis: str = ""
) -> Drawing:
    """A table of `effect, ci_low, ci_high` as an interval chart, labelled by its column `label`.

    The intervals are of single estimates, and grey unless there is a column `verdict`.
    """
    rows = []
    largest = max((abs(value) for column in ("ci_low", "ci_high") for value in frame[column]), default=1.0)
    for row in frame.to_dict("records"):
        aside = effect_aside(row["effect"], row["ci_low"], row["ci_high"], 2 if largest >= 0.1 else 3)
        points = (Estimate(row["effect"], row["ci_low"], row["ci_high"], tone_of(row.get("verdict", ""))),)
        rows.append(Row(str(row[label]), points, str(row.get("group", "")), aside))
    alt = "; ".join(f"{row.label}: {row.aside}{in_short()}" for row in rows[:20])
    return interval_chart(name, title, alt, rows, width=width, axis=axis)


def paired_figure(
    frame: pd.DataFrame,
    width: float,
    *,
    name: str,
    title: str,
    series: Sequence[tuple[str, str, str, str]],
    axis: str = "",
) -> Drawing:
    """Several estimates per site, one below another; `series` are (column prefix, text, tone, shape)."""
    rows = []
    for row in frame.to_dict("records"):
        points = tuple(_estimate(row, prefix, tone, shape) for prefix, _, tone, shape in series)
        last = points[-1]
        hover = str(row["site"]) + "".join(
            f"\n{words}: {effect_aside(p.value, p.low, p.high)}{in_short()}"
            for (_, words, _, _), p in zip(series, points)
        )
        rows.append(Row(str(row["site"]), points, "", effect_aside(last.value, last.low, last.high), hover))
    alt = "; ".join(row.hover.replace("\n", ", ") for row in rows[:12])
    chart = interval_chart(name, title, alt, rows, width=width, axis=axis)
    chart.height += 24
    legend(chart, [(shape, tone, words) for _, words, tone, shape in series], 8, chart.height - 8)
    return chart


def _estimate(row: Mapping[Any, Any], prefix: str, tone: str, shape: str) -> Estimate:
    names = (
        ("effect", "ci_low", "ci_high") if prefix == "effect" else (prefix, f"{prefix}_low", f"{prefix}_high")
    )
    value, low, high = (float(row[name]) if row[name] is not None else math.nan for name in names)
    return Estimate(value, low, high, tone, shape)
