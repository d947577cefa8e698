"""Confirmation, control, comparisons, bounds under losses, pooled options and verdicts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from reborn_nas.analysis import (
    best_levels,
    candidate_against_parent,
    confirmation_design,
    confirmation_effects,
    control_design,
    control_effects,
    curvature,
    loss_bounds,
    plan_confirmation,
    plan_control,
    plan_screen,
    pooled_effects,
    pooled_sigma,
    screen_design,
    site_effects,
)
from reborn_nas.analysis.effects.effects import agreed_verdicts
from reborn_nas.analysis.effects.verdicts import decide, holm, said_interval, verdicts
from reborn_nas.errors import ConfigError


def test_confirmation_of_32_runs_is_saturated_to_two_factor_interactions() -> None:
    design = confirmation_design(5, 32, seed=1)
    x = np.where(design, 0.5, -0.5)
    pp = x @ [0.5, 0.3, 0.2, 0, -0.3] + 0.8 * x[:, 0] * x[:, 1] + np.random.default_rng(0).normal(0, 0.2, 32)
    table = confirmation_effects(design, 0.8 + pp / 100, names=list("abcde"))
    pairs = list(itertools.combinations(range(5), 2))
    matrix = np.column_stack([x, *[x[:, i] * x[:, j] for i, j in pairs], np.ones(32)])
    truth = sm.OLS(80 + pp, matrix).fit()
    assert table.attrs["df"] == 16
    assert np.allclose(table["effect"], truth.params[:5])
    assert np.allclose(table[["ci_low", "ci_high"]], truth.conf_int()[:5])
    assert np.allclose(table["q_value"], stats.false_discovery_control(truth.pvalues[:5]))
    first = table.attrs["interactions"][0]
    assert (first["first"], first["second"]) == ("a", "b")
    assert first["effect"] == pytest.approx(truth.params[5])
    assert first["ci_low"] == pytest.approx(truth.conf_int()[5][0])


@pytest.mark.parametrize("effects_of", [confirmation_effects, control_effects])
def test_retest_and_control_cover_where_splits_matter_as_much_as_noise(
    effects_of: Callable[..., Any],
) -> None:
    """Of 95 % intervals at least 93 % cover; with one split in 16 runs it was 70 to 82 %. Without luck 95 %."""
    draw = plan_confirmation if effects_of is confirmation_effects else plan_control
    rng = np.random.default_rng(0)
    for n_sites, luck, least in ((5, 0.3, 0.93), (2, 0.3, 0.93), (5, 0.0, 0.94)):
        covered = []
        for seed in range(200):
            design, block = draw(n_sites, 48, seed)
            x = np.where(design, 0.5, -0.5)
            shifts = rng.normal(0, luck, (block.max() + 1, n_sites))
            pp = (x * shifts[block]).sum(axis=1) + rng.normal(0, 0.3, 48)
            table = effects_of(design, 0.8 + pp / 100, block=block)
            covered.append((table["ci_low"] * table["ci_high"] < 0).mean())
        assert np.mean(covered) > least - 3 * np.sqrt(0.95 * 0.05 / (200 * n_sites)), (n_sites, luck)


def test_confirmation_of_16_runs_has_main_effects_only() -> None:
    table = confirmation_effects(confirmation_design(5, 16), np.random.default_rng(0).uniform(0.7, 0.8, 16))
    assert table.attrs["df"] == 10
    assert table.attrs["interactions"] == []


def test_control_claims_need_48_runs_and_strong_evidence() -> None:
    design = control_design(5, 48, seed=2)
    rng = np.random.default_rng(0)
    pp = np.where(design, 0.5, -0.5) @ [0.6, 0, -0.6, 0, 0] + rng.normal(0, 0.2, 48)
    table = control_effects(design, 0.8 + pp / 100)
    assert list(table["claim"]) == [True, False, False, False, False]
    by_hand = 100 * ((0.8 + pp / 100)[design[:, 0]].mean() - (0.8 + pp / 100)[~design[:, 0]].mean())
    assert table["effect"][0] == pytest.approx(by_hand)
    assert table.attrs["mean"]["effect"] == pytest.approx(table["effect"].mean())
    with pytest.warns(UserWarning, match="fewer than 48"):
        few = control_effects(design[:24], (0.8 + pp / 100)[:24])
    assert not few["claim"].any()


def test_candidate_against_parent_is_welch() -> None:
    rng = np.random.default_rng(0)
    first, second = 0.80 + rng.normal(0, 0.004, 8), 0.79 + rng.normal(0, 0.001, 12)
    found = candidate_against_parent(first, second, n_images=10_000)
    truth = stats.ttest_ind(first * 100, second * 100, equal_var=False)
    interval = truth.confidence_interval()
    assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(truth.pvalue)
    assert found.df == pytest.approx(truth.df)
    assert found.effect == pytest.approx(100 * (first.mean() - second.mean()))
    assert "±0.40 pp" in found.notes[0]
    assert "planned with 8" in candidate_against_parent(first[:3], second).notes[0]
    with pytest.raises(ConfigError, match="at least two finished runs"):
        candidate_against_parent(first[:1], second)
    with pytest.raises(ConfigError, match="infinite values"):
        candidate_against_parent(first * np.inf, second)


def test_equal_accuracies_do_not_divide_by_zero() -> None:
    found = candidate_against_parent(np.full(8, 0.8), np.full(8, 0.8))
    assert (found.effect, found.ci_low, found.ci_high, found.p_value) == (0, 0, 0, 1)


def test_curvature_is_the_sum_of_interactions() -> None:
    design = screen_design(6, 64, seed=0)
    gamma = {(0, 1): 0.8, (2, 4): -0.2, (3, 5): 0.6}

    def mean(levels: np.ndarray) -> np.ndarray:
        x = np.where(levels, 0.5, -0.5)
        return (
            0.7
            + (x @ [0.3, 0.2, 0, 0, 0.1, 0] + sum(g * x[:, i] * x[:, j] for (i, j), g in gamma.items())) / 100
        )

    low, high = np.repeat(mean(np.zeros((1, 6), bool)), 8), np.repeat(mean(np.ones((1, 6), bool)), 8)
    found = curvature(low, high, mean(design))
    assert found.interaction_sum == pytest.approx(1.2)
    assert found.ci_low < 0.3 < found.ci_high


def test_curvature_interval_covers() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        arms = [0.7 + rng.normal(0, 0.003, size) for size in (8, 8, 72)]
        found = curvature(*arms)
        hits += found.ci_low <= 0 <= found.ci_high
    assert 0.92 <= hits / 400 <= 0.98


def test_pooled_sigma_weights_by_degrees_of_freedom() -> None:
    assert pooled_sigma([0.1, 0.3], [0.2, 0.2, 0.2]) == (pytest.approx(100 * np.sqrt(0.02 / 3)), 3)


def test_loss_bounds_are_the_two_fillings() -> None:
    design = screen_design(5, 32, seed=0)
    block = np.arange(32) // 16
    accuracy = 0.7 + 0.01 * block + np.random.default_rng(0).normal(0, 0.003, 32)
    lost = np.zeros(32, dtype=bool)
    lost[[3, 20]] = True
    bounds = loss_bounds(design, np.where(lost, np.nan, accuracy), chance=0.1, block=block)
    for table, fill in (
        (bounds.chance, [0.1, 0.1]),
        (bounds.block_mean, [accuracy[:16][~lost[:16]].mean(), accuracy[16:][~lost[16:]].mean()]),
    ):
        filled = accuracy.copy()
        filled[lost] = fill
        assert np.allclose(table["effect"], site_effects(design, filled, block=block)["effect"])
    assert bounds.lost == 2
    assert set(agreed_verdicts(bounds)) <= {"unresolved", "no verdict", "suggestive", "harmful"}


def test_pooled_effects_recover_and_cover_with_sites_that_differ() -> None:
    rng = np.random.default_rng(0)
    estimates, hits = [], 0
    for seed in range(40):
        plan = plan_screen(20, 96, seed, compressions=("1x1", "3x3"))
        at_site = rng.normal(0.15, 0.2, 20)  # what kernel 3 adds, site by site
        pp = ((plan.kernel == 3) * at_site).sum(axis=1) + rng.normal(0, 0.3, 96)
        table = pooled_effects(plan.design, 0.7 + pp / 100, block=plan.block, kernel=plan.kernel)
        row = table[table["level"] == 3].iloc[0]
        estimates.append(row["effect"])
        hits += row["ci_low"] <= 0.1 <= row["ci_high"]  # 2/3 of .15 above the mean of the three kernels
        assert table["effect"].sum() == pytest.approx(0)
    assert np.mean(estimates) == pytest.approx(0.1, abs=0.02)
    assert hits / 40 >= 0.85
    assert best_levels(table) == {"kernel": table.loc[table["effect"].idxmax(), "level"]}


def test_pooled_effects_without_options_are_empty() -> None:
    design = screen_design(5, 16)
    assert pooled_effects(design, np.full(16, 0.5), kernel=None).empty
    wide = plan_screen(5, 16, compressions=("1x1", "3x3"))
    with pytest.raises(ConfigError, match="cannot estimate pooled effects"):
        pooled_effects(
            wide.design[:8], np.full(8, 0.5), kernel=wide.kernel[:8], compression=wide.compression[:8]
        )


def table_of(site: str, effect: list[float], p: list[float], verdict: str = "suggestive") -> pd.DataFrame:
    """Estimates whose z tests have these p values."""
    table = pd.DataFrame({"site": list(site), "effect": effect, "p_value": p})
    half = np.abs(effect) / stats.norm.isf(np.array(p) / 2) * stats.norm.isf(0.025)
    table["ci_low"], table["ci_high"] = table["effect"] - half, table["effect"] + half
    table["q_value"] = stats.false_discovery_control(p)
    return table.assign(verdict=verdict)


def test_verdicts_combine_screen_and_retest() -> None:
    screened = table_of(
        "abcdefgh", [0.4, 0.4, 0.4, -0.4, 0.1, 0.1, 0.1, 0.4], [1e-4] * 4 + [0.5] * 3 + [1e-4]
    )
    screened.loc[7, "verdict"] = "no verdict"
    #                    confirmed; not seen again; contradicts; alone at .01, above and below; no verdict stays
    retest = table_of("abcefh", [0.2, 0.1, -0.3, 0.3, -0.3, 0.3], [0.015, 0.4, 0.001, 0.0015, 0.0015, 1e-4])
    found = decide(screened, retest)
    assert list(found["verdict"]) == [
        "confirmed", "suggestive", "no verdict", "harmful", "suggestive", "harmful", "unresolved", "no verdict",
    ]  # fmt: skip
    assert list(found["basis"]) == ["screen and retest", "screen", "", "screen", "retest", "retest", "", ""]
    assert list(found["contradicts"]) == [False, False, True, *[False] * 5]
    assert list(verdicts(screened, retest)) == list(found["verdict"])
    assert list(verdicts(screened)) == ["suggestive"] * 3 + ["harmful"] + ["unresolved"] * 3 + ["no verdict"]
    # what would be seen at 5 % alone is not enough for a site that the screen did not find
    weak = table_of("abcefh", [0.2, 0.1, 0.3, 0.3, -0.3, 0.3], [0.015, 0.4, 0.001, 0.005, 0.004, 1e-4])
    assert list(verdicts(screened, weak))[4:6] == ["unresolved", "unresolved"]
    with pytest.raises(ConfigError, match="q_value"):
        verdicts(screened.drop(columns="q_value"))


def test_a_site_that_its_lost_runs_leave_unresolved_stays_so() -> None:
    screened = table_of("ab", [0.4, 0.4], [1e-4, 1e-4])
    screened.loc[0, "verdict"] = "unresolved"
    assert list(verdicts(screened)) == ["unresolved", "suggestive"]


def test_a_verdict_whose_interval_holds_0_is_none() -> None:
    """Four are found, and lost runs leave two: with two of ten, the interval of the weaker one reaches over 0."""
    screened = table_of("abcdefghij", [0.4] * 10, [1e-4, 0.015, 1e-4, 1e-4, *[0.5] * 6])
    assert list(verdicts(screened))[:4] == ["suggestive"] * 4
    screened.loc[2:3, "verdict"] = "no verdict"
    found = decide(screened)
    assert list(found["verdict"])[:4] == ["suggestive", "no verdict", "no verdict", "no verdict"]
    assert found["said_low"][0] > 0 > found["said_low"][1]


def test_where_lost_runs_decide_the_interval_is_that_of_all_readings() -> None:
    screened = table_of("ab", [0.4, 0.4], [1e-4, 1e-4]).assign(lost_low=[-0.1, 0.1], lost_high=[0.3, 0.5])
    screened.loc[0, "verdict"] = "unresolved"
    found = decide(screened)
    assert found["said_low"][0] == -0.1
    assert found["said_high"][0] > 0.4
    assert found["said_low"][1] > 0.1


def test_word_sign_and_interval_never_disagree() -> None:
    rng = np.random.default_rng(0)
    sides = {"confirmed": 1, "suggestive": 1, "harmful": -1, "unresolved": 0}
    seen = set()
    for study in range(300):
        n = int(rng.integers(2, 12))
        p = rng.uniform(0, 1, n) ** rng.integers(1, 9)
        screened = table_of("abcdefghijkl"[:n], list(rng.normal(0, 1, n)), list(p), "suggestive")
        again = rng.permutation(n)[: min(n, 5)]
        names = "".join("abcdefghijkl"[k] for k in again)
        retest = table_of(names, list(rng.normal(0, 1, len(again))), list(rng.uniform(0, 1, len(again)) ** 6))
        found = decide(screened, retest if study % 2 else None)
        for row in found.itertuples():
            side = int(np.sign(row.said_low)) if row.said_low * row.said_high > 0 else 0
            if row.verdict in sides:
                assert side == sides[row.verdict]
                seen.add((row.verdict, row.basis))
            if row.verdict == "confirmed":
                assert row.retest_low > 0
    assert len(seen) == 7


def test_holm_by_hand() -> None:
    p = np.array([0.04, 0.011, 0.2, 0.016, 0.001])  # against .05/2, .05/4, .05/1, .05/3, .05/5: stops at .04
    assert list(holm(p, 0.05)) == [False, True, False, True, True]
    assert list(holm(np.array([0.02, 0.02, 0.02]), 0.05)) == [False] * 3
    assert not len(holm(np.zeros(0), 0.05))


def test_selected_intervals_are_benjamini_and_yekutieli_s_and_the_others_bonferroni_s() -> None:
    screened = table_of("abcde", [0.5, -0.5, 0.1, 0.1, 0.1], [1e-4, 1e-3, 0.4, 0.5, 0.6])
    se = (screened["ci_high"] - screened["effect"]) / stats.norm.isf(0.025)
    low, high = said_interval(screened, np.array([True, True, False, False, False]), 0.04)
    assert (high - screened["effect"]).to_list() == pytest.approx(
        [stats.norm.isf(0.04 * r / 5 / 2) * error for r, error in zip((2, 2, 1, 1, 1), se)]
    )
    assert low + high == pytest.approx(2 * screened["effect"].to_numpy())


@pytest.mark.parametrize("retest", [False, True])
def test_no_effect_gives_a_verdict_in_one_study_of_twenty(retest: bool) -> None:
    """Gaussian summaries of 33 sites and a retest of the five largest; both sides of the limit are held."""
    rng = np.random.default_rng(int(retest))
    studies, false = 600, 0
    for _ in range(studies):
        z = rng.normal(0, 1, 33)
        screened = table_of_z(z)
        again = None
        if retest:
            top = np.argsort(-z)[:5]
            again = table_of_z(rng.normal(0, 1, 5)).assign(site=screened["site"].to_numpy()[top])
        false += bool((verdicts(screened, again) != "unresolved").any())
    assert false / studies <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)
    assert false / studies >= 0.03


def table_of_z(z: np.ndarray) -> pd.DataFrame:
    """Estimates with standard error 1."""
    p = 2 * stats.norm.sf(np.abs(z))
    half = stats.norm.isf(0.025)
    return pd.DataFrame(
        {
            "site": range(len(z)), "effect": z, "ci_low": z - half, "ci_high": z + half, "p_value": p,
            "q_value": stats.false_discovery_control(p), "verdict": "suggestive",
        }
    )  # fmt: skip
