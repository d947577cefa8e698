"""The estimates of a report against the planted truth, differences of means, and what must not enter."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reborn_nas.records import TrialRecord
from reborn_nas.report import RunView, build_report, study_findings
from reborn_nas.report.figures import painting
from reborn_nas.report.results.networks import best_choices, sampled_curves
from tests.report import fabricate


def _view(made: list[TrialRecord], **changes: object) -> RunView:
    return RunView("t", made, sites=fabricate.sites(5), curves=fabricate.curves, **changes)  # type: ignore[arg-type]


def _plain(seed: int = 0, **options: object) -> list[TrialRecord]:
    """A study with one form of the block, so that a site's effect is a plain difference of means."""
    form = "reborn(compression=1x1,kernel_size=3)"
    made = fabricate.records(5, seed=seed, **options)  # type: ignore[arg-type]
    return [
        replace(
            record,
            parameters=dict.fromkeys(record.parameters, form),
            architecture={**record.architecture, "choices": dict.fromkeys(record.parameters, form)},
        )
        for record in made
    ]


def test_effects_are_the_differences_of_means_within_splits() -> None:
    made = _plain()
    effects = study_findings(_view(made)).effects
    assert effects is not None
    screen = [record for record in made if record.phase == "screen"]
    for row in effects.itertuples():
        differences = []
        for block in {record.block for record in screen}:
            levels = {0: [], 1: []}  # type: ignore[var-annotated]
            for record in screen:
                if record.block == block:
                    levels[record.levels[row.site]].append(record.accuracy)
            differences.append(100 * (np.mean(levels[1]) - np.mean(levels[0])))
        assert row.effect == pytest.approx(np.mean(differences), abs=1e-9)
        assert row.runs_with == row.runs_without == len(screen) / 2


def test_the_sampler_s_trials_and_other_phases_never_enter_an_estimate() -> None:
    made = fabricate.records(5)
    fooled = [
        replace(r, accuracy=0.1, levels=dict.fromkeys(r.parameters, 1))
        if r.phase in ("search", "baseline")
        else r
        for r in made
    ]
    a, b = study_findings(_view(made)), study_findings(_view(fooled))
    assert a.effects is not None
    assert b.effects is not None
    assert list(a.effects["effect"]) == list(b.effects["effect"])
    assert a.candidate == b.candidate


def test_the_answer_names_the_largest_estimate_the_harm_and_the_candidate() -> None:
    findings = study_findings(_view(_plain(replicates=8)))
    effects = findings.effects
    assert effects is not None
    top = max(effects.to_dict("records"), key=lambda row: row["effect"])
    assert (top["site"], top["verdict"]) == ("act1", "confirmed")
    size = (
        f"act1 adds +{top['effect']:.2f} percentage points [+{top['said_low']:.2f}, +{top['said_high']:.2f}]"
    )
    assert top["said_low"] < top["ci_low"] < top["ci_high"] < top["said_high"]
    assert (
        f"averaged over networks whose other sites are reborn half of the time, {size}"
        in findings.sentences[0]
    )
    assert "harm at act5" in findings.sentences[0]
    assert findings.sentences[1].startswith("The candidate beats its parent by")
    assert (findings.candidate_part, findings.candidate_images) == ("test", 10_000)
    assert len(findings.sentences) == 2  # the control is null here, so the negative phase is not named


def test_only_the_control_lets_the_negative_phase_be_named() -> None:
    made = [
        replace(r, accuracy=(r.accuracy or 0) + 0.02 * r.levels["act1"]) if r.phase == "control" else r
        for r in _plain()
    ]
    sentences = study_findings(_view(made)).sentences
    assert [s for s in sentences if "because of the negative phase" in s] == [
        s for s in sentences if s.startswith("At act1")
    ]


def test_nothing_planted_claims_nothing() -> None:
    rng = np.random.default_rng(7)
    made = [
        replace(r, accuracy=0.8 + rng.normal(0, 0.003), test_accuracy=None) for r in _plain(confirm=False)
    ]
    findings = study_findings(_view(made))
    assert findings.effects is not None
    assert set(findings.effects["verdict"]) == {"unresolved"}
    assert findings.sentences[0].startswith(
        "No site resolved; effects of reborn instead of the original activation above"
    )
    assert "is unresolved" in findings.sentences[1]


