"""The sections of the page: estimates, then trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd

from reborn_nas.metric import spoken
from reborn_nas.report.figures import estimates, network, trials
from reborn_nas.report.page.page import (
    CLASS_TABLE,
    PHASE_TABLE,
    PRUNED_TABLE,
    SITE_TABLE,
    TRIAL_TABLE,
    Section,
    show,
)
from reborn_nas.report.results.findings import Findings
from reborn_nas.report.results.networks import sampled_curves
from reborn_nas.report.results.tables import cost_columns, phase_table
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import (
    as_value,
    capital,
    cases,
    count,
    difference,
    effect_axis,
    in_unit,
    interval,
    metric_label,
    number,
    one_input,
    signed,
    unit_name,
)

__all__ = ["estimate_sections", "training_sections"]


MOST_CLASSES = 40
"""Rows of the table of classes on the page."""


def estimate_sections(view: RunView, findings: Findings) -> list[Section]:
    """The sections of estimates with intervals; a section with nothing to show is empty."""
    sections = [Section("candidate", f"Is the candidate better than {_whose(view)}?")]
    if findings.candidate is not None:
        _candidate(sections[0], view, findings)
    if findings.effects is not None:
        sections += [_network(view, findings, findings.effects), _effects(view, findings.effects)]
    sections.append(_classes(view, findings.classes))
    return [
        *sections, _sums(findings), _depth(findings), _confirmation(view, findings), _control(view, findings)
    ]  # fmt: skip


def _whose(view: RunView) -> str:
    return "its parent" if view.arms[1] == "original" else view.parent


def _intervals(
    section: Section,
    frame: pd.DataFrame,
    name: str,
    title: str,
    axis: str,
    label: str = "site",
    caption: str = "",
) -> None:
    """A chart of `frame`'s estimates, one row each."""
    section.figure(
        lambda width: estimates.table_figure(frame, width, name=name, title=title, label=label, axis=axis),
        caption,
    )


def _candidate(section: Section, view: RunView, findings: Findings) -> None:
    found: Any = findings.candidate
    gap = f"The candidate differs from {view.parent} by"
    if not spoken().higher_is_better:
        gap = f"{capital(difference('the candidate', view.parent))} is"
    section.intro.append(
        f"{gap} {signed(found.effect)}{in_unit()} "
        f"{interval(found.ci_low, found.ci_high)} ({findings.candidate_part} {metric_label()}, {found.n_first} against "
        f"{found.n_second} trainings with fresh seeds)."
    )
    arms, part, images = findings.candidate_arms, findings.candidate_part, findings.candidate_images
    notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in found.notes)
    caption = f"Each point is one training; the stroke is the mean.{notes}"
    section.figure(lambda width: trials.strip_figure(arms, width, part, images), caption)


