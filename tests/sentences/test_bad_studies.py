"""Studies that went wrong: what is printed of them is read like any other, and claims nothing that is false."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from reborn_nas.records import TrialRecord
from reborn_nas.report import study_findings
from reborn_nas.report.page.contents import page_of
from reborn_nas.report.results import tables
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


def test_one_split_is_said_to_have_luck_of_its_own(whole: SimulatedStudy) -> None:
    def shared(study: SimulatedStudy) -> bool:
        return any("share one train/validation split" in line for line in study_findings(study.view).cautions)

    assert shared(changed(whole, lambda record: replace(record, block=0)))
    assert not shared(whole)


@pytest.fixture(scope="module")
def small() -> SimulatedStudy:
    """Effects so large that any verdict that could be given would be."""
    mix = Mix(5, 16, baseline=8, candidate=4, retest=16)
    return simulate(Planted(np.array([9.0, -8.0, 7.0, 0.0, 0.0])), mix, 2)


@pytest.mark.parametrize("kept", range(17))
def test_a_screen_may_end_after_any_of_its_runs(small: SimulatedStudy, kept: int) -> None:
    """No verdict of the screen before its last run, no word on runs that there were not, and nothing false."""
    found = checked(changed(small, lambda record: record if number(record) < kept else None))
    assert not found.false("site", "trend", "kernel", "sum")
    effects = found.findings.effects
    if effects is not None and kept < 16:
        assert set(effects["basis"]) <= {"", "retest"}
        assert effects["effect"].notna().all()
    assert (found.findings.sentences[0].startswith("This study ran no screen")) == (kept == 0)


def test_a_site_that_never_varies_has_no_estimate_and_is_named(whole: SimulatedStudy) -> None:
    def still(record: TrialRecord) -> TrialRecord:
        return replace(record, levels={**record.levels, "layer1.1.act": 1}) if record.levels else record

    found = checked(changed(whole, still))
    assert found.findings.effects is None
    assert found.findings.sentences[0].endswith("the same in all of its runs: layer1.1.act.")


def test_sites_that_change_only_together_are_said_to(whole: SimulatedStudy) -> None:
    def tied(record: TrialRecord) -> TrialRecord:
        levels = record.levels
        return (
            replace(record, levels={**levels, "layer1.1.act": levels["layer1.0.act"]}) if levels else record
        )

    tied_runs = changed(whole, lambda record: tied(record) if record.phase == "screen" else record)
    assert "change only together" in checked(tied_runs).findings.sentences[0]


def test_a_site_without_which_trainings_fail_is_named_and_stands_in_the_candidate() -> None:
    for rate, sites, runs in ((1.0, 5, 32), (0.6, 10, 48)):
        truth = Planted(np.zeros(sites), needed=np.eye(sites)[0] * rate)
        found = checked(simulate(truth, Mix(sites, runs, **ALL), 1))
        assert any(
            "keeps trainings from failing: at layer1.0.act 0 of" in t for t in found.findings.sentences
        )
        assert found.study.candidate is not None
        assert found.study.candidate.choice("layer1.0.act").name == "reborn"
        assert not found.false()


def test_effects_that_saturate_have_their_sizes() -> None:
    truth = Planted(np.linspace(-16.0, 24.0, 5), base=90.0, ceiling=True, slope=40.0)
    found = checked(simulate(truth, Mix(5, 32, **ALL), 1))
    assert not any("collapsed" in line for line in found.findings.cautions)
    assert not found.false()
    assert all(claim.covered for claim in found.claims if claim.kind == "site" and claim.covered is not None)


def test_half_of_all_trainings_at_chance_is_no_difference(whole: SimulatedStudy) -> None:
    """Whatever the network: neither the candidate nor the sums may be told from it."""
    for seed in range(6):
        rng = np.random.default_rng(seed)

        def fall(record: TrialRecord, rng: np.random.Generator = rng) -> TrialRecord:
            if rng.random() < 0.5:
                return record
            value = 0.01 + float(rng.normal(0, 0.001))
            return replace(record, accuracy=value, test_accuracy=record.test_accuracy and value)

        null = simulate(Planted(np.zeros(5)), Mix(5, 32, **ALL), seed)
        assert not checked(changed(null, fall)).false("candidate", "sum", "rate")


def test_the_method_tells_the_runs_that_there_are(whole: SimulatedStudy) -> None:
    def told(study: SimulatedStudy) -> str:
        return " ".join(checked(study).findings.method)

    assert "each site reborn in half of them" in told(whole)
    assert "No joint effect of two or three sites" in told(whole)
    cut = told(changed(whole, lambda record: record if number(record) < 27 else None))
    assert re.search(r"each site reborn in 4\d to 5\d % of them", cut)
    assert "A joint effect of two sites can look like one site's effect" in cut
    fallen = changed(
        whole, lambda record: replace(record, accuracy=0.01) if number(record) in (1, 2, 9) else record
    )
    assert "A joint effect of two sites can look like one site's effect" in told(fallen)


def test_a_training_counts_once_whatever_its_keys(whole: SimulatedStudy) -> None:
    twice = tuple(replace(record, key=f"{record.key}-again") for record in whole.view.records)
    doubled = replace(whole, view=replace(whole.view, records=(*whole.view.records, *twice)))
    assert list(printed(checked(doubled).findings)) == list(printed(study_findings(whole.view)))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), -0.5, 55.0])
def test_values_that_no_accuracy_has_are_missing_runs(whole: SimulatedStudy, value: float) -> None:
    def spoil(record: TrialRecord) -> TrialRecord:
        return replace(record, accuracy=value) if number(record) in (1, 9, 20) else record

    found = checked(changed(whole, spoil))
    assert not found.false()
    assert any("3 of 32 designed runs are missing" in line for line in found.findings.cautions)


def test_a_screen_of_which_half_is_at_chance_says_so_and_estimates_the_other_half(
    whole: SimulatedStudy,
) -> None:
    def fall(record: TrialRecord) -> TrialRecord:
        return replace(record, accuracy=0.01) if number(record) >= 0 and number(record) % 2 == 0 else record

    found = checked(changed(whole, fall))
    assert any("16 of 32 designed runs collapsed" in line for line in found.findings.cautions)
    assert found.findings.effects is not None
    assert found.findings.effects["effect"].abs().max() < 2


def test_without_noise_nothing_is_said_of_what_could_be_seen(whole: SimulatedStudy) -> None:
    alike = changed(whole, lambda record: replace(record, accuracy=0.7))
    method = checked(alike).findings.method
    assert any("noise of one training is unknown" in line for line in method)
    assert not any("80 % power" in line for line in method)


@pytest.mark.parametrize("phase", ["screen", "baseline", "confirm", "control", "checks"])
def test_a_single_run_of_a_phase_claims_nothing(whole: SimulatedStudy, phase: str) -> None:
    first = next(record.key for record in whole.view.records if record.phase == phase)
    found = checked(changed(whole, lambda r: r if r.phase != phase or r.key == first else None))
    assert not found.false("site", "trend", "sum", "rate", "cause")


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


def lost_split(study: SimulatedStudy) -> SimulatedStudy:
    return changed(study, lambda r: None if r.phase == "screen" and r.block == 0 else r)


def unequal_splits(study: SimulatedStudy) -> SimulatedStudy:
    return changed(study, lambda r: replace(r, block=max(0, r.block - 2)))


def coarse(study: SimulatedStudy) -> SimulatedStudy:
    """As of 500 images."""
    return changed(
        study, lambda r: replace(r, accuracy=None if r.accuracy is None else round(500 * r.accuracy) / 500)
    )


def nearly_tied(study: SimulatedStudy) -> SimulatedStudy:
    """The second site is reborn where the first is not, but for a quarter of the runs."""
    one, two = study.names[:2]

    def turn(record: TrialRecord) -> TrialRecord:
        if number(record) < 0 or number(record) % 4 == 0:
            return record
        return replace(record, levels={**record.levels, two: 1 - record.levels[one]})

    return changed(study, turn)


@pytest.mark.parametrize("change", [lost_split, unequal_splits, coarse, nearly_tied])
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_where_nothing_has_an_effect_nothing_is_named(
    change: Callable[[SimulatedStudy], SimulatedStudy], sigma: float
) -> None:
    """Whatever became of the runs; without noise there is nothing to hold a difference against."""
    for seed in (3, 4):
        study = simulate(Planted(np.zeros(5), sigma=sigma), Mix(5, 32, kernels=seed == 4, **ALL), seed)
        assert not checked(change(study)).false()