def test_harm_on_the_candidate_alone_is_told_apart_from_harm_on_average() -> None:
    made = [
        replace(r, accuracy=(r.accuracy or 0) - 0.03 * r.levels["act3"]) if r.phase == "confirm" else r
        for r in _plain(replicates=8)
    ]
    findings = study_findings(_view(made))
    assert findings.effects is not None
    assert list(findings.effects["verdict"])[2::2] == ["harmful", "harmful"]
    assert list(findings.effects["basis"])[2::2] == ["retest", "screen and retest"]
    said = findings.sentences[0]
    assert "It does harm at act5 (−" in said
    row = findings.effects.iloc[2]
    size = f"{row['said_effect']:.2f} percentage points [{row['said_low']:.2f}, {row['said_high']:.2f}]"
    assert f"It does harm on the candidate network at act3 ({size} there)".replace("-", "−") in said
    assert row["said_effect"] == row["confirmed"]
    assert row["said_high"] < 0


def test_phases_that_contradict_each_other_give_no_verdict() -> None:
    made = [
        replace(r, accuracy=(r.accuracy or 0) - 0.03 * r.levels["act1"]) if r.phase == "confirm" else r
        for r in _plain(replicates=8)
    ]
    findings = study_findings(_view(made))
    assert findings.effects is not None
    assert findings.effects["verdict"][0] == "no verdict"
    assert "contradict each other, so there is no verdict: act1 +1." in findings.sentences[0]


def test_effects_that_do_not_add_up_are_a_caution() -> None:
    made = _plain()
    assert not any("do not simply add up" in line for line in study_findings(_view(made)).cautions)
    bent = [replace(r, accuracy=(r.accuracy or 0) - 0.1) if r.phase == "baseline" else r for r in made]
    findings = study_findings(_view(bent))
    ends = [
        np.mean([r.accuracy for r in bent if r.phase == "baseline" and r.arm == a])
        for a in ("parent", "reborn")
    ]
    away = 100 * (np.mean(ends) - np.mean([r.accuracy for r in bent if r.phase == "screen"]))
    assert any(f"curvature −{-away:.2f} percentage points" in line for line in findings.cautions)


def test_other_arms_of_a_phase_do_not_enter_its_factorial() -> None:
    made = _plain()
    alone = [
        replace(r, key=f"{r.phase}/alone", arm="alone", accuracy=0.1)
        for r in made
        if r.phase in ("confirm", "control")
    ]
    before, after = study_findings(_view(made)), study_findings(_view([*made, *alone]))
    for a, b in ((before.confirmation, after.confirmation), (before.control, after.control)):
        assert a is not None
        assert b is not None
        assert list(a["effect"]) == list(b["effect"])


def test_too_few_runs_give_numbers_a_warning_and_no_verdict() -> None:
    made = [r for r in fabricate.records(5, search=0, confirm=False) if r.phase == "screen"][:13]
    findings = study_findings(_view(_one_form(made)))
    assert findings.effects is not None
    assert set(findings.effects["verdict"]) == {"no verdict"}
    assert findings.sentences[0].startswith("No verdict")
    assert any("fewer than one whole balanced design" in line for line in findings.cautions)


def test_runs_that_cannot_be_estimated_at_all_say_so() -> None:
    made = [r for r in fabricate.records(5) if r.phase == "screen"][:3]
    findings = study_findings(_view(made))
    assert findings.effects is None
    assert "too few" in findings.sentences[0]


def test_a_running_study_gets_no_verdict() -> None:
    findings = study_findings(_view(fabricate.records(5), finished=False))
    assert findings.effects is not None
    assert set(findings.effects["verdict"]) == {"no verdict"}
    assert any("still running" in line for line in findings.cautions)


@pytest.mark.parametrize(("state", "accuracy"), [("diverged", 0.85), ("diverged", None), ("complete", 0.1)])
def test_a_collapsed_run_is_left_out_whatever_it_came_to(state: str, accuracy: float | None) -> None:
    made = _plain()
    k = next(i for i, r in enumerate(made) if r.phase == "screen")
    changed, without = [*made], [*made]
    changed[k] = replace(made[k], state=state, accuracy=accuracy)
    del without[k]
    found, truth = study_findings(_view(changed)), study_findings(_view(without))
    assert found.effects is not None
    assert truth.effects is not None
    assert list(found.effects["effect"]) == pytest.approx(list(truth.effects["effect"]))
    assert found.summary["sigma"] == pytest.approx(truth.summary["sigma"])
    assert list(found.effects["verdict"]) == list(truth.effects["verdict"])
    assert any("1 of 32 designed runs collapsed" in line for line in found.cautions)
    assert not found.effects["makes_fail"].any()


