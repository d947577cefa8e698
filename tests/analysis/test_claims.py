"""What the sentences may and may not say."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reborn_nas.analysis import control_design, control_effects, screen_design, site_effects
from reborn_nas.analysis.effects.verdicts import decide
from reborn_nas.analysis.phases.claims import (
    candidate_sentence,
    cause_sentence,
    failure_sentence,
    kernel_sentence,
    largest_plausible,
    telling_digits,
    trend_sentence,
    where_it_helps,
)
from reborn_nas.analysis.phases.compare import candidate_against_parent
from reborn_nas.analysis.simulated.simulate import simulate_study
from reborn_nas.errors import ConfigError


def screen(*effects: float, noise: float = 0.2, seed: int = 0) -> pd.DataFrame:
    design = screen_design(len(effects), 64, seed=seed)
    pp = np.where(design, 0.5, -0.5) @ np.array(effects) + np.random.default_rng(seed).normal(0, noise, 64)
    return site_effects(design, 0.7 + pp / 100, names=[f"layer{i}.act" for i in range(len(effects))])


def decided(screened: pd.DataFrame, **retested: tuple[float, float]) -> pd.DataFrame:
    """The screen's table with the verdicts that a retest of some sites leaves; site → its estimate and p value."""
    retest = None
    if retested:
        values = [(name.replace("_", "."), value, p) for name, (value, p) in retested.items()]
        retest = pd.DataFrame(values, columns=["site", "effect", "p_value"])
        half = [abs(value) / stats.norm.isf(p / 2) * stats.norm.isf(0.025) for _, value, p in values]
        retest["ci_low"], retest["ci_high"] = retest["effect"] - half, retest["effect"] + half
        screened["confirmed"] = screened["site"].map(dict(zip(retest["site"], retest["effect"])))
    told = decide(screened, retest)
    return screened.assign(**{name: told[name] for name in told.columns})


def test_one_site_is_named_with_the_interval_of_its_verdict() -> None:
    table = screen(2.0, 0, 0, 0, 0)
    said = where_it_helps(table)
    # Benjamini and Yekutieli: one of five selected, 1 − .05/5
    half = (table["ci_high"][0] - table["effect"][0]) * stats.t.isf(0.005, table.attrs["df"])
    half /= stats.t.isf(0.025, table.attrs["df"])
    size = (
        f"{table['effect'][0]:+.2f} pp [{table['effect'][0] - half:+.2f}, {table['effect'][0] + half:+.2f}]"
    )
    assert "helps at layer0.act (suggested by the screen, not confirmed)" in said
    adds = f"layer0.act adds {size}, shrunk {table['shrunk'][0]:+.2f} pp."
    assert f"averaged over networks whose other sites are reborn half of the time, {adds}" in said


def test_the_sentence_prints_what_its_verdict_rests_on() -> None:
    average = "averaged over networks whose other sites are reborn half of the time, layer0.act adds"
    own = "on the candidate network, on images unused before"
    said = where_it_helps(decided(screen(2.0, 0, 0, 0, 0), layer0_act=(0.7, 0.001)))
    assert "helps at layer0.act (confirmed by the retest)" in said
    assert said.index(average) < said.index(f"{own}, +0.70 pp [")
    alone = decided(screen(0, 0, 0, 0, 0), layer1_act=(0.7, 0.001))
    said = where_it_helps(alone)
    assert "helps at layer1.act (suggested on the candidate network alone" in said
    assert f"{own}, layer1.act adds +0.70 pp [+" in said
    assert average not in said


def test_a_screen_and_a_retest_that_contradict_each_other_give_no_verdict() -> None:
    table = decided(screen(2.0, 1.0, 0, 0, 0), layer0_act=(-0.7, 0.001), layer1_act=(0.5, 0.001))
    assert list(table["verdict"][:2]) == ["no verdict", "confirmed"]
    said = where_it_helps(table)
    assert "helps at layer1.act (confirmed by the retest)" in said
    assert "contradict each other, so there is no verdict: layer0.act +2." in said


def test_every_site_with_a_verdict_is_named() -> None:
    said = where_it_helps(screen(*[2.0] * 5))
    assert "helps at layer0.act, layer1.act, layer2.act, layer3.act and layer4.act (suggested" in said
    both = decided(screen(2.0, 2.0, 0, 0, 0), layer0_act=(0.7, 0.001))
    said = where_it_helps(both)
    assert "helps at layer0.act (confirmed by the retest)" in said
    assert "It also helps at layer1.act (suggested by the screen, not confirmed)" in said


def test_each_site_that_is_named_has_its_own_interval() -> None:
    """The largest of many selected estimates misses its truth far more often than the selected do on average."""
    table = screen(2.0, 0, -2.0, 3.0, -3.0)
    said = where_it_helps(table)
    for k, verb in ((0, "adds "), (3, "adds "), (2, ""), (4, "")):
        row = table.iloc[k]
        size = f"{row['effect']:+.2f} pp [{row['said_low']:+.2f}, {row['said_high']:+.2f}]"
        assert f"{row['site']} {verb}{size}" in said
    assert "the largest estimate at layer3.act" in said
    assert "most at layer4.act: layer2.act −" in said.replace("-", "−")
    both = where_it_helps(
        decided(screen(2.0, 3.0, 0, 0, 0), layer0_act=(0.7, 0.001), layer1_act=(0.5, 0.001))
    )
    assert "unused before, layer0.act adds +0.70 pp [" in both
    assert "; layer1.act adds +0.50 pp [" in both


