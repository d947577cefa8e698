"""The two pictures beside a training."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from reborn_nas.records import TrialRecord
from reborn_nas.report.figures.palette import TONES
from reborn_nas.report.figures.trials import learning_curve, trial_pictures
from tests.report import fabricate

SVG = "{http://www.w3.org/2000/svg}"
CURVE = [
    {"epoch": "1", "train_loss": "2.0", "validation_accuracy": "0.5"},
    {"epoch": "2", "train_loss": "nan", "validation_accuracy": "0.75"},
    {"epoch": "3", "train_loss": "0.5", "validation_accuracy": "1.0"},
]


def record(**choices: str) -> TrialRecord:
    return TrialRecord("screen/7", "screen", "design", 0, "complete", {"choices": choices})


def test_the_architecture_s_tiles_say_what_stands_where() -> None:
    pictures = trial_pictures(record(act2="reborn(kernel_size=3,compression=1x1)"), fabricate.sites(5), CURVE)
    assert set(pictures) == {"architecture.svg", "learning-curve.svg"}
    root = ET.fromstring(pictures["architecture.svg"])
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert words.count("relu") == 4
    assert words[words.index("act2") + 1 :][:2] == ["reborn", "k3 · 1x1"]
    assert "screen/7" in str(root.get("aria-label"))
    assert "var(--" not in "".join(pictures.values()), "an <img> sees none of the page's colours"


def test_the_curve_s_points_lie_where_the_numbers_say() -> None:
    drawing = learning_curve("k", CURVE)
    assert drawing is not None
    root = ET.fromstring(drawing.svg(literal=True))
    lines = {line.get("stroke"): line.get("points") for line in root.iter(f"{SVG}polyline")}
    (x1, y1), (x2, y2), (x3, y3) = (
        tuple(map(float, point.split(","))) for point in str(lines[TONES["gain"][0]]).split()
    )
    assert abs((x2 - x1) - (x3 - x2)) < 0.11
    assert abs((y1 - y2) - (y2 - y3)) < 0.11
    assert y1 > y3
    assert len(str(lines[TONES["faint"][0]]).split()) == 2, "a loss that is no number has no point"
    assert "100.0 %" in drawing.alt


def test_without_a_valid_curve_only_the_architecture_is_drawn() -> None:
    for curve in ([], [{"epoch": "1"}], [{"epoch": "x", "validation_accuracy": ""}]):
        assert set(trial_pictures(record(), fabricate.sites(5), curve)) == {"architecture.svg"}


def test_pictures_stay_small() -> None:
    pictures = trial_pictures(record(), fabricate.sites(33), CURVE * 500)
    assert max(map(len, pictures.values())) < 32_000
