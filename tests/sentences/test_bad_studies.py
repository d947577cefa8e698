"""Studies that went wrong: what is printed of them is read like any other, and claims nothing that is false."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from reborn_nas.records import TrialRecord
from reborn_nas.report import study_findings, tables
from reborn_nas.report.contents import page_of
from tests.sentences.planted import Planted
from tests.sentences.reading import read, size_of
from tests.sentences.scenarios import plant
from tests.sentences.studies import Mix, SimulatedStudy, simulate
from tests.sentences.tally import Read, printed, read_study

ALL = {"baseline": 8, "candidate": 16, "retest": 32, "control": 48, "checks": 64}


@pytest.fixture(scope="module")
def whole() -> SimulatedStudy:
    return simulate(plant("five", 5, 1), Mix(5, 32, **ALL), 1)


def changed(study: SimulatedStudy, change: Callable[[TrialRecord], TrialRecord | None]) -> SimulatedStudy:
    """The study with other records; without those that become None."""
    records = tuple(new for record in study.view.records if (new := change(record)) is not None)
    return replace(study, view=replace(study.view, records=records))


def number(record: TrialRecord) -> int:
    return int(record.key.split("/")[1]) if record.phase == "screen" else -1


def checked(study: SimulatedStudy) -> Read:
    """The study read; no text has a NaN."""
    found = read_study(study)
    assert not [text for text in printed(found.findings) if re.search(r"\bnan\b", text, re.IGNORECASE)]
    return found


def claims(found: Read) -> list[str]:
    return [claim.text for claim in found.claims if claim.true is not None and claim.kind != "bound"]


@pytest.mark.parametrize("value", [0.7, 0.01, 1.0])
def test_runs_that_are_all_alike_claim_nothing(whole: SimulatedStudy, value: float) -> None:
    def alike(record: TrialRecord) -> TrialRecord:
        return replace(record, accuracy=value, test_accuracy=record.test_accuracy and value)

    assert claims(checked(changed(whole, alike))) == []


@pytest.mark.parametrize("kept", [0, 4, 10, 19, 31])
def test_a_screen_that_ended_early_has_no_verdict_of_its_own(whole: SimulatedStudy, kept: int) -> None:
    found = checked(changed(whole, lambda record: record if number(record) < kept else None))
    assert not found.false()
    if kept < 16:
        assert not [text for text in claims(found) if "averaged over" in text]


@pytest.mark.parametrize("state", ["complete", "failed"])
@pytest.mark.parametrize("value", [None, float("nan")])
def test_missing_values_are_missing_runs(whole: SimulatedStudy, state: str, value: float | None) -> None:
    def lose(record: TrialRecord) -> TrialRecord:
        return replace(record, accuracy=value, state=state) if number(record) % 7 == 0 else record

    found = checked(changed(whole, lose))
    assert not found.false()
    assert any("5 of 32 designed runs are missing" in line for line in found.findings.cautions)


def test_phases_that_contradict_each_other_give_no_verdict(whole: SimulatedStudy) -> None:
    def turn(record: TrialRecord) -> TrialRecord:
        if record.phase != "confirm" or record.accuracy is None:
            return record
        return replace(record, accuracy=record.accuracy - 0.05 * sum(record.levels.values()))

    found = checked(changed(whole, turn))
    effects = found.findings.effects
    assert effects is not None
    assert not set(effects["verdict"]) & {"confirmed", "suggestive"}
    assert "contradict each other" in found.findings.sentences[0]


def test_one_split_two_sites_and_a_ceiling_are_numbers_without_a_false_word(whole: SimulatedStudy) -> None:
    assert not checked(changed(whole, lambda record: replace(record, block=0))).false("site", "candidate")
    assert not checked(simulate(plant("one", 2, 1), Mix(2, 8, **ALL), 1)).false()
    high = simulate(Planted(np.array([20.0, 20.0, 15.0, 10.0, 0.0]), base=95.0), Mix(5, 32, **ALL), 1)
    found = checked(high)
    assert not found.false("site", "candidate")
    assert any("ceiling" in line for line in found.findings.cautions)


def test_a_study_that_goes_on_has_no_verdict(whole: SimulatedStudy) -> None:
    running = replace(whole, view=replace(whole.view, finished=False))
    effects = checked(running).findings.effects
    assert effects is not None
    assert set(effects["verdict"]) == {"no verdict"}


def test_every_estimate_on_the_page_has_a_reading(whole: SimulatedStudy) -> None:
    """All paragraphs of the page that hold an estimate with its interval, wherever they stand."""
    findings = study_findings(whole.view)
    page = page_of(whole.view, findings, tables.trial_table(whole.view))
    texts = [*page.sentences, *page.cautions]
    for section in page.sections:
        texts += section.intro
        for part in section.parts:
            texts += [part.value] if part.kind == "text" else list(part.value) if part.kind == "list" else []
    estimates = [text for text in texts if re.search(size_of(), text)]
    assert len(estimates) > 5
    for text in estimates:
        assert read(text, whole)
