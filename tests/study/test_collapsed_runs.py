"""Collapsed trainings and the candidate, the top sites and the recommendation: one rule with the report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reborn_nas.records import TrialRecord
from reborn_nas.report import study_findings
from reborn_nas.study.plan.candidate import decide_candidate, leading_factors, own_words, recommend_run
from tests.sentences.planted import Planted
from tests.sentences.studies import SPEC, Mix, SimulatedStudy, contrast_of, simulate

EFFECTS = (0.8, 0.6, -0.8, -0.6, 0.7)


def study(**planted: object) -> SimulatedStudy:
    return simulate(Planted(np.array(EFFECTS), sigma=0.1, **planted), Mix(5, 64), seed=3)  # type: ignore[arg-type]


def screen(found: SimulatedStudy) -> list[TrialRecord]:
    return [record for record in found.view.records if record.phase == "screen"]


def chosen(runs: list[TrialRecord]) -> list[bool]:
    contrast = contrast_of(5, False)
    network = decide_candidate(runs, [], contrast, SPEC).architecture
    return [network.choice(name).name == "reborn" for name in contrast.factors]


@pytest.mark.parametrize(("state", "accuracy"), [("diverged", 0.7), ("complete", 0.01)])
def test_a_run_that_collapsed_has_no_say_in_the_candidate(state: str, accuracy: float) -> None:
    runs = screen(study())
    assert chosen(runs) == [effect > 0 for effect in EFFECTS]
    kept = leading_factors(runs, contrast_of(5, False), 5)
    # the first site's reborn runs: as numbers they would make it the worst of all
    lost = [k for k, record in enumerate(runs) if record.levels[kept[0]]][:3]
    hit = [replace(r, state=state, accuracy=accuracy) if k in lost else r for k, r in enumerate(runs)]
    assert chosen(hit) == [effect > 0 for effect in EFFECTS]
    assert leading_factors(hit, contrast_of(5, False), 5) == kept


def test_the_candidate_does_without_a_site_that_makes_trainings_fail() -> None:
    found = study(diverges=np.array([0.7, 0, 0, 0, 0]))
    names = found.names
    said = study_findings(found.view)
    assert any(f"makes trainings fail: at {names[0]} " in line for line in said.sentences)
    decided = decide_candidate(screen(found), [], contrast_of(5, False), SPEC)
    assert decided.architecture.choice(names[0]).name != "reborn"
    assert decided.architecture.choice(names[1]).name == "reborn"
    assert f"without {names[0]}, where it makes trainings fail" in decided.reason
    assert leading_factors(screen(found), contrast_of(5, False), 5)[-1] == names[0]


def test_the_recommendation_is_the_same_however_far_a_run_fell() -> None:
    found = study()
    runs, names = screen(found), found.names
    parameters = {name: sorted({r.parameters[name] for r in runs}) for name in names}
    words = own_words(parameters, {name: (name,) for name in names}, dict.fromkeys(names, "relu"))
    fallen = [
        [replace(r, state=state, accuracy=value) if k % 13 == 0 else r for k, r in enumerate(runs)]
        for state, value in (("complete", 0.02), ("diverged", 0.7), ("diverged", 0.01))
    ]
    told = [recommend_run(made, words=words, stages=dict.fromkeys(names, 0)) for made in fallen]
    assert told[0].choices == told[1].choices == told[2].choices
    assert told[0].predicted == pytest.approx(told[1].predicted)
    assert [told[0].choices[name] != "original" for name in names] == [effect > 0 for effect in EFFECTS]