def _classes(view: RunView, table: pd.DataFrame | None) -> Section:
    section = Section("classes", f"Class by class: the candidate and {_whose(view)}")
    if table is None:
        return section
    runs, least = table.attrs["trainings"], table.sort_values("images", kind="stable").iloc[0]
    section.intro.append(
        "The share of each class's test images that are classified rightly (recall), its mean over "
        f"{runs['parent']} trainings of {view.parent} and {runs['candidate']} of the candidate. The intervals of a "
        "share are Wilson's, over images; that of a difference is over trainings, given these images, and holds for "
        f"all {len(table)} classes together. The smallest class, {least['class']}, has {least['images']:,} test images."
    )
    shown = table.assign(
        parent_ci=_shares(table["parent_low"], table["parent_high"]),
        candidate_ci=_shares(table["candidate_low"], table["candidate_high"]),
        ci=[interval(low, high, 2) for low, high in zip(table["ci_low"], table["ci_high"])],
    )
    caption = "Differences in percentage points (pp)."
    if len(shown) > MOST_CLASSES:
        order = shown.sort_values("difference", kind="stable").index
        ends = sorted([*order[: MOST_CLASSES // 2], *order[-(MOST_CLASSES // 2) :]])
        shown = shown.loc[ends]
        caption += (
            f" {len(shown)} of {len(table):,} classes: those that lose and gain most, which is partly luck. The CSV "
            "has all of them."
        )
    section.table(show(shown, "classes", caption, CLASS_TABLE, file="classes.csv"))
    return section


def _shares(low: pd.Series, high: pd.Series) -> list[str]:
    return [f"{100 * a:.1f} – {100 * b:.1f}" for a, b in zip(low, high)]


def _network(view: RunView, findings: Findings, effects: pd.DataFrame) -> Section:
    tested, reference = view.arms
    section = Section("network", "Where in the network")
    section.intro.append(
        f"From input to output, in execution order. A tile is a site, its number the effect of {tested} against "
        f"{reference} in {unit_name()}, averaged over networks whose other sites are {tested} half of the time. "
        "The bar below is the interval that belongs to its verdict, around 0; sites without a verdict are grey, the "
        "others the deeper the larger their effect, shrunk towards 0."
    )
    frame = _all_sites(view, effects)
    detectable = findings.summary.get("detectable", 0.0)
    section.figure(lambda width: network.network_figure(frame, width, view.arms, detectable))
    return section


def _all_sites(view: RunView, effects: pd.DataFrame) -> pd.DataFrame:
    """The effects, with an empty row for each site that was not varied."""
    if not set(effects["site"]) <= set(view.site_names) or len(effects) == len(view.sites):
        return effects
    about = view.sites.rename(columns={"name": "site"})
    numbers = effects.drop(columns=[name for name in about.columns if name != "site" and name in effects])
    frame = about.merge(numbers, on="site", how="left")
    frame["verdict"] = frame["verdict"].fillna("not varied")
    return frame


def _effects(view: RunView, effects: pd.DataFrame) -> Section:
    section = Section("effects", "How much, and how surely")
    section.figure(
        lambda width: estimates.forest_figure(effects, width, view.arms),
        "Thick: the 95 % interval of one site alone. Thin: the interval that holds for all sites together. At the end "
        "of a line is the interval that the site's verdict rests on, corrected for the number of sites; a site is "
        "coloured if it has a verdict, and a line without such an interval is of a site that is unresolved.",
    )
    shown = effects.assign(
        ci=[interval(a, b) for a, b in zip(effects["ci_low"], effects["ci_high"])],
        said_ci=[interval(a, b) for a, b in zip(effects["said_low"], effects["said_high"])],
        shrunk_ci=[interval(a, b) for a, b in zip(effects["shrunk_low"], effects["shrunk_high"])],
        ranks=[f"{a:.0f} – {b:.0f}" for a, b in zip(effects["rank_low"], effects["rank_high"])],
    )
    if not effects[["failed_with", "failed_without"]].to_numpy().any():
        shown = shown.drop(columns=["failed_with", "failed_without"])
    ranked = bool(effects["p_top5"].notna().any())
    if not ranked:
        shown = shown.drop(columns=["p_top5", "ranks"])
    for name in ("confirmed", "control"):
        if effects[name].notna().any():
            pairs = zip(effects[f"{name}_low"], effects[f"{name}_high"])
            shown[f"{name}_ci"] = [interval(a, b) for a, b in pairs]
        else:
            shown = shown.drop(columns=name)
    caption = (
        f"All {len(effects)} sites, {difference(*view.arms)}. q is Benjamini and Hochberg's over all sites of "
        "this contrast; the shrunk effect is the estimate pulled towards 0 by how small effects are here on the whole."
    )
    table = show(shown, "sites", caption, SITE_TABLE, file="sites.csv")
    section.table(table, folded="The numbers, site by site")
    if ranked:
        section.add("heading", "Which sites rank first")
        section.figure(
            lambda width: estimates.rank_figure(effects, width),
            "Where rank intervals overlap, the order of two sites is not established.",
        )
    return section


def _sums(findings: Findings) -> Section:
    section = Section("sums", "Do the effects add up?")
    if findings.sums.table is not None:
        title, axis = (
            "Sums of effects, and what was measured",
            f"difference from the parent, {unit_name()} (95 % interval)",
        )
        _intervals(section, findings.sums.table, "sums", title, axis, "label")
        for line in findings.sums.words:
            section.add("text", line)
    return section


def _depth(findings: Findings) -> Section:
    section = Section("depth", "By stage, kernel and compression")
    if findings.stages is not None and len(findings.stages) > 1:
        _intervals(section, findings.stages, "stages", "Mean effect by stage", effect_axis(), "label")
        section.add("text", findings.slope_words)
        section.add(
            "text", "A stage's mean is that of its own sites, and each interval is of one stage by itself."
        )
    if findings.pooled is not None and len(findings.pooled):
        section.add("heading", "Kernel and compression, pooled over all sites")
        _intervals(
            section, findings.pooled, "pooled", "Kernel and compression, pooled",
            f"against the mean of the levels, {unit_name()} at one site (95 % interval)", "label",
            "Estimated over all sites together; which is best at a single site cannot be determined.",
        )  # fmt: skip
        section.add("text", findings.pooled_words)
    return section


def _confirmation(view: RunView, findings: Findings) -> Section:
    tested, reference = view.arms
    section = Section("confirmation", "Does it hold up?")
    frame = findings.confirmation
    if frame is not None:
        section.intro.append(
            "The sites with the largest estimates were measured again on the candidate, with fresh seeds and "
            f"judged on {cases()} that no earlier phase used. The two estimate different quantities, the average over "
            f"half-{tested} networks and the effect on the candidate, so they need not agree exactly."
        )
        series = [("screen", "screen", "flat", "ring"), ("effect", "retest", "other", "circle")]
        section.figure(
            lambda width: estimates.paired_figure(
                frame, width, name="confirmation", title="Screen and retest", series=series,
                axis=f"{difference(tested, reference)}, {unit_name()} (95 % interval)",
            ),
            "The numbers at the end of each line are the retest's.",
        )  # fmt: skip
    if findings.checks.alone is not None:
        title = f"Each alone on {view.parent}"
        section.add("heading", title)
        axis = f"{difference('site alone', view.parent)}, {unit_name()} (95 % interval)"
        caption = "A third background, with no other site changed."
        _intervals(section, findings.checks.alone, "alone", title, axis, caption=caption)
    if findings.checks.rate is not None:
        section.add("heading", "At another learning rate")
        section.add("text", findings.checks.rate_words())
    return section


def _control(view: RunView, findings: Findings) -> Section:
    section = Section("control", "Is it the negative phase?")
    if findings.control is not None:
        section.intro.append(
            "The positive twin is the same block fed with the positive phase: the same parameters, operations, batch "
            "norm and depth. Only this difference can say that a gain is due to the negative phase, or more than its "
            "parameters buy."
        )
        title, axis = (
            "Reborn against its positive twin",
            f"{difference('reborn', 'positive twin')}, {unit_name()} (95 % interval)",
        )
        _intervals(section, findings.control, "control", title, axis)
    if findings.checks.controls is not None:
        section.add("heading", "Against other things in its place")
        section.add(
            "text",
            "Reborn at all of these sites of the candidate at once, against something else at all of them. Extended "
            "conv is the paper's comparison, without batch norm and with fewer weights, so it carries no claim; norm "
            "+ ReLU shows what the block's batch norm alone does.",
        )
        title, axis = (
            "Reborn against other things in its place",
            f"{difference('reborn', 'the other')}, {unit_name()} (95 % interval)",
        )
        _intervals(section, findings.checks.controls, "controls", title, axis, "label")
    return section


MOST_TRIALS = 200
LATENCY = (
    "in deployment form, the median of 15 passes on the study's device, measured once for each network that is "
    "compared (and for the exploration's where it weighs latency). What else the machine did moves it."
)


def training_sections(view: RunView, table: pd.DataFrame) -> list[Section]:
    """The sections of individual trainings; `table` is `tables.trial_table`."""
    return [_costs(table), _search(view), _curves(view), _trials(view, table)]


def _costs(table: pd.DataFrame) -> Section:
    section = Section("costs", f"{capital(metric_label())} against cost")
    columns = cost_columns(table)
    if not columns or table["accuracy"].notna().sum() < 2:
        return section
    section.intro.append(
        f"Every completed training of every phase, which are judged on different {cases()}. The line joins those "
        f"judged on validation {cases()} that none of these beats at the same or a lower cost; the best of many is "
        "partly luck."
    )
    for column, words, unit in columns:
        draw = partial(trials.cost_figure, table, column=column, words=words, unit=unit)
        section.figure(draw, f"One {one_input()} {LATENCY}" if column == "latency_ms" else "")
    if "latency_ms" not in table:
        section.add("text", "Latency was not measured in this study.")
    return section


def _search(view: RunView) -> Section:
    """Hypervolume over the trainings of the search, and the choices that its pruner stopped."""
    section = Section("search", "How the exploration went")
    series = view.front
    if len(series.get("hypervolume", ())) > 1:
        corner = _corner(series["reference"])
        section.figure(
            lambda width: trials.hypervolume_figure(series["trials"], series["hypervolume"], width),
            f"The volume that the front of {', '.join(map(_objective, series['reference']))} covers, counted from "
            f"{corner}; "
            f"{metric_label()} in its own unit, each cost as a share of its range. It can only grow, and its end is "
            "partly luck.",
        )
    if view.pruned is not None and len(view.pruned):
        share = 100 * float(view.pruned["all"].iloc[0])
        section.table(
            show(
                view.pruned, "pruned",
                f"Trainings of the exploration stopped by the pruner, by choice (over all {number(share, 0)} %). "
                "A choice that starts late is stopped for it, not for its worth.",
                PRUNED_TABLE, file="pruned.csv",
            )
        )  # fmt: skip
    return section


def _corner(reference: Mapping[str, float]) -> str:
    words: dict[str, Callable[[float], str]] = {
        "accuracy": as_value,
        "latency": lambda seconds: f"{1000 * seconds:.3g} ms",
    }
    return ", ".join(
        f"{_objective(name)} {words.get(name, count)(value)}" for name, value in reference.items()
    )


def _objective(name: str) -> str:
    """The name of an objective for readers."""
    return metric_label() if name == "accuracy" else name


def _curves(view: RunView) -> Section:
    section = Section("curves", "Learning curves")
    curves, total = sampled_curves(view, trials.MOST_CURVES)
    note = f" of {total:,}, spread evenly over the study" if len(curves) < total else ""
    rows = [
        (phase, [dict(zip(map(str, frame), row)) for row in frame.to_numpy().tolist()])
        for phase, frame in curves
    ]
    for column in (None, "train_loss"):
        kept = [(phase, points) for phase, one in rows if (points := trials.curve_points(one, column))]
        if kept:
            section.figure(lambda width, k=kept, c=column: trials.curve_figure(k, width, c, note))  # type: ignore[misc]
    if note and section.parts:
        section.add("text", f"{len(curves)} curves{note}.")
    return section


def _trials(view: RunView, table: pd.DataFrame) -> Section:
    section = Section("trials", "Every training")
    phases = phase_table(view)
    rare = ("diverged", "failed", "rejected", "pruned", "running", "note")
    empty = [name for name in rare if not phases[name].astype(bool).any()]
    shown = phases.drop(columns=empty)
    section.table(show(shown, "phases", "The phases and what they cost.", PHASE_TABLE, file="phases.csv"))
    chosen = _most_relevant(table)
    columns = [
        column
        for column in TRIAL_TABLE
        if column[0] not in ("test_accuracy", "reason") or chosen[column[0]].astype(bool).fillna(False).any()
    ]
    caption = f"All {len(table):,} trainings." if len(chosen) == len(table) else (
        f"{len(chosen)} of {len(table):,} trainings: those that did not complete, then the best of each "
        "phase. The CSV has all of them."
    )  # fmt: skip
    rows = show(chosen, "trials", caption, columns, file="trials.csv")
    section.table(rows, folded=f"The trainings ({len(chosen):,})")
    return section


def _most_relevant(table: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_TRIALS` rows: half of them for failures, the rest for the best of each phase."""
    if len(table) <= MOST_TRIALS:
        return table
    wrong = table[table["state"] != "complete"].head(MOST_TRIALS // 2)
    good = table[table["state"] == "complete"].sort_values("accuracy", ascending=False, kind="stable")
    share = max(1, (MOST_TRIALS - len(wrong)) // max(1, good["phase"].nunique()))
    return table.loc[sorted({*wrong.index, *good.groupby("phase").head(share).index})]
