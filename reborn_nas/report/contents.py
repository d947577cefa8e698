"""What the page says, section by section."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reborn_nas.report import estimates, network, sights, trials
from reborn_nas.report.columns import MAY_NOT, PHASE_TABLE, SITE_TABLE, TRIAL_TABLE
from reborn_nas.report.findings import Findings
from reborn_nas.report.page import Page, Part, Section, show
from reborn_nas.report.standing import standing
from reborn_nas.report.tables import cost_columns, phase_table, trial_table
from reborn_nas.report.view import RunView
from reborn_nas.report.words import (
    duration,
    interval,
    number,
    signed,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas as pd

MOST_TRIALS = 200
MOST_MAPS = 4


def page_of(view: RunView, findings: Findings, written: str = "") -> Page:
    """The whole page as data."""
    table = trial_table(view)
    sections = [
        _candidate(findings), _network(view, findings), _effects(view, findings), _depth(findings),
        _confirmation(findings), _controls(findings), _architecture(view), _sights(view), _costs(table), _curves(view),
        _trials(view, table), _method(view, findings), _limits(),
    ]  # fmt: skip
    return Page(
        title=view.title, facts=_facts(view), sentences=findings.sentences, tiles=_tiles(view, findings),
        cautions=findings.cautions, sections=[s for s in sections if s is not None and (s.parts or s.intro)],
        written=written,
    )  # fmt: skip


def _facts(view: RunView) -> list[str]:
    done = sum(record.state in ("complete", "diverged", "pruned") for record in view.records)
    seconds = sum(record.seconds + record.overhead_seconds for record in view.records)
    facts = [
        view.setting("backbone.source", "backbone").removeprefix("timm:"), view.setting("dataset", "data.name", "data"),
        f"{len(view.sites)} activation sites", f"{done:,} trainings", f"{duration(seconds)} of training",
    ]  # fmt: skip
    recipe = view.setting("recipe", "training.recipe")
    return [fact for fact in [*facts, f"recipe {recipe}" if recipe else ""] if fact]


def _tiles(view: RunView, findings: Findings) -> list[Mapping[str, str]]:
    tiles: list[Mapping[str, str]] = []
    c = findings.candidate
    if c is not None:
        tiles.append({
            "words": "Candidate − parent", "value": f"{signed(c.effect)} pp",
            "note": interval(c.ci_low, c.ci_high) + f", {findings.candidate_part}",
        })  # fmt: skip
    s = findings.summary
    if "runs" in s:
        tiles.append(
            {"words": "Runs in the screen", "value": f"{s['runs']:.0f}", "note": f"{s['splits']:.0f} splits"}
        )
    if math.isfinite(s.get("detectable", math.nan)):
        tiles.append(
            {"words": "Detectable effect", "value": f"{number(s['detectable'])} pp", "note": "at 80 % power"}
        )
    if math.isfinite(s.get("sigma", math.nan)):
        df = f"{s['df']:.0f} df" if "df" in s else ""
        tiles.append({"words": "Training noise σ̂", "value": f"{number(s['sigma'])} pp", "note": df})
    if math.isfinite(s.get("validation_se", math.nan)):
        tiles.append({
            "words": "Standard error", "value": f"{number(s['validation_se'])} pp",
            "note": f"of one accuracy, {s['validation_n']:,.0f} images",
        })  # fmt: skip
    return tiles


def _candidate(findings: Findings) -> Section | None:
    c = findings.candidate
    if c is None:
        return None
    section = Section("candidate", "Is the candidate better than its parent?")
    section.intro.append(
        f"The candidate differs from the parent by {signed(c.effect)} percentage points "
        f"{interval(c.ci_low, c.ci_high)} ({findings.candidate_part} accuracy, {c.n_first} against {c.n_second} "
        "trainings with fresh seeds)."
    )
    arms, part, images = findings.candidate_arms, findings.candidate_part, findings.candidate_images
    notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in c.notes)
    caption = f"Each point is one training; the stroke is the mean.{notes}"
    section.figure(lambda width: trials.strip_figure(arms, width, part, images), caption)
    return section


def _network(view: RunView, findings: Findings) -> Section | None:
    effects = findings.effects
    if effects is None:
        return None
    section = Section("network", "Where in the network")
    section.intro.append(
        f"From input to output, in execution order. A tile is a site, its number the effect of {view.arms[0]} against "
        f"{view.arms[1]} in percentage points, averaged over networks whose other sites are {view.arms[0]} half of the "
        "time. The bar below is its 95 % interval around 0; the colour is the effect shrunk towards 0, so that what is "
        "uncertain stays pale."
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


def _effects(view: RunView, findings: Findings) -> Section | None:
    effects = findings.effects
    if effects is None:
        return None
    section = Section("effects", "How much, and how surely")
    section.figure(
        lambda width: estimates.forest_figure(effects, width, view.arms),
        "Estimate and 95 % interval of each site; where no verdict stands at the end, the site is unresolved or has "
        "none. Coloured intervals leave out 0 but are not corrected for the number of sites; the verdicts are.",
    )
    shown = effects.assign(
        ci=[interval(a, b) for a, b in zip(effects["ci_low"], effects["ci_high"])],
        shrunk_ci=[interval(a, b) for a, b in zip(effects["shrunk_low"], effects["shrunk_high"])],
        ranks=[f"{a:.0f} – {b:.0f}" for a, b in zip(effects["rank_low"], effects["rank_high"])],
    )
    for name in ("confirmed", "control"):
        if effects[name].notna().any():
            pairs = zip(effects[f"{name}_low"], effects[f"{name}_high"])
            shown[f"{name}_ci"] = [interval(a, b) for a, b in pairs]
        else:
            shown = shown.drop(columns=name)
    caption = (
        f"All {len(effects)} sites. q is Benjamini and Hochberg's over all sites of this contrast; the shrunk effect "
        "is the estimate pulled towards 0 by how small effects are here on the whole."
    )
    section.table(
        show(shown, "sites", caption, SITE_TABLE, file="sites.csv"), folded="The numbers, site by site"
    )
    if len(effects) > 5:
        section.add("heading", "Which sites rank first")
        section.figure(
            lambda width: estimates.rank_figure(effects, width),
            "Where rank intervals overlap, the order of two sites is not established.",
        )
    return section


def _depth(findings: Findings) -> Section | None:
    section = Section("depth", "By stage, kernel and compression")
    if findings.stages is not None and len(findings.stages) > 1:
        stages = findings.stages
        section.figure(lambda width: estimates.table_figure(
            stages, width, name="stages", title="Mean effect by stage", label="label"))  # fmt: skip
        section.add("text", findings.slope_words)
    if findings.pooled is not None and len(findings.pooled):
        pooled = findings.pooled
        section.add("heading", "Kernel and compression, pooled over all sites")
        section.figure(lambda width: estimates.table_figure(
            pooled, width, name="pooled", title="Kernel and compression, pooled", label="label",
            axis="against the mean of the levels, percentage points at one site (95 % interval)"),
            "Estimated over all sites together; which is best at a single site cannot be told.")  # fmt: skip
    return section


def _confirmation(findings: Findings) -> Section | None:
    section = Section("confirmation", "Does it hold up?")
    if findings.confirmation is None:
        _more_confirmation(section, findings)
        return section
    section.intro.append(
        "The sites most likely among the five best were tried again on the incumbent, with fresh seeds and judged on "
        "images that no earlier phase used. The two columns estimate different quantities, the average over "
        "half-reborn networks and the effect on this incumbent, so they need not agree exactly."
    )
    frame = findings.confirmation
    section.figure(lambda width: estimates.paired_figure(
        frame, width, name="confirmation", title="Screen and confirmation",
        series=[("screen", "screen", "flat", "ring"), ("effect", "confirmation", "gain", "circle")]),
        "The numbers at the end of each line are the confirmation's.")  # fmt: skip
    _more_confirmation(section, findings)
    return section


def _more_confirmation(section: Section, findings: Findings) -> None:
    """The top sites alone on the parent, and the first of them at another learning rate."""
    alone = findings.checks.alone
    if alone is not None:
        section.add("heading", "Each alone on the parent")
        section.figure(lambda width: estimates.table_figure(
            alone, width, name="alone", title="Top sites alone on the parent", label="site",
            axis="site alone − parent, percentage points (95 % interval)"),
            "A third background, with no other site changed.")  # fmt: skip
    if findings.checks.rate is not None:
        section.add("heading", "At another learning rate")
        section.add("text", findings.checks.rate_words())


def _controls(findings: Findings) -> Section | None:
    section = Section("control", "Is it the negative phase?")
    if findings.control is None:
        _more_controls(section, findings)
        return section
    section.intro.append(
        "The positive twin is the same block fed with the positive phase: the same parameters, operations, batch norm "
        "and depth. Only this difference can say that a gain is due to the negative phase, or more than its "
        "parameters buy."
    )
    frame = findings.control
    section.figure(lambda width: estimates.table_figure(
        frame, width, name="control", title="Reborn against its positive twin", label="site",
        axis="reborn − positive twin, percentage points (95 % interval)"))  # fmt: skip
    _more_controls(section, findings)
    return section


def _more_controls(section: Section, findings: Findings) -> None:
    """Reborn against its twin, extended conv and norm + ReLU at all top sites at once."""
    others = findings.checks.controls
    if others is not None:
        section.add("heading", "Against other things in its place")
        section.add("text",
            "Reborn at all of these sites of the incumbent at once, against something else at all of them. Extended "
            "conv is the paper's comparison, without batch norm and with fewer weights, so it carries no claim; norm "
            "+ ReLU shows what the block's batch norm alone does.")  # fmt: skip
        section.figure(lambda width: estimates.table_figure(
            others, width, name="controls", title="Reborn against other things in its place", label="label",
            axis="reborn − the other, percentage points (95 % interval)"))  # fmt: skip


def _architecture(view: RunView) -> Section | None:
    from reborn_nas.report.chosen import best_choices

    found = best_choices(view)
    if found is None or not len(view.sites):
        return None
    choices, words = found
    section = Section("architecture", "The best architecture", [words, *standing(view)])
    rows = view.sites.to_dict("records")
    section.figure(lambda width: network.architecture_figure(rows, choices, width))
    return section


def _sights(view: RunView) -> Section | None:
    if not view.sights:
        return None
    section = Section("sights", "What the sites see")
    section.intro.append(
        "A ReLU sets the negative phase of its input to zero. How much of the signal's energy that is, how many "
        "channels never fire, and how much of a trained block's output comes from its negative path, in the trained "
        f"parent and the trained candidate over {view.sights[0].images} images:"
    )
    shown = list(view.sights)
    section.figure(lambda width: sights.energy_figure(shown, width))
    pictured = [sight for sight in shown if sight.panels][:MOST_MAPS]
    for place, sight in enumerate(pictured):
        section.add("heading", f"Feature maps at {sight.site}")
        section.figure(lambda width, s=sight, n=place: sights.maps_figure(s, n, width))  # type: ignore[misc]
    if pictured:
        section.add(
            "text",
            "Each map is stretched to its own range from black to white: compare shapes, not brightness.",
        )
    return section


def _costs(table: pd.DataFrame) -> Section | None:
    columns = cost_columns(table)
    if not columns or table["accuracy"].notna().sum() < 2:
        return None
    section = Section("costs", "Accuracy against cost")
    section.intro.append(
        "Every completed training of every phase. The line joins those that none beats at the same or a lower cost; "
        "the best of many trainings is partly luck, and phases are judged on different images."
    )
    if not any(column == "latency_ms" for column, _, _ in columns):
        section.intro.append("Latency was not measured in this study.")
    for column, words, unit in columns:
        section.figure(lambda width, c=column, w=words, u=unit: trials.cost_figure(table, width, c, w, u))  # type: ignore[misc]
    return section


def _curves(view: RunView) -> Section | None:
    from reborn_nas.report.chosen import sampled_curves

    curves, total = sampled_curves(view, trials.MOST_CURVES)
    if not curves:
        return None
    section = Section("curves", "Learning curves")
    note = f" of {total}, spread evenly over the study" if len(curves) < total else ""
    accuracy = next((c for _, f in curves for c in f.columns if c.endswith("_accuracy")), None)
    for column, words in ((accuracy, "accuracy"), ("train_loss", "training loss")):
        kept = [
            (p, f)
            for p, f in curves
            if column is not None and column in f.columns and "epoch" in f.columns and len(f)
        ]
        if kept and column is not None:
            section.figure(lambda width, k=kept, c=column, w=words: trials.curve_figure(k, width, c, w, note))  # type: ignore[misc]
    if note:
        section.add("text", f"{len(curves)} curves{note}.")
    return section


def _trials(view: RunView, table: pd.DataFrame) -> Section:
    section = Section("trials", "Every training")
    phases = phase_table(view)
    empty = [
        c
        for c in ("diverged", "failed", "rejected", "pruned", "running", "note")
        if not phases[c].astype(bool).any()
    ]
    section.table(
        show(
            phases.drop(columns=empty),
            "phases",
            "The phases and what they cost.",
            PHASE_TABLE,
            file="phases.csv",
        )
    )
    chosen = _most_relevant(table)
    columns = [
        c
        for c in TRIAL_TABLE
        if c[0] not in ("test_accuracy", "reason") or chosen[c[0]].astype(bool).fillna(False).any()
    ]
    caption = f"All {len(table):,} trainings." if len(chosen) == len(table) else (
        f"{len(chosen)} of {len(table):,} trainings: those that did not complete, then the most accurate of each "
        "phase. The CSV has all of them."
    )  # fmt: skip
    section.table(
        show(chosen, "trials", caption, columns, file="trials.csv"), folded=f"The trainings ({len(chosen):,})"
    )
    return section


def _most_relevant(table: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_TRIALS` rows: half for what went wrong, the rest for the best of each phase."""
    if len(table) <= MOST_TRIALS:
        return table
    wrong = table[table["state"] != "complete"].head(MOST_TRIALS // 2)
    good = table[table["state"] == "complete"].sort_values("accuracy", ascending=False, kind="stable")
    share = max(1, (MOST_TRIALS - len(wrong)) // max(1, good["phase"].nunique()))
    return table.loc[sorted({*wrong.index, *good.groupby("phase").head(share).index})]


def _method(view: RunView, findings: Findings) -> Section:
    section = Section("method", "How this was measured")
    section.add("list", list(findings.method))
    if view.notes:
        section.add("heading", "What the run noted")
        section.add("list", [str(note) for note in view.notes])
    if view.command:
        section.add("heading", "To repeat it")
        section.add("code", view.command)
    for title, values in (("Settings", view.config), ("Environment", view.environment)):
        if values:
            section.parts.append(_mapping_part(title, values))
    return section


def _mapping_part(title: str, values: Mapping[str, object]) -> Part:
    import pandas as pd

    rows = pd.DataFrame([{"name": k, "value": v} for k, v in _flat(values)])
    shown = show(rows, title.lower(), f"{title}.", (("name", "name", None), ("value", "value", None)))
    return Part("folded", shown, title)


def _flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    flat: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def _limits() -> Section:
    section = Section("limits", "What this report does not claim")
    section.add("list", list(MAY_NOT))
    return section
