"""What the records say: every estimate of the report, made by `reborn_nas.analysis` from plain records."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from reborn_nas.errors import ConfigError
from reborn_nas.report import fresh
from reborn_nas.report.answer import answer, cautions, method
from reborn_nas.report.checked import Checks, checks
from reborn_nas.report.screen import Designed, designed
from reborn_nas.report.view import RunView
from reborn_nas.report.words import interval, signed

if TYPE_CHECKING:
    import pandas as pd

    from reborn_nas.analysis import Comparison

NO_VERDICT = "no verdict"
LOST = (
    "{} screen runs were lost or diverged in a way that goes with the level: both bounds stand in the table."
)


@dataclass(frozen=True)
class Findings:
    """The estimates, in percentage points where nothing else is said.

    Args:
        sentences: the answer.
        cautions: what a reader must bear in mind.
        method: how it was measured, a line each.
        summary: numbers by name: runs, planned, splits, sigma, df, detectable (by the end of the screen),
            correlation, validation_se, validation_n.
        effects: one row a site, the report's columns; None without a screen.
        stages, pooled: tables with `label, effect, ci_low, ci_high`.
        slope_words: a sentence.
        candidate: candidate against parent, or None.
        candidate_arms: accuracies by arm.
        candidate_part, candidate_images: what they were measured on.
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
    candidate: Comparison | None = None
    candidate_arms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    candidate_part: str = ""
    candidate_images: int = 0
    confirmation: pd.DataFrame | None = None
    control: pd.DataFrame | None = None
    checks: Checks = field(default_factory=Checks)


def study_findings(view: RunView) -> Findings:
    """All estimates that the view's records allow."""
    from reborn_nas.analysis import verdicts

    chance = _chance(view)
    screen = designed(view.phase("screen"), view.site_names, chance)
    covariates = _covariates(screen)
    effects = _effects(view, screen, covariates, chance) if screen is not None else None
    confirmed, controlled = fresh.confirmation(view, chance), fresh.control(view, chance)
    if effects is not None:
        attrs = effects.attrs
        effects["verdict"] = verdicts(effects, confirmed) if view.finished else NO_VERDICT
        for prefix, table in (("confirmed", confirmed), ("control", controlled)):
            _join(effects, prefix, table)
        effects.attrs = attrs
    compared = fresh.compared(view)
    arms, part, images = fresh.candidate_arms(view)
    summary = _summary(view, screen, effects)
    ends, bent = fresh.baseline(view, screen, summary.get("sigma", math.nan))
    stages, slope = _depth(view, screen, covariates, effects)
    return Findings(
        sentences=answer(view, effects, compared, controlled),
        cautions=[*cautions(view, screen, effects, summary), *bent],
        method=[*method(view, screen, summary), *ends],
        summary=summary,
        effects=effects,
        stages=stages,
        slope_words=slope,
        pooled=_pooled(screen) if effects is not None else None,
        candidate=compared,
        candidate_arms=arms,
        candidate_part=part,
        candidate_images=images,
        confirmation=_beside_screen(confirmed, effects),
        control=controlled,
        checks=checks(view),
    )


def _covariates(screen: Designed | None) -> pd.DataFrame | None:
    from reborn_nas.analysis import option_counts

    if screen is None or (screen.kernel is None and screen.compression is None):
        return None
    return option_counts(kernel=screen.kernel, compression=screen.compression)


def _effects(
    view: RunView, screen: Designed, covariates: pd.DataFrame | None, chance: float
) -> pd.DataFrame | None:
    """The table of `site_effects` with what the report adds to it; None where the runs are too few."""
    from reborn_nas.analysis import loss_bounds, needs_bounds, site_effects

    shared: dict[str, Any] = {"names": screen.names, "block": screen.block, "covariates": covariates}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they stand in attrs["warnings"]
        try:
            found = site_effects(screen.design, screen.accuracy, **shared)
        except ConfigError:
            return None
        attrs = dict(found.attrs)
        lost = screen.diverged | np.isnan(screen.accuracy)
        if lost.any() and needs_bounds(screen.design, screen.accuracy, screen.diverged):
            bounds = loss_bounds(screen.design, screen.accuracy, lost=lost, chance=chance, **shared)
            found["at_chance"], found["at_block_mean"] = bounds.chance["effect"], bounds.block_mean["effect"]
            agree = bounds.chance["verdict"] == bounds.block_mean["verdict"]
            found["verdict"] = found["verdict"].where(agree, NO_VERDICT)
            attrs["warnings"] = (*attrs.get("warnings", ()), LOST.format(int(lost.sum())))
    about = view.sites.set_index("name").reindex(screen.names)
    for name in ("stage", "block", "shape", "activation", "added_params", "added_macs"):
        found[name] = about[name].to_numpy()
    found["stage"] = found["stage"].fillna(0).astype(int)
    for name in ("block", "shape", "activation"):
        found[name] = found[name].fillna("")
    present = ~np.isnan(screen.accuracy)
    found["runs_with"] = screen.design[present].sum(axis=0)
    found["runs_without"] = (~screen.design[present]).sum(axis=0)
    found.attrs = attrs
    return found


