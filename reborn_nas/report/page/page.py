"""The page as data and as HTML: sections of figures and tables, the tables' columns, the template."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from reborn_nas.report.figures.drawing import Drawing
from reborn_nas.report.figures.palette import css_variables
from reborn_nas.report.results.words import (
    added,
    as_value,
    clean,
    count,
    duration,
    in_short,
    metric_label,
    p_value,
    percent,
    signed,
)

WIDE, PHONE = 824.0, 350.0
"""Widths in CSS pixels for which each figure is drawn."""


@dataclass(frozen=True)
class Pair:
    """A figure for wide screens and for phones."""

    wide: Drawing
    phone: Drawing


@dataclass(frozen=True)
class Part:
    """A piece of a section: figure, table, folded (a table behind a summary), heading, text, list or code."""

    kind: str
    value: Any
    caption: str = ""


@dataclass
class Section:
    """A headed part of the page."""

    id: str
    title: str
    intro: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def figure(self, draw: Callable[[float], Drawing], caption: str = "") -> None:
        """Add a figure; `draw` draws it for a width."""
        self.parts.append(Part("figure", Pair(draw(WIDE), draw(PHONE)), caption))

    def table(self, shown: Shown, *, folded: str = "") -> None:
        """Add a table; with `folded`, behind a summary of this text."""
        self.parts.append(Part("folded" if folded else "table", shown, folded))

    def add(self, kind: str, value: Any) -> None:
        """Add a heading, text, list or code."""
        self.parts.append(Part(kind, value))


@dataclass(frozen=True)
class Head:
    """A column's heading."""

    text: str
    numeric: bool


@dataclass(frozen=True)
class Shown:
    """A table of the page; all cells are text."""

    name: str
    caption: str
    file: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Page:
    """Everything that the template needs."""

    title: str
    question: str
    facts: Sequence[str]
    sentences: Sequence[str]
    tiles: Sequence[Mapping[str, str]]
    cautions: Sequence[str]
    sections: Sequence[Section]
    written: str = ""


Column = tuple[str, str, Callable[[Any], str] | None]
"""Column of the frame, heading, and the format of a number (None for plain text)."""


def show(frame: pd.DataFrame, name: str, caption: str, columns: Sequence[Column], *, file: str = "") -> Shown:
    """`frame` as a table of the page, with those of `columns` that it has."""
    kept = [column for column in columns if column[0] in frame.columns]
    unit = f",{in_short()}" if in_short() else ""
    heads = tuple(
        Head(text.format(unit=unit, metric=metric_label()), words is not None) for _, text, words in kept
    )
    rows = tuple(
        tuple(clean(words(row[key]) if words else row[key]) for key, _, words in kept)
        for row in frame.to_dict("records")
    )
    return Shown(name, caption, file, heads, rows)


def render(page: Page) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    folder = resources.files("reborn_nas.report.page")
    css = f":root{{{css_variables(False)}}}"
    css += f"@media screen and (prefers-color-scheme:dark){{:root{{{css_variables(True)}}}}}"
    css += (folder / "page.css").read_text(encoding="utf-8")
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=clean(page.title), question=page.question, facts=page.facts, sentences=page.sentences, tiles=page.tiles,
        cautions=page.cautions, sections=page.sections, written=page.written, css=Markup(css), version=_version(),
    )  # fmt: skip


def _shown(value: Any) -> Any:
    """The output of `{{ … }}`: a drawing as SVG, anything else as cleaned text, which the template escapes."""
    if isinstance(value, Drawing):
        return Markup(value.svg())
    return value if isinstance(value, Markup | int) else clean(value)


def _version() -> str:
    try:
        return version("reborn-nas")
    except PackageNotFoundError:
        return ""


SITE_TABLE = (
    ("site", "site", None), ("stage", "stage", lambda v: f"{v + 1:.0f}"),
    ("runs_with", "runs with", count), ("runs_without", "without", count),
    ("failed_with", "failed with", count), ("failed_without", "without", count),
    ("effect", "effect{unit}", signed), ("ci", "95 % interval", str),
    ("said_ci", "corrected", str), ("p_value", "p", p_value), ("q_value", "BH q", p_value),
    ("shrunk", "shrunk", signed), ("shrunk_ci", "95 % interval", str),
    ("p_top5", "P(top 5)", lambda v: percent(v, 0)), ("ranks", "rank, 90 %", str),
    ("confirmed", "confirmed", signed), ("confirmed_ci", "95 % interval", str),
    ("control", "− positive twin", signed), ("control_ci", "95 % interval", str),
    ("added_params", "Δ parameters", added), ("added_macs", "Δ MACs", added), ("verdict", "verdict", None),
)  # fmt: skip
TRIAL_TABLE = (
    ("key", "training", None), ("arm", "arm", None), ("state", "state", None),
    ("accuracy", "{metric}", lambda v: as_value(v, 2)), ("part", "of", None),
    ("test_accuracy", "test", lambda v: as_value(v, 2)), ("changed_sites", "sites changed", count),
    ("params", "parameters", count), ("macs", "MACs", count), ("epochs", "epochs", count),
    ("seconds", "time", duration), ("split", "split", count), ("seed", "seed", str), ("device", "device", None),
    ("reason", "note", None),
)  # fmt: skip
CLASS_TABLE = (
    ("class", "class", None), ("images", "images", count),
    ("parent_recall", "parent", percent), ("parent_ci", "95 % interval", str),
    ("candidate_recall", "candidate", percent), ("candidate_ci", "95 % interval", str),
    ("difference", "difference, pp", lambda v: signed(v, 2)), ("ci", "interval for all classes", str),
    ("parent_f1", "F1 of parent", percent), ("candidate_f1", "of candidate", percent),
)  # fmt: skip
PHASE_TABLE = (
    ("phase", "phase", None), ("planned", "planned", count), ("complete", "done", count),
    ("diverged", "diverged", count), ("failed", "failed", count), ("rejected", "over budget", count),
    ("pruned", "pruned", count), ("running", "running", count), ("mean_seconds", "mean time", duration),
    ("total_seconds", "total time", lambda v: duration(v or math.nan)), ("note", "note", None),
)  # fmt: skip
PRUNED_TABLE = (
    ("choice", "choice", None), ("runs", "finished at sites", count), ("pruned", "of these stopped", count),
    ("share", "share", lambda v: percent(v, 0)),
)  # fmt: skip
MAY_NOT = (
    "importance or effects read off the sampler's own trials: they enter no estimate here",
    "a strict order of sites whose rank intervals overlap",
    "a best kernel or compression for a single site: only pooled effects are estimated",
    "the best observed {metric} as the one to expect: the best of many is lucky",
    "“no effect” where a verdict is missing: unresolved means that the runs could not tell",
    "anything about other data sets, recipes or learning rates than this study's",
    "“because of the negative phase” or “beyond its parameters”, except from the control against the positive twin",
)
