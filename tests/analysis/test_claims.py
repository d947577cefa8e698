"""What the sentences may and may not say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from reborn_nas.analysis import control_design, control_effects, screen_design, site_effects
from reborn_nas.analysis.claims import (
    candidate_sentence,
    cause_sentence,
    largest_plausible,
    pooled_sentence,
    where_it_helps,
)
from reborn_nas.analysis.compare import candidate_against_parent
from reborn_nas.analysis.simulate import simulate_study
from reborn_nas.errors import ConfigError


def screen(*effects: float, noise: float = 0.2, seed: int = 0) -> pd.DataFrame:
    design = screen_design(len(effects), 64, seed=seed)
    pp = np.where(design, 0.5, -0.5) @ np.array(effects) + np.random.default_rng(seed).normal(0, noise, 64)
    return site_effects(design, 0.7 + pp / 100, names=[f"layer{i}.act" for i in range(len(effects))])


def test_one_site_is_named_with_its_interval() -> None:
    table = screen(2.0, 0, 0, 0, 0)
    said = where_it_helps(table)
    low, high = table["ci_low"][0], table["ci_high"][0]
    assert "helps at layer0.act (suggested by the screen, not confirmed)" in said
    adds = f"layer0.act adds {table['effect'][0]:+.2f} pp"
    assert f"averaged over networks whose other sites are reborn half of the time, {adds}" in said
    assert f"[{low:+.2f}, {high:+.2f}]" in said
    table["verdict"] = ["confirmed"] + ["unresolved"] * 4
    assert "confirmed on the incumbent" in where_it_helps(table)


def test_the_sentence_prints_what_its_verdict_rests_on() -> None:
    table = screen(2.0, 0, 0, 0, 0)
    nothing = [np.nan] * 4
    table["confirmed"], table["confirmed_low"], table["confirmed_high"] = (
        [value, *nothing] for value in (0.7, 0.3, 1.1)
    )
    table["verdict"] = ["confirmed"] + ["unresolved"] * 4
    average = f"layer0.act adds {table['effect'][0]:+.2f} pp"
    own = "on the incumbent, on images unused before"
    said = where_it_helps(table)
    assert said.index(average) < said.index(f"{own}, +0.70 pp [+0.30, +1.10]")
    table["verdict"], table["q_value"] = ["suggestive"] + ["unresolved"] * 4, 0.5  # by the confirmation alone
    said = where_it_helps(table)
    assert "suggested on the incumbent alone" in said
    assert said.index(f"{own}, layer0.act adds +0.70 pp [+0.30, +1.10]") < said.index(average)
    table["effect"] *= -1  # below 0 on average: what was seen is the incumbent's gain
    assert "helps at layer0.act (suggested on the incumbent alone" in where_it_helps(table)


def test_both_activations_are_named() -> None:
    said = where_it_helps(screen(2.0, 0, 0, 0, 0), tested="crelu", reference="silu")
    assert said.startswith("Crelu instead of silu helps at layer0.act")
    assert "other sites are crelu half of the time" in said
    assert "crelu instead of silu" in where_it_helps(screen(0, 0, 0, 0, 0), tested="crelu", reference="silu")


def test_no_strict_order_where_rank_intervals_overlap() -> None:
    near, far = screen(1.0, 1.0, 0, 0, 0), screen(5.0, 1.0, 0, 0, 0)
    assert "rank interval overlaps" in where_it_helps(near)
    assert "overlaps" not in where_it_helps(far)


def test_nothing_resolved_says_what_is_unlikely_and_never_no_effect() -> None:
    said = where_it_helps(screen(0, 0, 0, 0, 0))
    assert said.startswith("No site resolved; effects of reborn instead of the original activation above")
    assert "no effect" not in said


def test_effects_above_the_stated_size_are_rare_under_the_null() -> None:
    exceeded = 0
    for seed in range(60):
        study = simulate_study("sparse", 72, seed=seed)
        table = site_effects(study.plan.design, study.accuracy, block=study.plan.block)
        exceeded += np.abs(study.truth.effects).max() > largest_plausible(table)
    assert exceeded <= 6


def test_harm_and_missing_verdicts_are_said() -> None:
    assert "does harm at layer1.act" in where_it_helps(screen(2.0, -2.0, 0, 0, 0))
    assert "helps at no site" in where_it_helps(screen(0, -2.0, 0, 0, 0))
    table = screen(2.0, 0, 0, 0, 0)
    table["verdict"] = "no verdict"
    assert where_it_helps(table).startswith("No verdict")
    with pytest.raises(ConfigError, match="rank_low"):
        where_it_helps(table.drop(columns="rank_low"))


def test_candidate_sentence_is_unresolved_where_the_interval_holds_zero() -> None:
    rng = np.random.default_rng(0)
    first, second = 0.8 + rng.normal(0, 0.002, 8), 0.79 + rng.normal(0, 0.002, 8)
    assert candidate_sentence(candidate_against_parent(first, second)).startswith(
        "The candidate beats its parent by +"
    )
    assert "is worse than its parent" in candidate_sentence(candidate_against_parent(second, first))
    assert "is unresolved" in candidate_sentence(candidate_against_parent(first, np.roll(first, 1) + 1e-4))


def test_cause_is_said_only_of_sites_that_beat_their_twin_and_the_original() -> None:
    design = control_design(3, 48, seed=0)
    pp = np.where(design, 0.5, -0.5) @ [1.0, 1.0, 0.0] + np.random.default_rng(0).normal(0, 0.2, 48)
    control = control_effects(design, 0.8 + pp / 100, names=["a", "b", "c"])
    effects = pd.DataFrame({"site": ["a", "b", "c"], "verdict": ["confirmed", "unresolved", "confirmed"]})
    said = cause_sentence(control, effects)
    assert "At a (+" in said
    assert "b (" not in said
    assert "c (" not in said
    assert cause_sentence(control.assign(claim=False)) == ""
    assert cause_sentence(None) == ""


def test_pooled_sentence_does_not_call_an_unresolved_level_best() -> None:
    table = pd.DataFrame(
        {
            "option": ["kernel", "kernel", "compression", "compression"],
            "level": [1, 3, "1x1", "3x3"],
            "effect": [-0.1, 0.1, 0.01, -0.01],
            "ci_low": [-0.2, 0.05, -0.1, -0.2],
            "ci_high": [0.0, 0.15, 0.2, 0.1],
            "best": [False, True, True, False],
        }
    )
    said = pooled_sentence(table)
    assert "kernel 3 adds +0.10 pp [+0.05, +0.15]" in said
    assert "compression 1x1 has the largest estimate, not resolved" in said
    assert pooled_sentence(table.iloc[:0]) == ""
