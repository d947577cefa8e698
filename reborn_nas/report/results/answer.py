"""The words around the numbers: the answer, the cautions and the method, within what the study may claim."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from reborn_nas.analysis import Comparison
from reborn_nas.analysis.columns import Columns
from reborn_nas.analysis.effects.aliases import find_aliases
from reborn_nas.analysis.effects.budget import Budget
from reborn_nas.analysis.effects.linear import NO_NOISE
from reborn_nas.analysis.phases.claims import (
    candidate_sentence,
    cause_sentence,
    failure_sentence,
    where_it_helps,
)
from reborn_nas.metric import ACCURACY, spoken
from reborn_nas.report.results.screen import Designed
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import effect_size, in_unit, number, percent, spelled

MANY_COLLAPSED = 0.1
"""Share of the screen's runs above which the recipe, not the luck of a seed, is the likely cause."""

LEAST_WIDENING = 1.005
"""Factor on the intervals from which it is worth a word."""

MANY_FULL = 0.05
"""Share of the screen's runs at 100 % above which the ceiling is worth a word."""

SMALL_SE = 0.5
"""Percentage points, or points: above this standard error a single share is called rough."""


def answer(
    view: RunView,
    effects: Columns | None,
    comparison: Comparison | None,
    control: pd.DataFrame | None,
    refused: str = "",
) -> list[str]:
    """Two plain sentences within the allowed claims; a third where the control allows one. Where trainings started
    from weights, each says so.

    Args:
        refused: why the screen's runs give no estimates, where that is not their number.
    """
    if effects is not None:
        said = [where_it_helps(effects, tested=view.arms[0], reference=view.arms[1])]
        if view.finished:
            said.append(failure_sentence(effects, tested=view.arms[0]))
    elif refused:
        said = [f"The screen cannot tell what each site adds. {refused[0].upper()}{refused[1:]}."]
    elif view.phase("screen"):
        said = ["The screen has too few finished runs to estimate what each site adds."]
    else:
        said = [
            f"This study ran no screen, so it cannot say where {view.arms[0]} instead of {view.arms[1]} helps."
        ]
    if comparison is not None:
        parent = "its parent" if view.arms[1] == "original" else view.parent
        said.append(candidate_sentence(comparison, parent=parent))
    cause = cause_sentence(control, effects) if view.finished else ""
    lines = [spelled(line) for line in [*said, cause] if line]
    return [f"Fine-tuned from {view.start}: {line}" for line in lines] if view.start else lines


def cautions(
    view: RunView, screen: Designed | None, effects: Columns | None, summary: Mapping[str, float]
) -> list[str]:
    """What a reader must bear in mind, the gravest first."""
    said = []
    if view.start:
        said.append(
            f"Every training started from {view.start}, also those behind the estimates and figures below: all of it "
            "holds for fine-tuning from them."
        )
    if not view.finished:
        said.append(
            "The study is still running: estimates and intervals are descriptive, and no verdict is given."
        )
    if effects is not None:
        said += [str(line)[:1].upper() + str(line)[1:] + "." for line in effects.attrs.get("warnings", ())]
    if summary.get("splits") == 1:
        said.append(
            "All runs of the screen share one train/validation split: its luck can look like an effect, and no "
            "interval allows for it."
        )
    se = summary.get("validation_se", math.nan)
    if se > SMALL_SE and spoken().factor == ACCURACY.factor:
        part = screen.part if screen else "validation"
        said.append(
            f"Only {summary['validation_n']:,.0f} {part} {spoken().counted}: one {spoken().label} alone has a "
            f"standard error of {effect_size(se)}{in_unit()}. That shows the mechanics; it is not a finding."
        )
    if summary.get("correlation", 0.0) > 0.1:
        said.append(
            f"Two sites' levels are correlated by {number(summary['correlation'])}: their effects are hard to "
            "tell apart."
        )
    if screen is not None and view.finished and screen.n_runs < summary.get("planned", 0.0):
        said.append(f"The screen ended after {screen.n_runs} of {summary['planned']:.0f} trainings.")
    full = 0.0 if screen is None else float((screen.accuracy >= spoken().best_score).mean())
    if full > MANY_FULL:
        said.append(
            f"{percent(full, 0)} of the screen's runs {_at_best()}: at the ceiling effects are squeezed, and what a "
            "site could add there is not seen."
        )
    many = 0 if effects is None else int(effects.attrs.get("collapsed", 0))
    if screen is not None and many > MANY_COLLAPSED * screen.n_runs:
        said.append(
            f"{percent(many / screen.n_runs, 0)} of the screen's runs collapsed. A lower learning rate would tell more."
        )
    return said