def test_a_repeated_run_counts_once() -> None:
    made = _plain()
    before = study_findings(_view(made)).effects
    lost_then_repeated = [
        *(replace(r, state="failed", accuracy=None) for r in made if r.phase == "screen"),
        *made,
    ]
    again = study_findings(_view(lost_then_repeated)).effects
    assert before is not None
    assert again is not None
    assert list(again["effect"]) == pytest.approx(list(before["effect"]))


def test_a_site_that_makes_trainings_fail_is_named_and_the_others_keep_their_effects() -> None:
    made = _plain(replicates=8)
    lost, at = [], 0
    for record in made:
        hit = record.phase == "screen" and record.levels["act3"] == 1
        at += hit
        lost.append(replace(record, state="diverged", accuracy=0.1) if hit and at % 3 else record)
    before, after = study_findings(_view(made)), study_findings(_view(lost))
    assert before.effects is not None
    assert after.effects is not None
    fails = sum(record.state == "diverged" for record in lost)
    told = f"Reborn makes trainings fail: at act3 {fails} of 64 trainings with it failed, 0 of 64 without."
    assert told in after.sentences
    assert list(after.effects["makes_fail"]) == [False, False, True, False, False]
    assert list(after.effects["verdict"]) == list(before.effects["verdict"])
    assert list(after.effects["effect"]) == pytest.approx(list(before.effects["effect"]), abs=0.25)
    assert any("lower learning rate" in line for line in after.cautions)
    assert not any("makes trainings fail" in line for line in before.sentences)


def test_a_site_without_a_run_that_converged_gets_no_verdict_and_breaks_nothing() -> None:
    made = [
        replace(r, state="diverged", accuracy=None) if r.phase == "screen" and r.levels["act2"] else r
        for r in _plain()
    ]
    findings = study_findings(_view(made))
    assert findings.effects is not None
    assert np.isnan(findings.effects["effect"][1])
    assert findings.effects["verdict"][1] == "no verdict"
    assert findings.effects["effect"].notna().sum() == 4
    assert "at act2 16 of 16 trainings with it failed, 0 of 16 without" in " ".join(findings.sentences)


def test_missing_runs_leave_a_verdict_only_where_both_readings_have_it() -> None:
    made = _plain()
    gone = [k for k, r in enumerate(made) if r.phase == "screen" and r.levels["act1"]][:3]
    missing = [replace(r, state="failed", accuracy=None) if k in gone else r for k, r in enumerate(made)]
    findings = study_findings(_view(missing))
    assert findings.effects is not None
    assert {"at_chance", "at_block_mean"} <= set(findings.effects.columns)
    assert any("3 of 32 designed runs are missing" in line for line in findings.cautions)
    assert findings.effects["at_block_mean"][0] < findings.effects["effect"][0]


def test_the_validation_set_s_standard_error_is_binomial_and_said_aloud() -> None:
    made = [replace(r, accuracy_n=360) if r.phase == "screen" else r for r in fabricate.records(5)]
    findings = study_findings(_view(made))
    level = np.mean([r.accuracy for r in made if r.phase == "screen"])
    assert findings.summary["validation_se"] == pytest.approx(100 * np.sqrt(level * (1 - level) / 360))
    assert any("360 validation images" in line for line in findings.cautions)


def test_groups_of_sites_can_be_the_factors() -> None:
    names = {f"act{k + 1}": f"stage:{k}" for k in range(5)}
    made = [replace(r, levels={names[s]: v for s, v in r.levels.items()}) for r in _plain()]
    effects = study_findings(_view(made)).effects
    assert effects is not None
    assert list(effects["site"]) == list(names.values())