def _join(effects: pd.DataFrame, prefix: str, table: pd.DataFrame | None) -> None:
    """Add a phase's estimates to the sites as `prefix`, `prefix_low`, `prefix_high`."""
    for suffix, column in (("", "effect"), ("_low", "ci_low"), ("_high", "ci_high")):
        values = {} if table is None else dict(zip(table["site"], table[column]))
        effects[prefix + suffix] = [float(values.get(site, math.nan)) for site in effects["site"]]


def _beside_screen(confirmed: pd.DataFrame | None, effects: pd.DataFrame | None) -> pd.DataFrame | None:
    """The confirmation with the screen's estimate of the same sites as `screen`, `screen_low`, `screen_high`."""
    if confirmed is None:
        return None
    table = confirmed.copy()
    _join(table, "screen", effects)
    return table


def _depth(
    view: RunView, screen: Designed | None, covariates: pd.DataFrame | None, effects: pd.DataFrame | None
) -> tuple[pd.DataFrame | None, str]:
    """Stage means, and the trend with depth in words."""
    from reborn_nas.analysis import depth_slope, stage_means

    if screen is None or effects is None or len(effects) < 3 or not set(screen.names) <= set(view.site_names):
        return None, ""
    shared: dict[str, Any] = {"block": screen.block, "covariates": covariates}
    stages = stage_means(screen.design, screen.accuracy, list(effects["stage"]), **shared)
    counts = stages["sites"]
    stages.insert(
        0,
        "label",
        [f"Stage {s + 1} ({n} site{'s' if n > 1 else ''})" for s, n in zip(stages["stage"], counts)],
    )
    slope = depth_slope(screen.design, screen.accuracy, **shared)
    trend = "rises with depth" if slope["ci_low"] > 0 else "falls with depth" if slope["ci_high"] < 0 else ""
    told = f"{signed(slope['effect'])} percentage points {interval(slope['ci_low'], slope['ci_high'])}"
    words = f"The effect {trend}: " if trend else "No trend with depth is resolved: "
    return stages, f"{words}{told} from the first site to the last, fitted as a straight line."


def _pooled(screen: Designed | None) -> pd.DataFrame | None:
    """Kernel and compression, each level against the mean of its levels, over all sites."""
    from reborn_nas.analysis.pooled import pooled_effects

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


def _summary(view: RunView, screen: Designed | None, effects: pd.DataFrame | None) -> dict[str, float]:
    from reborn_nas.analysis import minimum_detectable_effect

    if screen is None or effects is None:
        return {}
    attrs = effects.attrs
    level = float(np.nanmean(screen.accuracy))
    planned = max(
        (int(item.get("planned", 0)) for item in view.phases if item.get("phase") == "screen"), default=0
    )
    detectable = attrs["detectable"]
    if planned > attrs["n_runs"] and not view.finished:
        detectable = minimum_detectable_effect(planned, len(screen.names), attrs["sigma"])
    summary = {
        "runs": float(attrs["n_runs"]), "planned": float(max(planned, attrs["n_runs"])),
        "splits": float(len(set(screen.block.tolist()))), "sigma": attrs["sigma"], "df": float(attrs["df"]),
        "detectable": detectable, "correlation": attrs["max_correlation"],
    }  # fmt: skip
    if screen.images:
        summary["validation_n"] = float(screen.images)
        summary["validation_se"] = 100 * math.sqrt(level * (1 - level) / screen.images)
    return summary


def _chance(view: RunView) -> float:
    """Accuracy of a guess, where the records tell the number of classes."""
    for record in view.records:
        backbone = record.architecture.get("backbone")
        classes = backbone.get("num_classes") if isinstance(backbone, Mapping) else None
        if isinstance(classes, int) and classes > 0:
            return 1 / classes
    return 0.0