def _at_best() -> str:
    """Whether nothing is left to gain, as a verb."""
    return (
        "are right on every image"
        if spoken().is_accuracy
        else f"have the best {spoken().label} that there is"
    )


def _noise(summary: Mapping[str, float]) -> str:
    """The noise of a training and what can be seen beside it."""
    largest = f"Largest correlation between two sites: {number(summary['correlation'])}."
    if not summary["sigma"] > NO_NOISE:
        return f"The noise of one training is unknown, and so is what could be seen beside it. {largest}"
    return (
        f"Noise of one training σ̂ = {effect_size(summary['sigma'])}{in_unit()}; an effect of "
        f"{effect_size(summary['detectable'])} at one site is found with 80 % power{_at_several(summary)}. {largest}"
    )


def _widened(summary: Mapping[str, float]) -> list[str]:
    """What few splits cost; nothing where there are enough."""
    wider = summary.get("widening", 1.0)
    if wider < LEAST_WIDENING:
        return []
    return [
        f"{summary['splits']:.0f} splits are few, and the luck of one enters an effect: intervals are wider by "
        f"{percent(wider - 1, 0)} on average to allow for it."
    ]


def _at_several(summary: Mapping[str, float]) -> str:
    """How large effects must be where several sites have one: finding some makes it easier to find the others."""
    sizes = {count: summary.get(f"detectable_{count}") for count in (2, 5)}
    return "".join(
        f", of {number(size)} at each of {count}" for count, size in sizes.items() if size is not None
    )


def _in_half(screen: Designed) -> str:
    """The share of the runs that count in which a site is on: `half`, or between which shares it lies."""
    share = screen.design[np.isfinite(screen.accuracy)].mean(axis=0)
    low, high = percent(share.min(), 0).removesuffix(" %"), percent(share.max(), 0)
    return "half" if np.all(share == 0.5) else high if high == f"{low} %" else f"{low} to {high}"


def _aliases(screen: Designed) -> str:
    """Which joint effects the runs that count cannot tell from one site's."""
    there = np.isfinite(screen.accuracy)
    return find_aliases(screen.design[there], screen.block[there]).sentence(screen.names)


def method(view: RunView, screen: Designed | None, summary: Mapping[str, float], budget: Budget) -> list[str]:
    """How it was measured, a line each; `screen` is without the accuracies of collapsed runs."""
    said = []
    if screen is not None and summary:
        said += [
            f"Screen: {summary['runs']:.0f} unpruned trainings over {summary['splits']:.0f} train/validation splits, "
            f"each site {view.arms[0]} in {_in_half(screen)} of them and {view.arms[1]} in the others; least squares "
            f"with the splits as blocks, t intervals on "
            f"{summary['df']:.0f} degrees of freedom, Benjamini–Hochberg at q = {budget.screen:.2g} over "
            f"{len(screen.names)} sites.",
            _noise(summary),
            *_widened(summary),
            _aliases(screen),
            "Confirmed: found by the screen, and again by the retest, above 0. Suggestive: by one of the two. Harmful: "
            "by either, below 0. Unresolved: else. Intervals in sentences allow for the site having been chosen.",
        ]
    searched = view.phase("search")
    if searched:
        pruned = sum(record.state == "pruned" for record in searched) / len(searched)
        said.append(
            f"{len(searched)} trainings of the sampler ({percent(pruned, 0)} pruned) looked for a good network. They "
            "enter no estimate: a sampler's own trials give intervals that are too narrow."
        )
    if any("reborn" in arm for arm in view.arms):
        said.append(
            "A reborn block brings its own batch norm: where no norm precedes a site, part of a gain may be the norm's."
        )
    said.append("All effects hold for this study's recipe and data.")
    return said
