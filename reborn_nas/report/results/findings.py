"""What the records say: every estimate of the report, made by `reborn_nas.analysis` from plain records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reborn_nas.analysis import (
    Comparison,
    depth_slope,
    minimum_detectable_effect,
    option_counts,
    stage_means,
)
from reborn_nas.analysis.columns import Columns, Table, floats
from reborn_nas.analysis.effects.budget import Budget, budget_lines, spend
from reborn_nas.analysis.effects.collapse import collapsed, failures_by_site
from reborn_nas.analysis.effects.effects import score_columns
from reborn_nas.analysis.effects.linear import as_accuracy, unvaried
from reborn_nas.analysis.effects.verdicts import BOTH, CONFIRMED, HARMFUL, RETEST, SCREEN, SUGGESTIVE, decided
from reborn_nas.analysis.phases.claims import kernel_sentence, resolved, trend_sentence
from reborn_nas.analysis.phases.pooled import pooled_effects
from reborn_nas.errors import ConfigError
from reborn_nas.metric import speaking, spoken
from reborn_nas.records import chance_level
from reborn_nas.report.results import fresh
from reborn_nas.report.results.answer import answer, cautions, method
from reborn_nas.report.results.classes import class_table
from reborn_nas.report.results.fresh import Checks, checks, typical_error
from reborn_nas.report.results.screen import Designed, designed
from reborn_nas.report.results.sums import Sums, sums
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import spelled

NO_VERDICT = "no verdict"


@dataclass(frozen=True)
class Findings:
    """The estimates, in percentage points where nothing else is said.

    Args:
        sentences: the answer.
        cautions: what a reader must bear in mind.
        method: how it was measured, a line each.
        summary: numbers by name: runs, planned, splits, sigma, df, detectable (by the end of the screen, at one site;
            detectable_2 and detectable_5 at each of so many),
            correlation, validation_se, validation_n.
        effects: one row a site, the report's columns; None without a screen.
        stages, pooled: tables with `label, effect, ci_low, ci_high`.
        slope_words, pooled_words: a sentence on each.
        sums: whether the effects add up.
        budget: the error budget, and how it was spent, a line each.
        candidate: candidate against parent, or None.
        candidate_arms: accuracies by arm.
        candidate_part, candidate_images: what they were measured on.
        classes: candidate and parent class by class, see `classes.class_table`; None where that is not known.
        confirmation, control: tables with `site, effect, ci_low, ci_high`.
        checks: what came after the control.
    """

    sentences: Sequence[str] = ()
    cautions: Sequence[str] = ()
    method: Sequence[str] = ()
    summary: Mapping[str, float] = field(default_factory=dict)
    effects: pd.DataFrame | None = None
    stages: pd.DataFrame | None = None
    slope_words: str = ""
    pooled: pd.DataFrame | None = None
    pooled_words: str = ""
    sums: Sums = field(default_factory=Sums)
    budget: Sequence[str] = ()
    candidate: Comparison | None = None
    candidate_arms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    candidate_part: str = ""
    candidate_images: int = 0
    classes: pd.DataFrame | None = None
    confirmation: pd.DataFrame | None = None
    control: pd.DataFrame | None = None
    checks: Checks = field(default_factory=Checks)


def study_findings(view: RunView) -> Findings:
    """All estimates that the view's records allow, in the words and the unit of its metric."""
    with speaking(view.metric):
        return _findings(view)


def _findings(view: RunView) -> Findings:
    chance = chance_level(view.records)
    screen = designed(view.phase("screen"), view.site_names, chance)
    whole = None if screen is None else screen.converged(chance)
    covariates = _covariates(screen)
    retest, controlled = fresh.confirmation(view, chance), fresh.control(view, chance)
    budget = _budget(view, screen, chance)
    effects, refused = (None, "") if screen is None else _effects(view, screen, covariates, chance, budget)
    if effects is not None:
        _decide(effects, retest, budget, view.finished)
        for prefix, table in (("confirmed", retest), ("control", controlled)):
            effects.columns |= _beside(effects, prefix, table)
    arms = fresh.candidate_arms(view, chance)
    compared = fresh.compared(view, arms, budget.candidate)
    summary = _summary(view, screen, effects)
    added = sums(view, whole, arms, compared, chance, budget.other)
    stages, slope = _depth(view, whole, covariates, effects)
    pooled = _pooled(whole) if effects is not None else None
    return Findings(
        sentences=answer(view, effects, compared, controlled, refused),
        cautions=[*cautions(view, screen, effects, summary), *added.cautions],
        method=[*method(view, whole, summary, budget), *added.method],
        budget=_budget_words(budget, effects, retest, compared, added),
        summary=summary,
        effects=None if effects is None else effects.frame(),
        stages=stages,
        slope_words=slope,
        pooled=pooled,
        pooled_words="" if pooled is None else spelled(kernel_sentence(pooled, named=resolved(effects))),
        sums=added,
        candidate=compared,
        candidate_arms=arms.accuracy,
        candidate_part=arms.part,
        candidate_images=arms.images,
        classes=class_table(view, arms.kept),
        confirmation=_beside_screen(retest, effects),
        control=controlled,
        checks=checks(view, chance, _named(effects)),
    )


