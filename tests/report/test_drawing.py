"""One drawing, three forms."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET

import pytest

from reborn_nas.analysis import VERDICTS
from reborn_nas.report.figures.drawing import Drawing, shorten, text_width
from reborn_nas.report.figures.painting import png
from reborn_nas.report.figures.palette import TONES, effect_tone, on_tone, tone_of
from reborn_nas.report.probe import picture

SVG = "{http://www.w3.org/2000/svg}"


def _everything() -> Drawing:
    import torch

    drawing = Drawing("all", 'A <title> & "more"', "It's $x_1$ <b>", 200, 100)
    drawing.line(0, 0, 10, 10, "ink", dash=True)
    drawing.rect(1, 2, 30, 10, "band", radius=9, stroke="rule")
    drawing.rect(1, 2, 0, 10, "band")
    drawing.path([(0, 0), (5, 5), (9, 0)], "gain")
    for shape in ("circle", "ring", "square", "diamond", "triangle", "cross", "none"):
        drawing.shape(shape, 50, 50, 4, "harm")
    with drawing.hover("<script>alert(1)</script>"):
        drawing.text(5, 90, "$unclosed <b>&\x00 ]]>", size=10, weight=700, anchor="end")
    drawing.image(100, 10, 20, 20, picture(torch.arange(16, dtype=torch.uint8).view(1, 4, 4)))
    drawing.image(130, 10, 20, 20, picture(torch.zeros(3, 4, 4, dtype=torch.uint8)))
    return drawing


@pytest.mark.parametrize("literal", [False, True])
def test_svg_is_well_formed_and_holds_strings_as_text(literal: bool) -> None:
    text = _everything().svg(literal=literal)
    root = ET.fromstring(text)
    assert root.get("aria-label") == 'A <title> & "more". It\'s $x_1$ <b>'
    assert not list(root.iter(f"{SVG}script"))
    assert [t.text for t in root.iter(f"{SVG}text")] == ["$unclosed <b>&\ufffd ]]>"]
    assert "<script>alert(1)</script>" in [t.text for t in root.iter(f"{SVG}title")]
    assert ("var(--" in text) is not literal


def test_png_has_the_drawing_s_size_at_its_resolution() -> None:
    data = png(_everything(), dpi=192)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (400, 200)


def test_shorten_keeps_the_end_and_the_room() -> None:
    name = "features.denseblock4.denselayer16.norm2.act"
    short = shorten(name, 120, 12)
    assert short.startswith("…")
    assert name.endswith(short[1:])
    assert text_width(short, 12) <= 120
    assert shorten("act1", 120, 12) == "act1"
    assert shorten("features.conv1", 60, 10) == "…conv1"
    assert [shorten(f"dec{k}_act_b", 52, 9.5) for k in (1, 2)] == ["dec1…ct_b", "dec…ct_b"], (
        "both ends are kept"
    )
    assert shorten("act", 5, 12) == "…"


def _luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [0, 1])
def test_text_can_be_read_on_every_ground(dark: int) -> None:
    pairs = [
        ("ink", "paper"),
        ("muted", "paper"),
        ("muted", "band"),
        ("ink", "panel"),
        ("warn", "band"),
        ("gain", "paper"),
    ]
    pairs += [(on_tone(tone), tone) for tone in TONES if tone.startswith(("plus", "minus"))]
    weak = {pair: round(_contrast(TONES[pair[0]][dark], TONES[pair[1]][dark]), 2) for pair in pairs}
    assert min(weak.values()) >= 4.5, weak


def test_a_tile_has_the_colour_of_its_verdict_and_the_depth_of_its_effect() -> None:
    assert [effect_tone("confirmed", v, 1.0) for v in (1, 0.6, 0.05, -0.05)] == [
        "plus4", "plus3", "plus1", "plus1",
    ]  # fmt: skip
    assert [effect_tone("harmful", v, 1.0) for v in (-1, -0.6, -0.05)] == ["minus4", "minus3", "minus1"]
    assert effect_tone("unresolved", 1.0, 1.0) == effect_tone("no verdict", -1.0, 1.0) == "plus0"
    assert effect_tone("confirmed", float("nan"), 1.0) == effect_tone("confirmed", 1.0, 0.0) == "plus0"
    assert [tone_of(word) for word in VERDICTS] == ["gain", "gain", "flat", "harm", "flat"]
