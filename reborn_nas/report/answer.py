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
    """Two plain sentences, a third where the control allows one."""
    said = [_where(view, effects)]
    if candidate:
        said.append(_candidate(candidate))
    if control is not None and "claim" in control and bool(control["claim"].any()):
        sites = [str(site) for site in control.loc[control["claim"], "site"]]
        said.append(
            f"At {joined(sites)} the gain is because of the negative phase, beyond the block's parameters: "
            "reborn beats its positive twin there."
        )
    return said


def _where(view: RunView, effects: pd.DataFrame | None) -> str:
    tested = view.arms[0].capitalize() if view.arms[0].islower() else view.arms[0]
    if effects is None:
        if view.phase("screen"):
            return "The screen has too few finished runs to estimate what each site adds."
        return f"This study has no screen of its own, so it cannot say where {view.arms[0]} helps."
    top = effects.loc[effects["effect"].idxmax()]
    adds = (
        f"averaged over networks in which the other sites are {view.arms[0]} half of the time, it "
        f"{'adds' if top['effect'] >= 0 else 'changes accuracy by'} {signed(top['effect'])} percentage points "
        f"{interval(top['ci_low'], top['ci_high'])}"
    )
    helps = effects[effects["verdict"].isin(("confirmed", "suggestive")) & (effects["effect"] > 0)]
    harms = [str(site) for site in effects.loc[effects["verdict"] == "harmful", "site"]]
    worse = f" It does harm at {_some(harms)}." if harms else ""
    if (effects["verdict"] == "no verdict").all():
        return f"No verdict yet: the largest estimate is at {top['site']}; {adds}."
    if not len(helps):
        reach = (
            float(effects[["ci_low", "ci_high"]].abs().max().max())
            if not harms
            else float(effects["ci_high"].max())
        )
        if harms:
            return f"{tested} helps at no site that this study could resolve.{worse}"
        return f"No site resolved; effects above {number(reach)} percentage points are unlikely."
    best = helps.loc[helps["effect"].idxmax()]
    firm = int((helps["verdict"] == "confirmed").sum())
    status = (
        f", {firm} of them confirmed on the incumbent"
        if firm
        else ", none of them confirmed on fresh images yet"
    )
    lead = (
        f"{tested} helps at {best['site']}" if len(helps) == 1
        else f"{tested} helps at {len(helps)} of {len(effects)} sites{status}, with the largest estimate at {best['site']}"
    )  # fmt: skip
    adds = (
        f"averaged over networks in which the other sites are {view.arms[0]} half of the time, it adds "
        f"{signed(best['effect'])} percentage points {interval(best['ci_low'], best['ci_high'])} there"
    )
    return f"{lead}: {adds}.{worse}"


def _candidate(candidate: Mapping[str, Any]) -> str:
    size = f"{number(abs(candidate['effect']))} percentage points {interval(candidate['ci_low'], candidate['ci_high'])}"
    where = f"on {candidate['images']:,} {candidate['part']} images that no earlier phase used"
    if candidate["ci_low"] > 0:
        return f"The candidate network beats its parent by {size} {where}."
    if candidate["ci_high"] < 0:
        return f"The candidate network is worse than its parent by {size} {where}."
    return (
        f"Whether the candidate network beats its parent is unresolved: the difference is "
        f"{signed(candidate['effect'])} percentage points {interval(candidate['ci_low'], candidate['ci_high'])} {where}."
    )


def cautions(
    view: RunView,
    screen: Designed | None,
    effects: pd.DataFrame | None,
    summary: Mapping[str, float],
    extra: Sequence[str],
) -> list[str]:
    """What a reader must bear in mind, the gravest first."""
    said = []
    if not view.finished:
        said.append(
            "The study is still running: estimates and intervals are descriptive, and no verdict is given."
        )
    if effects is not None:
        said += [str(line) for line in effects.attrs.get("warnings", ())]
    se = summary.get("validation_se", math.nan)
    if se > SMALL_SE:
        said.append(
            f"Only {summary['validation_n']:,.0f} {screen.part if screen else 'validation'} images: one accuracy alone has "
            f"a standard error of {number(se)} percentage points. That shows the mechanics; it is not a finding."
        )
    if summary.get("correlation", 0.0) > 0.1:
        said.append(
            f"Two sites' levels are correlated by {number(summary['correlation'])}: their effects are hard to tell apart."
        )
    if screen is not None and screen.diverged.any():
        said.append(
            f"{int(screen.diverged.sum())} screen runs diverged; they stay in the analysis at their last accuracy."
        )
    return said + list(extra)


def method(view: RunView, screen: Designed | None, summary: Mapping[str, float]) -> list[str]:
    """How it was measured, a line each."""
    said = []
    if screen is not None and summary:
        said.append(
            f"Screen: {summary['runs']:.0f} unpruned trainings over {summary['splits']:.0f} train/validation splits, each "
            f"site {view.arms[0]} in half of them; least squares with the splits as blocks, t intervals on "
            f"{summary['df']:.0f} degrees of freedom, Benjamini–Hochberg at q = 0.05 over {len(screen.names)} sites."
        )
        said.append(
            f"Noise of one training σ̂ = {number(summary['sigma'])} percentage points; an effect of "
            f"{number(summary['detectable'])} would be found with 80 % power. Largest correlation between two sites: "
            f"{number(summary['correlation'])}."
        )
        said.append(
            "Confirmed: q ≤ 0.05 in the screen and the confirmation's 95 % interval on the same side of 0. Suggestive: one "
            "of the two. Harmful: either, below 0. Unresolved: else."
        )
    searched = view.phase("search")
    if searched:
        pruned = sum(record.state == "pruned" for record in searched) / len(searched)
        said.append(
            f"{len(searched)} trainings of the sampler ({percent(pruned, 0)} pruned) looked for a good network; they enter "
            "no estimate, because a sampler's own trials give intervals that are too narrow."
        )
    said.append(
        "A reborn block brings its own batch norm: where no norm precedes a site, part of a gain may be the norm's. All "
        "effects hold for this study's recipe and data."
    )
    return said


def _some(names: Sequence[str], most: int = 3) -> str:
    kept = [*names[:most], f"{len(names) - most} more"] if len(names) > most + 1 else list(names)
    return joined(kept)