def _budget(view: RunView, screen: Designed | None, chance: float) -> Budget:
    """The levels of this study's tests: by its phases, planned or run, and by how many trainings failed."""
    retest = bool(view.phase("confirm")) or any(
        item.get("phase") == "confirm" and item.get("planned") for item in view.phases
    )
    if screen is None:
        return spend(retest=retest)
    fallen = collapsed(screen.accuracy, chance, screen.diverged)
    ended = np.isfinite(screen.accuracy) | fallen
    lost = failures_by_site(screen.design[ended], fallen[ended])
    return spend(retest=retest, failures=lost.size, failures_found=lost.found)


def _budget_words(
    budget: Budget,
    effects: Columns | None,
    retest: pd.DataFrame | None,
    candidate: Comparison | None,
    added: Sums,
) -> list[str]:
    """The error budget and what was named within each part of it."""
    counts = Counter(() if effects is None else effects["basis"].tolist())
    told = "not tried"
    if candidate is not None:
        told = "a difference is seen" if candidate.ci_low * candidate.ci_high > 0 else "no difference is seen"
    return budget_lines(
        budget,
        sites=0 if effects is None else len(effects),
        named=counts[SCREEN] + counts[BOTH],
        retested=0 if retest is None else len(retest),
        confirmed=0 if effects is None else int((effects["verdict"] == CONFIRMED).sum()),
        alone=counts[RETEST],
        failing=0 if effects is None else int((effects["makes_fail"] | effects["fails_without"]).sum()),
        candidate=told,
        sums="not tried" if not added.words else "they do not" if added.cautions else "no gap is seen",
    )


def _decide(effects: Columns, retest: pd.DataFrame | None, budget: Budget, finished: bool) -> None:
    """Give the table what may be said of each site; nothing while trainings are still to come."""
    if not finished:
        effects["verdict"] = np.full(len(effects), NO_VERDICT, dtype=object)
    effects.columns |= decided(effects, retest, budget)


def _named(effects: Columns | None) -> set[str]:
    """The sites that have a verdict."""
    told = () if effects is None else zip(effects["site"], effects["verdict"])
    return {str(site) for site, verdict in told if verdict in (CONFIRMED, SUGGESTIVE, HARMFUL)}


def _covariates(screen: Designed | None) -> pd.DataFrame | None:
    if screen is None or (screen.kernel is None and screen.compression is None):
        return None
    return option_counts(kernel=screen.kernel, compression=screen.compression)


def _effects(
    view: RunView, screen: Designed, covariates: pd.DataFrame | None, chance: float, budget: Budget
) -> tuple[Columns | None, str]:
    """The columns of `site_effects` with what the report adds to them.

    None where the runs allow none, and why: "" where they are too few.
    """
    try:
        found = score_columns(
            screen.design, as_accuracy(screen.accuracy, screen.n_runs), names=screen.names, block=screen.block,
            covariates=covariates, chance=chance, failed=screen.diverged, level=budget.screen,
        )  # fmt: skip
    except ConfigError:
        same = unvaried(screen.design[np.isfinite(screen.accuracy)])
        names = ", ".join(name for name, alike in zip(screen.names, same) if alike)
        if np.isfinite(screen.accuracy).sum() <= len(screen.names) + len(set(screen.block.tolist())):
            return None, ""
        if names:
            return None, f"these sites are the same in all of its runs: {names}"
        return None, "some sites change only together in the runs that there are"
    place = {name: row for row, name in enumerate(view.site_names)}
    rows = [place.get(name, -1) for name in screen.names]
    for name, absent in _ABOUT.items():
        known = [*view.sites[name].tolist(), absent]  # −1: the last
        found[name] = [known[row] for row in rows]
    present = ~np.isnan(screen.accuracy)
    found["runs_with"] = screen.design[present].sum(axis=0)
    found["runs_without"] = (~screen.design[present]).sum(axis=0)
    return found, ""