def test_of_many_sites_the_first_of_the_network_have_their_intervals() -> None:
    table = screen(*[2.0] * 8, 5.0, 0, 0, 0)
    said = where_it_helps(table)
    largest = f"the largest estimate at layer8.act, shrunk {table['shrunk'][8]:+.2f} pp"
    assert f"layer5.act and 3 more (suggested by the screen, not confirmed), {largest}" in said
    assert said.count(" adds ") == 6
    assert "layer8.act adds" not in said


def test_both_activations_are_named() -> None:
    said = where_it_helps(screen(2.0, 0, 0, 0, 0), tested="crelu", reference="silu")
    assert said.startswith("Crelu instead of silu helps at layer0.act")
    assert "other sites are crelu half of the time" in said
    assert "crelu instead of silu" in where_it_helps(screen(0, 0, 0, 0, 0), tested="crelu", reference="silu")


def test_no_strict_order_where_rank_intervals_overlap() -> None:
    sites = [0.0] * 10
    near, far = screen(4.0, 4.0, *sites, seed=1), screen(9.0, 4.0, *sites, seed=1)
    assert "rank interval overlaps" in where_it_helps(near)
    assert "overlaps" not in where_it_helps(far)
    assert "overlaps" not in where_it_helps(screen(1.0, 1.0, 0, 0, 0))  # no ranks of five sites


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
    half = (control["ci_high"][0] - control["effect"][0]) * stats.t.isf(0.025 / 3, control.attrs["df"])
    half /= stats.t.isf(0.025, control.attrs["df"])
    assert f"[{control['effect'][0] - half:+.2f}, {control['effect'][0] + half:+.2f}]" in said
    assert cause_sentence(control.assign(claim=False)) == ""
    assert cause_sentence(None) == ""


def test_failures_are_told_by_site() -> None:
    table = screen(0, 0, 0, 0, 0)
    assert failure_sentence(table) == ""
    table.loc[0, ["failed_with", "failed_without", "makes_fail"]] = [9, 1, True]
    assert failure_sentence(table) == (
        "Reborn makes trainings fail: at layer0.act 9 of 32 trainings with it failed, 1 of 32 without."
    )
    table.loc[1, ["failed_with", "failed_without", "fails_without"]] = [0, 12, True]
    assert failure_sentence(table).endswith(
        "Reborn keeps trainings from failing: at layer1.act 0 of 32 trainings with it failed, 12 of 32 without."
    )


def test_the_bound_says_of_which_trainings_and_sites_it_speaks() -> None:
    table = screen(0, 0, 0, 0, 0)
    most = float(re.search(r"above (\S+) pp", where_it_helps(table))[1])  # type: ignore[index]
    assert 0 <= most - largest_plausible(table) < 0.01  # rounded up
    table.attrs["collapsed"] = 3
    table.loc[1, "effect"] = np.nan
    said = where_it_helps(table)
    assert said.startswith("No site resolved; among trainings that converged, effects of reborn instead of")
    assert said.endswith("are unlikely; of layer1.act there is no estimate.")


def test_a_printed_interval_leaves_out_0_where_it_does() -> None:
    assert telling_digits(0.004, 0.3, 2) == 3
    assert telling_digits(-0.3, -0.00004, 2) == 5
    assert telling_digits(-0.3, 0.00004, 2) == 2
    better = candidate_against_parent(np.array([0.7, 0.7002] * 4), np.array([0.6998, 0.7] * 4))
    words = candidate_sentence(replace(better, ci_low=0.001, ci_high=0.039))
    assert "beats its parent by +0.02 pp [+0.001, +0.039]" in words
    near = candidate_sentence(replace(better, effect=-0.001, ci_low=-0.002, ci_high=0.001))
    assert "unresolved: +0.00 pp [+0.00, +0.00]" in near  # no zero below 0


def test_trends_and_kernels_are_named_only_beside_a_site_with_a_verdict() -> None:
    slope = {"effect": -0.4, "ci_low": -0.6, "ci_high": -0.2, "p_value": 0.001}
    assert trend_sentence(slope, named=True).startswith(
        "The effect falls with depth: -0.40 pp [-0.60, -0.20]"
    )
    assert trend_sentence(slope, named=False).startswith("No trend with depth is resolved: -0.40 pp")
    table = pd.DataFrame()
    table.attrs["best"] = [
        {"option": "kernel", "level": 3, "second": 5, "effect": 0.1, "ci_low": 0.02, "ci_high": 0.18},
        {
            "option": "compression",
            "level": "1x1",
            "second": "none",
            "effect": 0.1,
            "ci_low": -0.1,
            "ci_high": 0.3,
        },
    ]
    said = kernel_sentence(table, named=True)
    assert "kernel 3 is best: +0.10 pp [+0.02, +0.18] over kernel 5, the second" in said
    assert "Which compression is best is not resolved: compression 1x1 by" in said
    assert "Which kernel is best is not resolved" in kernel_sentence(table, named=False)
    assert kernel_sentence(pd.DataFrame(), named=True) == ""


def test_a_candidate_without_noise_is_told_without_a_verdict() -> None:
    said = candidate_sentence(candidate_against_parent(np.full(8, 0.8), np.full(8, 0.7)))
    assert "cannot be told (+10.00 pp)" in said
