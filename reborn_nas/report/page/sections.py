"""The page's sections made of estimates: candidate, network, effects, depth, confirmation, control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reborn_nas.report.figures import estimates, network, trials
from reborn_nas.report.page.columns import SITE_TABLE
from reborn_nas.report.page.page import Section, show
from reborn_nas.report.results.findings import Findings
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import interval, signed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["evidence"]

PP = "percentage points (95 % interval)"


def evidence(view: RunView, findings: Findings) -> list[Section]:
    """Every section whose numbers are estimates with intervals; those that have nothing to show are empty."""
    sections = [Section("candidate", f"Is the candidate better than {_whose(view)}?")]
    if findings.candidate is not None:
        _candidate(sections[0], view, findings)
    if findings.effects is not None:
        sections += [_network(view, findings, findings.effects), _effects(view, findings.effects)]
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
    section.intro.append(
        f"The candidate differs from {view.parent} by {signed(found.effect)} percentage points "
        f"{interval(found.ci_low, found.ci_high)} ({findings.candidate_part} accuracy, {found.n_first} against "
        f"{found.n_second} trainings with fresh seeds)."
    )
    arms, part, images = findings.candidate_arms, findings.candidate_part, findings.candidate_images
    notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in found.notes)
    caption = f"Each point is one training; the stroke is the mean.{notes}"
    section.figure(lambda width: trials.strip_figure(arms, width, part, images), caption)


def _network(view: RunView, findings: Findings, effects: pd.DataFrame) -> Section:
    tested, reference = view.arms
    section = Section("network", "Where in the network")
    section.intro.append(
        f"From input to output, in execution order. A tile is a site, its number the effect of {tested} against "
        f"{reference} in percentage points, averaged over networks whose other sites are {tested} half of the time. "
        "The bar below is the interval that belongs to its verdict, around 0; sites without a verdict are grey, the "
        "others the deeper the larger their effect, shrunk towards 0."
    )
    frame = _all_sites(view, effects)
    detectable = findings.summary.get("detectable", 0.0)
    section.figure(lambda width: network.network_figure(frame, width, view.arms, detectable))
    return section


def _all_sites(view: RunView, effects: pd.DataFrame) -> pd.DataFrame:
    """The effects, with a row without numbers for each site that was not varied."""
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
        "of the line stands the interval that belongs to the verdict, corrected for the number of sites; a site is "
        "coloured where it has a verdict, and where none stands there it is unresolved or has none.",
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
        f"All {len(effects)} sites, {view.arms[0]} − {view.arms[1]}. q is Benjamini and Hochberg's over all sites of "
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
        title, axis = "Sums of effects, and what was measured", f"difference from the parent, {PP}"
        _intervals(section, findings.sums.table, "sums", title, axis, "label")
        for line in findings.sums.words:
            section.add("text", line)
    return section


def _depth(findings: Findings) -> Section:
    section = Section("depth", "By stage, kernel and compression")
    if findings.stages is not None and len(findings.stages) > 1:
        _intervals(section, findings.stages, "stages", "Mean effect by stage", estimates.AXIS, "label")
        section.add("text", findings.slope_words)
        section.add(
            "text", "A stage's mean is that of its own sites, and the interval of each stands for itself."
        )
    if findings.pooled is not None and len(findings.pooled):
        section.add("heading", "Kernel and compression, pooled over all sites")
        _intervals(
            section, findings.pooled, "pooled", "Kernel and compression, pooled",
            "against the mean of the levels, percentage points at one site (95 % interval)", "label",
            "Estimated over all sites together; which is best at a single site cannot be told.",
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
            "judged on images that no earlier phase used. The two estimate different quantities, the average over "
            f"half-{tested} networks and the effect on the candidate, so they need not agree exactly."
        )
        series = [("screen", "screen", "flat", "ring"), ("effect", "retest", "other", "circle")]
        section.figure(
            lambda width: estimates.paired_figure(
                frame, width, name="confirmation", title="Screen and retest", series=series,
                axis=f"{tested} − {reference}, {PP}",
            ),
            "The numbers at the end of each line are the retest's.",
        )  # fmt: skip
    if findings.checks.alone is not None:
        title = f"Each alone on {view.parent}"
        section.add("heading", title)
        axis = f"site alone − {view.parent}, {PP}"
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
        title, axis = "Reborn against its positive twin", f"reborn − positive twin, {PP}"
        _intervals(section, findings.control, "control", title, axis)
    if findings.checks.controls is not None:
        section.add("heading", "Against other things in its place")
        section.add(
            "text",
            "Reborn at all of these sites of the candidate at once, against something else at all of them. Extended "
            "conv is the paper's comparison, without batch norm and with fewer weights, so it carries no claim; norm "
            "+ ReLU shows what the block's batch norm alone does.",
        )
        title, axis = "Reborn against other things in its place", f"reborn − the other, {PP}"
        _intervals(section, findings.checks.controls, "controls", title, axis, "label")
    return section
