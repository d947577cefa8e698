"""The words around the numbers: the answer, the cautions and the method, within what the study may claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reborn_nas.report.screen import Designed
from reborn_nas.report.view import RunView
from reborn_nas.report.words import interval, joined, number, percent, signed

if TYPE_CHECKING:
    import pandas as pd

SMALL_SE = 0.5
"""Percentage points: above this standard error a single accuracy is called rough."""


def answer(
    view: RunView,
    effects: pd.DataFrame | None,
    candidate: Mapping[str, Any],
    control: pd.DataFrame | None,
) -> list[str]:
    """Two plain sentences; a third where sites are harmed, a fourth where the control allows one."""
    rows: list[dict[Any, Any]] = [] if effects is None else effects.to_dict("records")
    said = [_where(view, rows)]
    said[0] += _harm(rows)
    if candidate:
        said.append(_candidate(candidate))
    claims = [] if control is None else [str(r["site"]) for r in control.to_dict("records") if r.get("claim")]
    if claims:
        said.append(
            f"At {_some(claims)} the gain is because of the negative phase and beyond the block's parameters: "
            f"there, {view.arms[0]} beats its positive twin."
        )
    return said


def _harm(rows: Sequence[Mapping[Any, Any]]) -> str:
    """Where it harms: on average, or on the incumbent against a screen that points the other way."""
    harms = [row for row in rows if row["verdict"] == "harmful"]
    average = [str(row["site"]) for row in harms if row["effect"] < 0]
    incumbent = [str(row["site"]) for row in harms if row["effect"] >= 0]
    said = f" It does harm at {_some(average)}." if average else ""
    if incumbent:
        said += (
            f" At {_some(incumbent)} it does harm on the incumbent, although the average effect is above 0."
        )
    return said


def _where(view: RunView, rows: Sequence[Mapping[Any, Any]]) -> str:
    tested = view.arms[0][:1].upper() + view.arms[0][1:]
    if not rows:
        if view.phase("screen"):
            return "The screen has too few finished runs to estimate what each site adds."
        return f"This study ran no screen, so it cannot say where {view.arms[0]} helps."
    over = f"averaged over networks whose other sites are {view.arms[0]} half of the time"
    top = max(rows, key=lambda row: row["effect"])
    if all(row["verdict"] == "no verdict" for row in rows):
        size = f"{signed(top['effect'])} percentage points {interval(top['ci_low'], top['ci_high'])}"
        return f"These runs carry no verdict. The largest estimate is {top['site']}'s, {size}, {over}."
    helps = [row for row in rows if row["verdict"] in ("confirmed", "suggestive") and row["effect"] > 0]
    if not helps:
        if any(row["verdict"] == "harmful" for row in rows):
            return f"{tested} helps at no site that this study could resolve."
        reach = max(max(abs(row["ci_low"]), abs(row["ci_high"])) for row in rows)
        return f"No site resolved; effects above {number(reach)} percentage points are unlikely."
    best = max(helps, key=lambda row: row["effect"])
    adds = f"{over}, it adds {number(best['effect'])} percentage points {interval(best['ci_low'], best['ci_high'])}"
    firm = sum(row["verdict"] == "confirmed" for row in helps)
    if len(helps) == 1:
        status = "confirmed on the incumbent" if firm else "not confirmed on fresh images"
        return f"{tested} helps at {best['site']}: {adds} there ({status})."
    status = (
        f"{firm} of them confirmed on the incumbent" if firm else "none of them confirmed on fresh images"
    )
    return (
        f"{tested} helps at {len(helps)} of {len(rows)} sites, {status}. The largest estimate is {best['site']}'s: "
        f"{adds}."
    )


def _candidate(candidate: Mapping[str, Any]) -> str:
    size = f"{number(abs(candidate['effect']))} percentage points {interval(candidate['ci_low'], candidate['ci_high'])}"
    where = f"on {candidate['images']:,} {candidate['part']} images that no earlier phase used"
    if candidate["ci_low"] > 0:
        return f"The candidate network beats its parent by {size} {where}."
    if candidate["ci_high"] < 0:
        return f"The candidate network is worse than its parent by {size} {where}."
    size = f"{signed(candidate['effect'])} percentage points {interval(candidate['ci_low'], candidate['ci_high'])}"
    return f"Whether the candidate network beats its parent is unresolved: the difference is {size} {where}."


def cautions(
    view: RunView, screen: Designed | None, effects: pd.DataFrame | None, summary: Mapping[str, float]
) -> list[str]:
    """What a reader must bear in mind, the gravest first."""
    said = []
    if not view.finished:
        said.append(
            "The study is still running: estimates and intervals are descriptive, and no verdict is given."
        )
    if effects is not None:
        said += [str(line)[:1].upper() + str(line)[1:] + "." for line in effects.attrs.get("warnings", ())]
    se = summary.get("validation_se", math.nan)
    if se > SMALL_SE:
        part = screen.part if screen else "validation"
        said.append(
            f"Only {summary['validation_n']:,.0f} {part} images: one accuracy alone has a standard error of "
            f"{number(se)} percentage points. That shows the mechanics; it is not a finding."
        )
    if summary.get("correlation", 0.0) > 0.1:
        said.append(
            f"Two sites' levels are correlated by {number(summary['correlation'])}: their effects are hard to "
            "tell apart."
        )
    if screen is not None and screen.diverged.any():
        said.append(f"{int(screen.diverged.sum())} screen runs diverged; they count at their last accuracy.")
    return said


def method(view: RunView, screen: Designed | None, summary: Mapping[str, float]) -> list[str]:
    """How it was measured, a line each."""
    said = []
    if screen is not None and summary:
        said += [
            f"Screen: {summary['runs']:.0f} unpruned trainings over {summary['splits']:.0f} train/validation splits, "
            f"each site {view.arms[0]} in half of them; least squares with the splits as blocks, t intervals on "
            f"{summary['df']:.0f} degrees of freedom, Benjamini–Hochberg at q = 0.05 over {len(screen.names)} sites.",
            f"Noise of one training σ̂ = {number(summary['sigma'])} percentage points; an effect of "
            f"{number(summary['detectable'])} would be found with 80 % power. Largest correlation between two "
            f"sites: {number(summary['correlation'])}.",
            "Confirmed: q ≤ 0.05 in the screen, and the confirmation's 95 % interval on the same side of 0. "
            "Suggestive: one of the two. Harmful: either, below 0. Unresolved: else.",
        ]
    searched = view.phase("search")
    if searched:
        pruned = sum(record.state == "pruned" for record in searched) / len(searched)
        said.append(
            f"{len(searched)} trainings of the sampler ({percent(pruned, 0)} pruned) looked for a good network. They "
            "enter no estimate: a sampler's own trials give intervals that are too narrow."
        )
    said.append(
        "A reborn block brings its own batch norm: where no norm precedes a site, part of a gain may be the norm's. "
        "All effects hold for this study's recipe and data."
    )
    return said


def _some(names: Sequence[str], most: int = 3) -> str:
    kept = [*names[:most], f"{len(names) - most} more"] if len(names) > most + 1 else list(names)
    return joined(kept)
