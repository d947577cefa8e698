"""The contents of the page: the answer, then the estimates, then the trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from reborn_nas.metric import spoken
from reborn_nas.report.figures import features, network
from reborn_nas.report.page.page import MAY_NOT, Page, Part, Section, show
from reborn_nas.report.page.sections import estimate_sections, training_sections
from reborn_nas.report.results.findings import Findings
from reborn_nas.report.results.networks import best_choices, standing
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import (
    capital,
    cases,
    difference,
    duration,
    effect_size,
    in_short,
    interval,
    metric_label,
    signed,
)

MOST_MAPS = 4


Sections = Callable[[RunView, Findings, pd.DataFrame], Sequence[Section]]
"""Makes sections of the page from the view, its findings and `tables.trial_table`."""


def page_of(view: RunView, findings: Findings, table: pd.DataFrame, written: str = "") -> Page:
    """The complete page as data; `table` is `tables.trial_table` of the view."""
    sections = [section for make in SECTIONS for section in make(view, findings, table)]
    return Page(
        title=view.title, question=_question(view), facts=_facts(view), sentences=findings.sentences,
        tiles=_tiles(view, findings),
        cautions=[line for line in (spoken().sentence, *findings.cautions) if line],
        sections=[section for section in sections if section.parts or section.intro], written=written,
    )  # fmt: skip


def _question(view: RunView) -> str:
    tested, reference = view.arms
    if (tested, reference) == ("reborn", "original"):
        return "Where do reborn blocks help?"
    return f"Where does {tested} help instead of {'the original' if reference == 'original' else reference}?"


def _facts(view: RunView) -> list[str]:
    done = sum(record.state in ("complete", "diverged", "pruned") for record in view.records)
    seconds = sum(record.seconds + record.overhead_seconds for record in view.records)
    data = view.setting("dataset", "data.name", "data") or metric_label()
    facts = [
        view.setting("backbone.source", "backbone").removeprefix("timm:"), data,
        f"{len(view.sites)} activation sites", f"{done:,} trainings", f"{duration(seconds)} of training",
    ]  # fmt: skip
    recipe = view.setting("recipe", "training.recipe")
    return [fact for fact in [*facts, f"recipe {recipe}" if recipe else ""] if fact]


def _tiles(view: RunView, findings: Findings) -> list[Mapping[str, str]]:
    tiles: list[Mapping[str, str]] = []
    c = findings.candidate
    if c is not None:
        words = difference("candidate", view.parent.removeprefix("the ").removesuffix(" network"))
        tiles.append({
            "words": capital(words),
            "value": f"{signed(c.effect)}{in_short()}",
            "note": interval(c.ci_low, c.ci_high) + f", {findings.candidate_part}",
        })  # fmt: skip
    s = findings.summary
    if "runs" in s:
        tiles.append(
            {"words": "Runs in the screen", "value": f"{s['runs']:.0f}", "note": f"{s['splits']:.0f} splits"}
        )
    if math.isfinite(s.get("detectable", math.nan)):
        tiles.append(
            {
                "words": "Detectable effect",
                "value": f"{effect_size(s['detectable'])}{in_short()}",
                "note": "at 80 % power",
            }
        )
    if math.isfinite(s.get("sigma", math.nan)):
        df = f"{s['df']:.0f} df" if "df" in s else ""
        tiles.append(
            {"words": "Training noise σ̂", "value": f"{effect_size(s['sigma'])}{in_short()}", "note": df}
        )
    if math.isfinite(s.get("validation_se", math.nan)):
        tiles.append({
            "words": "Standard error", "value": f"{effect_size(s['validation_se'])}{in_short()}",
            "note": f"of one {metric_label()}, {cases(s['validation_n'])}",
        })  # fmt: skip
    return tiles


def _architecture(view: RunView) -> Section:
    section = Section("architecture", "The network that comes out")
    found = best_choices(view)
    if found is None or not len(view.sites):
        return section
    choices, words = found
    section.intro += [words, *standing(view)]
    rows = view.sites.to_dict("records")
    backbones = [own for record in view.records if (own := record.architecture.get("backbone"))]
    if any(own != backbones[0] for own in backbones):  # a search over widths: use the shapes of the parent
        rows = [{**row, "shape": ""} for row in rows]
    section.figure(lambda width: network.architecture_figure(rows, choices, width))
    return section


def _features(view: RunView) -> Section:
    section = Section("features", "Feature maps at the sites")
    if not view.features:
        return section
    section.intro.append(
        "A ReLU sets the negative phase of its input to zero. How much of the signal's energy that is, how many "
        "channels never fire, and how much of a trained block's output comes from its negative path, in "
        f"{view.parent} and the candidate after their training, over {view.features[0].images} images:"
    )
    shown = list(view.features)
    section.figure(lambda width: features.energy_figure(shown, width))
    pictured = [row for row in shown if row.panels][:MOST_MAPS]
    for place, row in enumerate(pictured):
        section.add("heading", f"Feature maps at {row.site}")
        section.figure(lambda width, s=row, n=place: features.maps_figure(s, n, width))  # type: ignore[misc]
    if pictured:
        section.add(
            "text",
            "Each map is stretched to its own range from black to white: compare shapes, not brightness.",
        )
    return section


def _method(view: RunView, findings: Findings) -> Section:
    section = Section("method", "How this was measured")
    section.add("list", list(findings.method))
    if findings.effects is not None:
        section.add("heading", "The error budget")
        section.add(
            "text",
            "In how many studies at most this report would say anything false, were there no effect at all; how that "
            "is divided between the kinds of statement, and what was named:",
        )
        section.add("list", list(findings.budget))
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
    section.add("list", [line.format(metric=metric_label()) for line in MAY_NOT])
    return section


SECTIONS: list[Sections] = [
    lambda view, findings, table: estimate_sections(view, findings),
    lambda view, findings, table: [_architecture(view), _features(view)],
    lambda view, findings, table: training_sections(view, table),
    lambda view, findings, table: [_method(view, findings), _limits()],
]
"""The sections below the answer, in order; a section without parts and introduction is omitted."""
