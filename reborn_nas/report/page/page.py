"""The page: sections of figures and tables around the answer, filled into the template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from reborn_nas.report.figures.drawing import Drawing
from reborn_nas.report.figures.palette import css_variables
from reborn_nas.report.results.words import clean

if TYPE_CHECKING:
    import pandas as pd

WIDE, PHONE = 824.0, 350.0
"""Widths, in CSS pixels, that each figure is drawn for."""


@dataclass(frozen=True)
class Pair:
    """One figure for wide screens and for phones."""

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
        """Add a figure; `draw` makes it for a width."""
        self.parts.append(Part("figure", Pair(draw(WIDE), draw(PHONE)), caption))

    def table(self, shown: Shown, *, folded: str = "") -> None:
        """Add a table, behind a summary where `folded` names it."""
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
    """A table as the page shows it: all cells are text."""

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
"""Column of the frame, heading, and the words for a value (then it is a number; None is plain text)."""


def show(frame: pd.DataFrame, name: str, caption: str, columns: Sequence[Column], *, file: str = "") -> Shown:
    """`frame` as a table of the page, those of `columns` that it has."""
    kept = [column for column in columns if column[0] in frame.columns]
    heads = tuple(Head(text, words is not None) for _, text, words in kept)
    rows = tuple(
        tuple(clean(words(row[key]) if words else row[key]) for key, _, words in kept)
        for row in frame.to_dict("records")
    )
    return Shown(name, caption, file, heads, rows)


def render(page: Page) -> str:
    """The page as HTML."""
    import jinja2
    from markupsafe import Markup

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
    """What `{{ … }}` prints: a drawing as SVG, everything else as cleaned text (escaped by the template)."""
    from markupsafe import Markup

    if isinstance(value, Drawing):
        return Markup(value.svg())
    return value if isinstance(value, Markup | int) else clean(value)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("reborn-nas")
    except PackageNotFoundError:
        return ""
