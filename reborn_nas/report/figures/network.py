"""The network from input to output, with a tile per site, coloured by its effect or by its choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reborn_nas.architecture import Choice
from reborn_nas.errors import RebornError
from reborn_nas.report.figures.charts import NARROW, effect_aside, legend
from reborn_nas.report.figures.drawing import Drawing, shorten, text_width
from reborn_nas.report.figures.palette import VERDICT_SHAPES, effect_tone, on_tone
from reborn_nas.report.results.words import added, difference, in_short, signed

TILE_W, TILE_H, GAP, PAD, HEAD = 62.0, 54.0, 6.0, 7.0, 16.0
LINE = TILE_H + 2 * PAD + HEAD + 18
BETWEEN, INPUT = 16.0, 60.0

Rows = Sequence[Mapping[Any, Any]]
"""One mapping per site in execution order: `name` or `site`, `stage`, `block`, `shape`, `activation`, …"""

FAMILY_TONES = {
    "original": "plus0", "reborn": "plus3", "crelu": "plus2", "positive_twin": "minus2", "extended_conv": "minus3",
    "norm_relu": "minus1",
}  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """The position of a site's tile; `row` indexes the table of sites."""

    row: int
    x: float
    y: float


@dataclass(frozen=True)
class Box:
    """A block's outline around its tiles."""

    label: str
    x: float
    y: float
    width: float
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Lane:
    """A stage: its heading, left of or `above` its boxes."""

    stage: int
    shape: str
    x: float
    y: float
    above: bool
    boxes: tuple[Box, ...]


