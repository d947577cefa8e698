"""The checks as the report tells them: numbers by hand from made-up runs without noise between splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reborn_nas.records import TrialRecord
from reborn_nas.report import build_report
from reborn_nas.report.results.fresh import checks
from tests.report import fabricate

GAINS = {"": 0.0, "act1": 0.02, "act2": -0.01, "act3": 0.0}
ARMS = {"reborn": 0.0, "positive_twin": -0.01, "extended_conv": 0.005, "norm_relu": -0.02}


def records() -> list[TrialRecord]:
    made = []

    def add(name: str, arm: str, block: int, mean: float, **more: object) -> None:
        jitter = 0.001 * (-1) ** len(made)
        base = TrialRecord(
            f"checks/{name}-{len(made)}", "checks", arm, len(made), "complete", {"choices": {}}
        )
        made.append(replace(base, accuracy=0.8 + 0.003 * block + mean + jitter, block=block, **more))  # type: ignore[arg-type]

    for block in range(4):
        for site, gain in GAINS.items():
            add("alone", "alone", block, gain, levels={name: int(name == site) for name in GAINS if name})
    for block in range(8):
        for arm, gain in ARMS.items():
            add("controls", f"controls:{arm}", block, gain)
    for block in range(8):
        for level in (0, 1):
            add("rate", "rate", block, 0.015 * level, levels={"act1": level}, extra={"learning_rate": 0.01})
    return made


def test_each_check_is_the_difference_that_it_names() -> None:
    found = checks(replace(fabricate.view(5), records=records()))
    assert found.alone is not None
    assert found.controls is not None
    jitter = 0.2  # pp: the sign of ±0.1 alternates over the arms of a split
    assert dict(zip(found.alone["site"], found.alone["effect"])) == pytest.approx(
        {"act1": 2.0 - jitter, "act2": -1.0, "act3": -jitter}
    )
    assert dict(zip(found.controls["arm"], found.controls["effect"])) == pytest.approx(
        {"positive_twin": 1.0 + jitter, "extended_conv": -0.5, "norm_relu": 2.0 + jitter}
    )
    assert (found.controls["ci_low"] <= found.controls["effect"]).all()
    assert (found.controls["effect"] <= found.controls["ci_high"]).all()
    assert found.learning_rate == 0.01
    assert "act1" in found.rate_words()
    assert "+1.30 percentage points" in found.rate_words()
    assert "at 0.01 (8 against 8 trainings)" in found.rate_words()


def test_a_study_without_checks_says_nothing_of_them() -> None:
    found = checks(fabricate.view(5))
    assert (found.alone, found.controls, found.rate) == (None, None, None)
    assert found.rate_words() == ""


def test_the_page_shows_them_beside_confirmation_and_control(tmp_path: Path) -> None:
    view = fabricate.view(5)
    page = build_report(replace(view, records=[*view.records, *records()]), tmp_path).read_text()
    for words in (
        "Each alone on the parent",
        "At another learning rate",
        "norm + ReLU",
        "extended conv",
    ):
        assert words in page
    assert {"alone.csv", "controls.csv", "rate.csv"} <= {path.name for path in tmp_path.iterdir()}