_ABOUT = {
    "stage": 0,
    "block": "",
    "shape": "",
    "activation": "",
    "added_params": math.nan,
    "added_macs": math.nan,
}
"""What the table of effects says of a site besides, and of one that the network does not have."""


def _beside(effects: Table, prefix: str, table: Table | None) -> dict[str, npt.NDArray[np.float64]]:
    """A phase's estimates at the sites of `effects`: `prefix`, `prefix_low`, `prefix_high`."""
    place = {} if table is None else {site: row for row, site in enumerate(table["site"])}
    rows = [place.get(site, -1) for site in effects["site"]]
    columns = {"": "effect", "_low": "ci_low", "_high": "ci_high"}
    return {
        prefix + suffix: np.append(() if table is None else floats(table, column), math.nan)[
            rows
        ]  # −1: the last
        for suffix, column in columns.items()
    }


def _beside_screen(confirmed: pd.DataFrame | None, effects: Columns | None) -> pd.DataFrame | None:
    """The retest with the screen's estimate of the same sites as `screen`, `screen_low`, `screen_high`."""
    if confirmed is None:
        return None
    own = {name: confirmed[name].to_numpy() for name in confirmed.columns}
    return Columns(own | _beside(confirmed, "screen", effects), confirmed.attrs).frame()


def _depth(
    view: RunView, screen: Designed | None, covariates: pd.DataFrame | None, effects: Columns | None
) -> tuple[pd.DataFrame | None, str]:
    """Stage means, and the trend with depth in words."""
    if screen is None or effects is None or len(effects) < 3 or not set(screen.names) <= set(view.site_names):
        return None, ""
    shared: dict[str, Any] = {"block": screen.block, "covariates": covariates}
    try:
        stages = stage_means(screen.design, screen.accuracy, list(effects["stage"]), **shared)
        slope = depth_slope(effects["effect"])
    except ConfigError:
        return None, ""
    counts = zip(stages["stage"].tolist(), stages["sites"].tolist())
    stages.insert(0, "label", [f"Stage {s + 1} ({n} site{'s' if n > 1 else ''})" for s, n in counts])
    known = math.isfinite(slope["ci_low"])  # not where all effects came out the same
    return stages, spelled(trend_sentence(slope, named=resolved(effects))) if known else ""


def _pooled(screen: Designed | None) -> pd.DataFrame | None:
    """Kernel and compression, each level against the mean of its levels, over all sites."""
    if screen is None or (screen.kernel is None and screen.compression is None):
        return None
    try:
        table = pooled_effects(
            screen.design,
            screen.accuracy,
            block=screen.block,
            kernel=screen.kernel,
            compression=screen.compression,
        )
    except ConfigError:
        return None
    table.insert(0, "group", [str(option).capitalize() for option in table["option"]])
    table.insert(
        1, "label", [f"{level} × {level}" if str(level).isdigit() else str(level) for level in table["level"]]
    )
    return table


def _summary(view: RunView, screen: Designed | None, effects: Columns | None) -> dict[str, float]:
    if screen is None or effects is None:
        return {}
    attrs = effects.attrs
    if not attrs["n_runs"]:
        return {}
    level = float(np.nanmean(screen.accuracy))
    planned = max(
        (int(item.get("planned", 0)) for item in view.phases if item.get("phase") == "screen"), default=0
    )
    runs = planned if planned > attrs["n_runs"] and not view.finished else attrs["n_runs"]
    spent = attrs["n_runs"] - attrs["df"]  # parameters, of which a longer screen has hardly more
    detectable = {
        count: minimum_detectable_effect(
            runs,
            len(screen.names),
            attrs["widening"] * attrs["sigma"],
            df=max(1, runs - spent),
            q=attrs["level"],
            true_sites=count,
        )
        for count in (1, 2, 5)
        if count <= len(screen.names)
    }
    summary = {
        "runs": float(attrs["n_runs"]), "planned": float(max(planned, attrs["n_runs"])),
        "splits": float(len(set(screen.block.tolist()))), "sigma": attrs["sigma"], "df": float(attrs["df"]),
        "detectable": detectable[1], "correlation": attrs["max_correlation"],
        "collapsed": float(attrs["collapsed"]), "widening": attrs["widening"],
    }  # fmt: skip
    summary |= {f"detectable_{count}": size for count, size in detectable.items() if count > 1}
    error = math.sqrt(level * (1 - level) / screen.images) if screen.images and spoken().is_accuracy else None
    if error is None and screen.images:
        error = typical_error([record for record in view.phase("screen") if record.state == "complete"])
    if error is not None:
        summary["validation_n"] = float(screen.images)
        summary["validation_se"] = 100 * error
    return summary