def test_the_drawn_architecture_is_the_candidate_or_the_recommendation() -> None:
    made = fabricate.records(5)
    choices, words = best_choices(_view(made)) or ({}, "")
    assert set(choices) == {"act1", "act2", "act3", "act4"}
    assert "compared with the parent" in words
    given = {"choices": {"act2": "silu"}, "predicted": 0.9, "ci_low": 0.88, "ci_high": 0.92}
    assert (best_choices(_view(made, recommendation=given)) or ({}, ""))[
        0
    ] == choices  # it was trained afresh
    unconfirmed = [record for record in made if record.phase != "candidate"]
    choices, words = best_choices(_view(unconfirmed, recommendation=given)) or ({}, "")
    assert choices == {"act2": "silu"}
    assert "90.0 % [88.0 %, 92.0 %]" in words
    only = [r for r in made if r.phase == "search"]
    best = max(only, key=lambda r: r.accuracy or 0)
    choices, words = best_choices(_view(only)) or ({}, "")
    assert choices == best.architecture["choices"]
    assert "luck" in words
    assert best_choices(_view([replace(only[0], state="failed")])) is None


def test_curves_are_sampled_evenly() -> None:
    kept, total = sampled_curves(_view(fabricate.records(5)), 20)
    assert total == 160
    assert 10 <= len(kept) <= 20
    assert {phase for phase, _ in kept} >= {"screen", "control"}


def _one_form(made: list[TrialRecord]) -> list[TrialRecord]:
    form = "reborn(compression=1x1,kernel_size=3)"
    return [
        replace(r, parameters=dict.fromkeys(r.parameters, form), architecture={"choices": {}}) for r in made
    ]


def test_another_contrast_is_named_with_both_its_activations() -> None:
    arms = {"parent": "silu"}
    made = [replace(r, arm=arms.get(r.arm, r.arm)) for r in _plain(replicates=8)]
    findings = study_findings(_view(made, arms=("reborn", "silu")))
    assert findings.sentences[0].startswith("Reborn instead of silu helps at")
    assert "beats the all-silu network by" in findings.sentences[1]
    assert set(findings.candidate_arms) == {"silu", "candidate"}
    assert any(
        line.startswith("Baseline: reborn at every site against the all-silu") for line in findings.method
    )
    plain = study_findings(_view(_plain(replicates=8)))
    assert findings.candidate == plain.candidate


def test_a_running_study_says_what_the_whole_screen_will_find() -> None:
    made = [r for r in _plain(replicates=4) if r.phase == "screen"]
    phases = [{"phase": "screen", "planned": 256}]
    half = study_findings(_view(made, phases=phases, finished=False)).summary
    assert (half["runs"], half["planned"]) == (64, 256)
    # of a single site among five: Bonferroni's level, here with nearly a normal's tails; two splits for each 32 runs
    # are few, so that intervals are as wide as is allowed for that
    quantile = 1.3 * (2.575829 + 0.841621)
    assert half["detectable"] == pytest.approx(quantile * 2 * half["sigma"] / 16, rel=0.02)
    assert study_findings(_view(made, phases=phases)).summary["planned"] == 256


def test_many_collapsed_runs_point_to_the_learning_rate() -> None:
    made = _plain()
    screen = [k for k, record in enumerate(made) if record.phase == "screen"]
    for count, advised in ((3, False), (4, True)):  # of 32
        odd = [replace(r, state="diverged") if k in screen[:count] else r for k, r in enumerate(made)]
        found = study_findings(_view(odd)).cautions
        assert any(f"{count} of 32 designed runs collapsed" in line for line in found)
        assert any("lower learning rate" in line for line in found) == advised


def test_the_budget_is_what_the_phases_leave_and_tells_how_it_was_spent() -> None:
    alone = study_findings(_view(_plain(confirm=False, replicates=8)))
    both = study_findings(_view(_plain(replicates=8)))
    assert alone.effects is not None
    assert both.effects is not None
    assert alone.budget[0] == (
        "Sites, screen: 5 % by Benjamini and Hochberg's method over 5 sites; "
        f"{(alone.effects['verdict'] != 'unresolved').sum()} named."
    )
    assert both.budget[0].startswith(
        "Sites, screen: 4 % by Benjamini and Hochberg's method over 5 sites; 4 named"
    )
    assert both.budget[1].startswith("Sites, retest: 1 % by Holm's method over 5 sites; 0 named by it alone")
    assert both.budget[1].endswith(f"{(both.effects['verdict'] == 'confirmed').sum()} confirmed.")
    assert "Candidate against parent: 4 %; a difference is seen." in both.budget
    assert "Whether effects add up: 1 %; no gap is seen." in both.budget
    assert both.budget[-1] == alone.budget[-1] == "Together: at most 10 %."


