"""How a total is spent: the documented examples, and what holds for every total."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn_nas.analysis import plan_control, screen_sizes
from reborn_nas.errors import ConfigError
from reborn_nas.records import PHASES
from reborn_nas.study.plan.phases import ORDER, Phase, plan_phases

SIZES = {5: (16, 32, 48, 64, 80, 96), 33: (72, 80, 96, 144)}


def counts(phases: tuple[Phase, ...]) -> dict[str, int]:
    return {phase.name: phase.count for phase in phases if phase.count}


def test_newcomers_study_is_spent_as_documented() -> None:
    phases = plan_phases(64, 5, sizes=SIZES[5])
    assert counts(phases) == {"baseline": 8, "screen": 32, "search": 8, "candidate": 16}
    left_out = {phase.name: phase.reason for phase in phases if not phase.count}
    assert left_out.keys() == {"confirm", "control", "checks"}
    assert "needs 32 trainings, 8 of 64 are left" in left_out["confirm"]


def test_four_trainings_are_all_search_and_the_rest_is_named() -> None:
    phases = plan_phases(4, 5, sizes=())
    assert counts(phases) == {"search": 4}
    assert [phase.name for phase in phases] == list(ORDER) == list(PHASES)
    assert all(phase.reason for phase in phases if phase.name != "search")


def test_confirmation_and_control_come_where_they_fit() -> None:
    assert counts(plan_phases(160, 33, sizes=(72,))) == {
        "baseline": 16, "screen": 72, "search": 24, "candidate": 16, "confirm": 32,
    }  # fmt: skip
    assert counts(plan_phases(300, 33, sizes=(72, 80, 96, 144))) == {
        "baseline": 16, "screen": 144, "search": 44, "candidate": 16, "confirm": 32, "control": 48,
    }  # fmt: skip


def test_a_requested_count_is_rounded_to_a_whole_design_with_a_reason() -> None:
    phases = {
        phase.name: phase
        for phase in plan_phases(200, 33, sizes=SIZES[33], counts={"screen": 90, "confirm": 20})
    }
    assert phases["screen"].count == 80
    assert "rounded" in phases["screen"].reason
    assert phases["confirm"].count == 32
    assert "rounded" in phases["confirm"].reason


def test_checks_come_where_the_search_keeps_as_much_or_where_they_are_asked_for() -> None:
    assert "checks" not in counts(plan_phases(383, 33, sizes=(144,)))
    assert counts(plan_phases(384, 33, sizes=(144,)))["checks"] == 64
    assert counts(plan_phases(384, 33, sizes=(144,), counts={"checks": 0})).get("checks", 0) == 0
    (asked,) = (p for p in plan_phases(300, 33, sizes=(72,), counts={"checks": 20}) if p.name == "checks")
    assert asked.count == 48
    assert "rounded" in asked.reason


def test_what_is_left_out_says_why() -> None:
    def reason(name: str, *arguments: int, **asked: int) -> str:
        phases = plan_phases(*arguments, sizes=(72,), counts=asked)
        return next(phase.reason for phase in phases if phase.name == name and not phase.count)

    assert reason("checks", 64, 5) == "follow a control, which is left out"
    assert reason("checks", 300, 33) == "need 128 trainings of the remainder, which has 116"
    assert reason("checks", 500, 33, checks=0) == "not asked for"
    assert reason("confirm", 500, 33, confirm=0) == "not asked for"
    assert reason("search", 500, 33, search=0) == "not asked for"
    assert reason("search", 184, 33) == "no training is left for it"


def test_a_noisy_study_confirms_twice_where_the_search_keeps_as_much() -> None:
    quiet = counts(plan_phases(248, 33, sizes=(72,), spread=0.25))
    noisy = counts(plan_phases(248, 33, sizes=(72,), spread=0.26))
    assert (quiet["confirm"], quiet["search"]) == (32, 64)
    assert (noisy["confirm"], noisy["search"]) == (64, 32)
    assert counts(plan_phases(247, 33, sizes=(72,), spread=0.26))["confirm"] == 32
    asked = plan_phases(248, 33, sizes=(72,), spread=0.26, counts={"confirm": 32})
    assert counts(asked)["confirm"] == 32


def test_without_a_positive_twin_there_is_neither_control_nor_checks() -> None:
    phases = plan_phases(500, 33, sizes=(144,), no_control="no twin")
    assert counts(phases).keys() == {"baseline", "screen", "search", "candidate", "confirm"}
    assert [phase.reason for phase in phases if phase.name == "control"] == ["no twin"]


def test_what_needs_the_top_sites_needs_a_screen() -> None:
    with pytest.raises(ConfigError, match="retest: the 5 of 33 sites that it tests are chosen by a screen"):
        plan_phases(100, 33, sizes=(72,), counts={"screen": 0, "confirm": 32})
    assert counts(plan_phases(100, 5, sizes=(16,), counts={"screen": 0, "confirm": 32}))["confirm"] == 32


def test_asking_for_more_than_the_total_is_refused() -> None:
    with pytest.raises(ConfigError, match="need 108 trainings, but the total is 100"):
        plan_phases(100, 5, sizes=SIZES[5], counts={"search": 60, "control": 48})


ASKED = st.dictionaries(st.sampled_from(ORDER), st.sampled_from([0, 2, 8, 40, 64, 90, 160]))


@given(st.integers(1, 400), st.integers(2, 20), ASKED)
def test_whatever_is_asked_for_no_phase_is_negative_and_none_exceeds_the_total(
    total: int, n_factors: int, asked: dict[str, int]
) -> None:
    sizes = screen_sizes(n_factors, 400)
    try:
        planned = plan_phases(total, n_factors, sizes=sizes, counts=asked)
    except ConfigError:
        return
    assert min(phase.count for phase in planned) >= 0
    assert sum(phase.count for phase in planned) <= total


def test_phases_asked_for_beyond_the_total_are_refused_without_a_word_about_the_exploration() -> None:
    with pytest.raises(ConfigError, match="need 168 trainings, but the total is 160"):
        plan_phases(
            160, 5, sizes=SIZES[5], counts={"baseline": 8, "screen": 96, "candidate": 16, "control": 48}
        )


def test_a_screen_asked_for_beyond_the_total_is_refused_not_rounded_down_to_it() -> None:
    with pytest.raises(ConfigError, match="need 64 trainings, but the total is 40"):
        plan_phases(40, 5, sizes=screen_sizes(5, 40), counts={"screen": 64})


def test_phases_asked_to_be_none_are_none() -> None:
    none = dict.fromkeys(("baseline", "screen", "candidate"), 0)
    assert counts(plan_phases(10, 5, sizes=SIZES[5], counts=none)) == {"search": 10}


@given(st.integers(1, 600), st.integers(2, 40), st.integers(0, 400))
def test_every_plan_spends_its_total_and_a_larger_one_only_adds(
    total: int, n_factors: int, more: int
) -> None:
    first = plan_phases(total, n_factors, sizes=screen_sizes(n_factors, total))
    assert sum(phase.count for phase in first) == total
    for phase in first:
        assert phase.count > 0 or phase.name == "search" or phase.reason
        assert phase.name != "screen" or sum(phase.batches) == phase.count <= total // 2
    grown = plan_phases(total + more, n_factors, sizes=screen_sizes(n_factors, total + more), earlier=first)
    assert sum(phase.count for phase in grown) == total + more
    later = {phase.name: phase for phase in grown}
    for before in first:
        after = later[before.name]
        assert after.count >= before.count
        assert after.batches[: len(before.batches)] == before.batches


def test_a_smaller_total_takes_nothing_away() -> None:
    first = plan_phases(64, 5, sizes=SIZES[5])
    again = plan_phases(20, 5, sizes=(), earlier=first)
    assert counts(again) == counts(first)


def test_without_factors_there_is_only_search() -> None:
    phases = plan_phases(30, 0, sizes=())
    assert counts(phases) == {"search": 30}
    assert "contrast" in phases[0].reason


def test_designs_that_there_were_keep_the_way_they_were_drawn() -> None:
    old = [
        Phase.from_dict({**phase.to_dict(), "editions": []}) for phase in plan_phases(64, 5, sizes=SIZES[5])
    ]
    grown = {p.name: p for p in plan_phases(400, 5, sizes=SIZES[5], earlier=old, edition=2)}
    assert grown["screen"].batches[0] == 32
    assert grown["screen"].editions == (1, 2)
    assert [grown["screen"].edition(batch) for batch in range(2)] == [1, 2]
    assert grown["control"].editions == (2,)
    again = {p.name: p for p in plan_phases(500, 5, sizes=SIZES[5], earlier=tuple(grown.values()), edition=3)}
    assert again["screen"].editions[:2] == (1, 2)
    assert again["control"].editions == (2,)
    assert again["confirm"].editions == (2,)
    assert Phase.from_dict(again["screen"].to_dict()) == again["screen"]


def test_a_control_is_planned_as_large_as_it_will_be() -> None:
    """The smallest design of a control has 48 runs: the plan shows them, and the total counts them."""
    asked = {
        "baseline": 6,
        "screen": 48,
        "search": 0,
        "candidate": 8,
        "confirm": 32,
        "control": 32,
        "checks": 0,
    }
    plan = plan_phases(142, 10, sizes=(32, 48, 64), counts=asked)
    control = next(phase for phase in plan if phase.name == "control")
    assert (control.count, control.reason) == (48, "32 is rounded to 48, a whole design")
    assert len(plan_control(5, control.count)[0]) == control.count
    with pytest.raises(ConfigError, match="need 142 trainings, but the total is 126"):
        plan_phases(126, 10, sizes=(32, 48, 64), counts=asked)
    kept = plan_phases(142, 10, sizes=(32, 48, 64), counts={**asked, "control": 0}, earlier=plan)
    assert [phase.count for phase in kept] == [phase.count for phase in plan], "no phase shrinks, none grows"