def layout(rows: Rows, width: float, top: float) -> tuple[list[Lane], float]:
    """Place all sites, one lane per stage, wrapped at `width`, or in one line if they fit; with the lowest y."""
    narrow = width < NARROW
    inline = not narrow and _breadth(rows, list(range(len(rows)))) <= width - INPUT
    left = 16.0 if narrow else INPUT if inline else 132.0
    per_line = max(1, int((width - left - 2 * PAD - 12 + GAP) // (TILE_W + GAP)))
    lanes: list[Lane] = []
    x, y = left, top
    for members in _stages(rows):
        above = narrow or inline
        heading = (x if inline else left if narrow else 2.0, y)
        y += 26 if above else 0
        boxes = []
        for label, chunk in _chunks(members, rows, per_line):
            box_width = _width(len(chunk))
            if x + box_width > width - 8 and x > left:
                x, y = left, y + LINE
            tiles = tuple(
                Tile(row, x + PAD + k * (TILE_W + GAP), y + HEAD + PAD) for k, row in enumerate(chunk)
            )
            boxes.append(Box(label, x, y, box_width, tiles))
            x += box_width + BETWEEN
        first = rows[members[0]]
        lanes.append(Lane(int(first["stage"]), str(first["shape"]), *heading, above, tuple(boxes)))
        if inline:
            y -= 26
        else:
            x, y = left, y + LINE + 8
    return lanes, y + (26 + LINE + 8 if inline else 0)


def _stages(rows: Rows) -> list[list[int]]:
    """Consecutive sites of one stage."""
    stages: list[list[int]] = []
    for position, row in enumerate(rows):
        if stages and rows[stages[-1][0]]["stage"] == row["stage"]:
            stages[-1].append(position)
        else:
            stages.append([position])
    return stages


def _width(tiles: int) -> float:
    return tiles * (TILE_W + GAP) - GAP + 2 * PAD


def _breadth(rows: Rows, members: list[int]) -> float:
    """The width of all boxes in one line, in pixels."""
    return sum(_width(len(chunk)) + BETWEEN for _, chunk in _chunks(members, rows, len(rows) or 1))


def _chunks(members: list[int], rows: Rows, size: int) -> list[tuple[str, list[int]]]:
    """Consecutive sites of one block, at most `size` per group."""
    chunks: list[tuple[str, list[int]]] = []
    for row in members:
        label = str(rows[row]["block"])
        label = "" if label == str(rows[row].get("site", rows[row].get("name"))) else label
        joins = chunks and chunks[-1][0] == label and rows[chunks[-1][1][0]]["stage"] == rows[row]["stage"]
        if joins and label and len(chunks[-1][1]) < size:
            chunks[-1][1].append(row)
        else:
            chunks.append((label, [row]))
    return chunks


def network_figure(
    effects: pd.DataFrame, width: float, arms: tuple[str, str], detectable: float = 0.0
) -> Drawing:
    """Each site with its effect, its verdict as colour and sign, and the interval of the verdict.

    The colour is full for a shrunk effect of at least `detectable`.
    """
    settled = effects["shrunk"]
    scale = max([*(abs(v) for v in settled if math.isfinite(v)), detectable, 0.05])
    largest = max(
        [*[abs(v) for c in ("said_low", "said_high") for v in effects[c] if math.isfinite(v)], 0.05]
    )
    rows = effects.to_dict("records")

    def paint(drawing: Drawing, tile: Tile) -> None:
        row = rows[tile.row]
        tone = effect_tone(row.get("verdict"), row["shrunk"], scale)
        ink = on_tone(tone)
        with drawing.hover(_details(row, arms)):
            drawing.rect(tile.x, tile.y, TILE_W, TILE_H, tone, radius=6)
            drawing.text(tile.x + 6, tile.y + 13, shorten(_short(row), TILE_W - 20, 9.5), ink, size=9.5)
            middle = tile.x + TILE_W / 2
            drawing.text(
                middle, tile.y + 32, signed(row["said_effect"]), ink, size=14, weight=650, anchor="middle"
            )
            _verdict_sign(drawing, row.get("verdict", ""), tile.x + TILE_W - 9, tile.y + 9.5, ink)
            if math.isfinite(row["said_low"]) and math.isfinite(row["said_high"]):
                half = TILE_W / 2 - 6
                y = tile.y + TILE_H - 10
                drawing.line(middle, y - 4, middle, y + 4, ink, opacity=0.45)
                drawing.line(
                    middle + row["said_low"] / largest * half,
                    y,
                    middle + row["said_high"] / largest * half,
                    y,
                    ink,
                    width=2,
                )

    entries = [
        ("swatch", "plus4", f"{arms[0]} helps"), ("swatch", "plus0", "no verdict"), ("swatch", "minus4", "harms"),
        ("circle", "ink", "confirmed"), ("ring", "ink", "suggestive"), ("cross", "ink", "harmful"),
    ]  # fmt: skip
    found = effects[effects["effect"].notna()]
    best = max(found.to_dict("records"), key=lambda row: row["effect"], default=None)
    alt = f"The network's {len(effects)} activation sites from input to output, coloured by effect."
    if best is not None:
        size = effect_aside(best["effect"], best["said_low"], best["said_high"])
        alt += f" Largest estimate: {best['site']}, {size}{in_short()}."
    return _network("network", "The network, site by site", alt, rows, width, paint, entries)


def architecture_figure(
    rows: Rows, choices: Mapping[str, str], width: float, title: str = "The network that comes out"
) -> Drawing:
    """The choice at each site of an architecture; `choices` maps a site to its label, `rows` are the sites."""
    used: dict[str, str] = {"original": "plus0"}

    def paint(drawing: Drawing, tile: Tile) -> None:
        row = rows[tile.row]
        label = choices.get(str(row["name"]), "original")
        name, form = _choice_words(label, str(row["activation"]))
        family = "original" if label == "original" else label.split("(")[0]
        tone = used.setdefault(family, FAMILY_TONES.get(family, "plus3"))
        ink = on_tone(tone)
        with drawing.hover(
            f"{row['name']}: {label if label != 'original' else 'original ' + str(row['activation'])}"
        ):
            drawing.rect(tile.x, tile.y, TILE_W, TILE_H, tone, radius=6)
            drawing.text(tile.x + 6, tile.y + 13, shorten(_short(row), TILE_W - 12, 9.5), ink, size=9.5)
            weight = 400 if family == "original" else 650
            drawing.text(
                tile.x + TILE_W / 2, tile.y + 31, shorten(name, TILE_W - 6, 11.5), ink, size=11.5, weight=weight,
                anchor="middle",
            )  # fmt: skip
            drawing.text(tile.x + TILE_W / 2, tile.y + 45, form, ink, size=9.5, anchor="middle")

    changed = sum(choices.get(str(row["name"]), "original") != "original" for row in rows)
    alt = f"{changed} of {len(rows)} sites changed: " + (
        "; ".join(f"{site}: {label}" for site, label in list(choices.items())[:60]) or "none"
    )
    probe = Drawing("", "", "", width, 0)
    for position in range(len(rows)):  # the legend contains the families that occur
        paint(probe, Tile(position, 0, 0))
    entries = [("swatch", tone, family) for family, tone in used.items()]
    return _network("architecture", title, alt, rows, width, paint, entries)


def _network(
    name: str,
    title: str,
    alt: str,
    rows: Rows,
    width: float,
    paint: Callable[[Drawing, Tile], None],
    entries: Sequence[tuple[str, str, str]],
) -> Drawing:
    drawing = Drawing(name, title, alt, width, 10)
    y = legend(drawing, entries, 2, 16) + 20
    lanes, bottom = layout(rows, width, y + 22)
    boxes = [box for lane in lanes for box in lane.boxes]
    for before, box in zip([None, *boxes], boxes):
        _connect(drawing, before, box, y)
    for lane in lanes:
        _lane_heading(drawing, lane)
        for box in lane.boxes:
            drawing.rect(
                box.x, box.y + HEAD - 2, box.width, TILE_H + 2 * PAD + 2, "panel", radius=9, stroke="rule"
            )
            drawing.text(box.x + 4, box.y + 9, shorten(box.label, box.width - 6, 10), "muted", size=10)
            for tile in box.tiles:
                paint(drawing, tile)
    drawing.height = bottom - 2
    if boxes:
        _output(drawing, boxes[-1])
    return drawing


def _middle(box: Box) -> float:
    return box.y + HEAD + PAD + TILE_H / 2


def _connect(drawing: Drawing, before: Box | None, box: Box, start: float) -> None:
    """Draw the connection to a box: straight on a line, an elbow from the line above, or from the input."""
    y = _middle(box)
    if before is not None and before.y == box.y:
        drawing.line(before.x + before.width, y, box.x, y, "faint", width=1.4)
        return
    turn = box.x - 11
    if before is None:
        if box.x == INPUT:
            drawing.text(2, y + 4, "input", "muted", size=11.5, weight=600)
            drawing.line(40, y, box.x, y, "faint", width=1.4)
            return
        drawing.text(max(turn - 16, 2), start + 4, "input", "muted", size=11.5, weight=600)
        drawing.path([(turn, start + 11), (turn, y), (box.x, y)], "faint", width=1.4)
        return
    between = before.y + LINE - 9
    x = before.x + before.width - 20
    below = before.y + HEAD + TILE_H + 2 * PAD
    drawing.path([(x, below), (x, between), (turn, between), (turn, y), (box.x, y)], "faint", width=1.4)


def _output(drawing: Drawing, box: Box) -> None:
    """Draw the output of the last box, right of it if there is room, else below."""
    y, right = _middle(box), box.x + box.width
    if right + 70 <= drawing.width:
        drawing.line(right, y, right + 16, y, "faint", width=1.4)
        drawing.text(right + 22, y + 4, "output", "muted", size=11.5, weight=600)
        return
    below = box.y + HEAD + TILE_H + 2 * PAD
    drawing.line(right - 20, below, right - 20, below + 12, "faint", width=1.4)
    drawing.text(right, below + 25, "output", "muted", size=11.5, weight=600, anchor="end")
    drawing.height = max(drawing.height, below + 32)


def _lane_heading(drawing: Drawing, lane: Lane) -> None:
    if lane.above:
        last = lane.boxes[-1]
        room = drawing.width - lane.x if drawing.width < NARROW else last.x + last.width - lane.x
        text = f"Stage {lane.stage + 1}"
        full = f"{text} · {lane.shape}" if lane.shape else text
        shown = full if text_width(full, 11.5) <= room + 12 else text
        drawing.text(lane.x, lane.y + 14, shown, "ink", size=11.5, weight=600)
    else:
        y = lane.y + HEAD + 30
        drawing.text(2, y, f"Stage {lane.stage + 1}", "ink", size=13, weight=600)
        drawing.text(2, y + 17, lane.shape, "muted", size=11)


def _short(row: Mapping[Any, Any]) -> str:
    """A site's name within its block; two parts of it if the last is only a number."""
    name = str(row.get("site", row.get("name", "")))
    block = str(row.get("block", ""))
    inner = name[len(block) + 1 :] if block and name.startswith(block + ".") else name.rsplit(".", 1)[-1]
    if ":" in name or not inner:
        return name
    return ".".join(name.split(".")[-2:]) if inner.split("@")[0].isdigit() else inner


def _choice_words(label: str, original: str) -> tuple[str, str]:
    """A choice as two short lines: its name and its form, such as `k3 · 1x1`."""
    if label == "original":
        return original.removeprefix("other:") or "original", ""
    try:
        choice = Choice.parse(label)
    except RebornError:
        return label, ""
    options = choice.options
    form = [f"k{options['kernel_size']}"] if "kernel_size" in options else []
    form += [str(options["compression"])] if "compression" in options else []
    return choice.name.replace("_", " "), " · ".join(form)


def _verdict_sign(drawing: Drawing, verdict: str, x: float, y: float, ink: str) -> None:
    kind = VERDICT_SHAPES.get(verdict, "none")
    if kind == "ring":
        drawing.circle(x, y, 3.1, "", stroke=ink, width=1.5)
    else:
        drawing.shape(kind, x, y, 3.4, ink)


def _details(row: Mapping[Any, Any], arms: tuple[str, str]) -> str:
    lines = [
        str(row["site"]),
        f"{difference(*arms)}: {effect_aside(row['said_effect'], row['said_low'], row['said_high'])}{in_short()}",
        f"verdict: {row.get('verdict') or 'none given'}",
    ]
    if row.get("shape"):
        lines.append(f"feature map {row['shape']}, original {row.get('activation', '')}")
    params = row.get("added_params")
    if params is not None and math.isfinite(params):
        lines.append(f"parameters {added(params)}, MACs {added(row.get('added_macs'))}")
    return "\n".join(lines)