def test_sums_are_those_of_the_table_beside_the_measured_difference() -> None:
    made = _plain(replicates=8)
    findings = study_findings(_view(made))
    table = findings.sums.table
    assert findings.effects is not None
    assert table is not None
    assert table["effect"][0] == pytest.approx(findings.effects["effect"].sum())
    ends = [
        np.mean([r.accuracy for r in made if r.phase == "baseline" and r.arm == a])
        for a in ("reborn", "parent")
    ]
    assert table["effect"][1] == pytest.approx(100 * (ends[0] - ends[1]))
    helping = findings.effects["site"].isin([f"act{k}" for k in (1, 2, 3, 4)])
    assert table["effect"][2] == pytest.approx(findings.effects["shrunk"][helping].sum(), abs=1e-6)
    assert findings.candidate is not None
    assert table["effect"][3] == pytest.approx(findings.candidate.effect)
    assert len(findings.sums.words) == 2
    assert all("is not resolved" in line for line in findings.sums.words)
    apart = [
        replace(r, accuracy=(r.accuracy or 0) - 0.05) if r.phase == "baseline" and r.arm == "reborn" else r
        for r in made
    ]
    findings = study_findings(_view(apart))
    assert "the effects do not add up" in findings.sums.words[0]
    assert any("is what was measured of it, not the sum" in line for line in findings.cautions)


@pytest.mark.parametrize("accuracy", [0.5, 1.0])
def test_runs_that_are_all_the_same_give_numbers_and_no_verdict(accuracy: float) -> None:
    made = [
        replace(r, accuracy=accuracy, test_accuracy=None if r.test_accuracy is None else accuracy)
        for r in _plain()
    ]
    findings = study_findings(_view(made))
    assert findings.effects is not None
    assert set(findings.effects["verdict"]) == {"no verdict"}
    assert any("noise of a training is unknown" in line for line in findings.cautions)
    assert "cannot be told" in findings.sentences[1]


def test_what_no_accuracy_can_be_counts_as_missing() -> None:
    made = _plain()
    k = next(i for i, r in enumerate(made) if r.phase == "screen")
    for value in (float("inf"), float("nan"), 1.5, -0.1):
        odd = [replace(r, accuracy=value) if i == k else r for i, r in enumerate(made)]
        findings = study_findings(_view(odd))
        assert findings.effects is not None
        assert any("1 of 32 designed runs are missing" in line for line in findings.cautions)


def test_a_ceiling_and_an_early_end_are_said() -> None:
    made = [replace(r, accuracy=min(1.0, (r.accuracy or 0) + 0.14)) for r in _plain()]
    phases = [{"phase": "screen", "planned": 64}]
    found = study_findings(_view(made, phases=phases)).cautions
    assert any("right on every image: at the ceiling" in line for line in found)
    assert "The screen ended after 32 of 64 trainings." in found
    plain = study_findings(_view(_plain())).cautions
    assert not any("ceiling" in line or "ended after" in line for line in plain)


def test_runs_lost_at_random_leave_the_retest_its_main_effects() -> None:
    rng = np.random.default_rng(3)
    made = [
        replace(r, accuracy=None, state="failed") if r.phase == "confirm" and rng.random() < 0.2 else r
        for r in _plain()
    ]
    assert study_findings(_view(made)).confirmation is not None


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "trouble", ["two sites", "one split", "seven runs", "all diverged", "half diverged", "nothing"]
)
def test_studies_in_trouble_are_reported_without_a_traceback(
    trouble: str, finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "png", lambda drawing: b"png")
    made, rng = fabricate.records(5), np.random.default_rng(0)
    changed = {
        "two sites": [
            replace(r, levels={k: v for k, v in r.levels.items() if k in ("act1", "act2")}) for r in made
        ],
        "one split": [replace(r, block=0) for r in made],
        "seven runs": [r for r in made if r.phase == "screen"][:7],
        "all diverged": [replace(r, state="diverged", accuracy=None) for r in made],
        "half diverged": [
            replace(r, state="diverged", accuracy=0.01) if rng.random() < 0.5 else r for r in made
        ],
        "nothing": [replace(r, accuracy=float("nan")) for r in made],
    }[trouble]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = build_report(_view(changed, finished=finished), tmp_path).read_text()
    assert "What this report does not claim" in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
