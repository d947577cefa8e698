"""The table of effects against statsmodels, scipy and hand computation."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from reborn_nas.analysis import (
    depth_slope,
    minimum_detectable_effect,
    option_counts,
    plan_screen,
    screen_design,
    site_effects,
    stage_means,
)
from reborn_nas.analysis.effects import COLUMNS
from reborn_nas.analysis.ranks import ranks
from reborn_nas.analysis.shrinkage import GRID, shrink
from reborn_nas.analysis.simulate import simulate_study
from reborn_nas.errors import ConfigError


def planted(n_runs: int = 72, seed: int = 0) -> tuple[object, np.ndarray, pd.DataFrame]:
    plan = plan_screen(33, n_runs, seed, compressions=("1x1", "3x3", "none"))
    rng = np.random.default_rng(seed)
    effects = np.where(np.arange(33) < 5, 0.4, 0.0)
    pp = np.where(plan.design, 0.5, -0.5) @ effects + rng.normal(0, 0.3, n_runs) + 0.2 * (plan.block % 2)
    return plan, 0.7 + pp / 100, option_counts(kernel=plan.kernel, compression=plan.compression)


def test_estimates_equal_those_of_statsmodels() -> None:
    plan, accuracy, counts = planted()
    table = site_effects(plan.design, accuracy, block=plan.block, covariates=counts)
    matrix = np.column_stack(
        [np.where(plan.design, 0.5, -0.5), counts, pd.get_dummies(plan.block).astype(float)]
    )
    truth = sm.OLS(accuracy * 100, matrix).fit()
    assert np.allclose(table["effect"], truth.params[:33])
    assert np.allclose(table[["ci_low", "ci_high"]], truth.conf_int()[:33])
    assert np.allclose(table["p_value"], truth.pvalues[:33])
    assert np.allclose(table["q_value"], multipletests(truth.pvalues[:33], method="fdr_bh")[1])
    assert table.attrs["df"] == truth.df_resid
    assert table.attrs["sigma"] == pytest.approx(np.sqrt(truth.mse_resid))


def test_the_table_has_the_fixed_columns_and_a_row_a_site() -> None:
    design = screen_design(5, 16)
    accuracy = 0.5 + np.random.default_rng(0).normal(0, 0.003, 16)
    table = site_effects(design, accuracy)
    assert tuple(table.columns) == COLUMNS
    assert list(table["site"]) == [0, 1, 2, 3, 4]
    assert list(site_effects(design, accuracy, names=list("abcde"))["site"]) == list("abcde")
    staged = site_effects(design, accuracy, stages=[0, 0, 1, 1, 2])
    assert list(staged["stage"]) == [0, 0, 1, 1, 2]


def test_effects_are_the_difference_of_means_in_percentage_points() -> None:
    design = screen_design(7, 16, seed=1)
    accuracy = 0.6 + np.random.default_rng(1).normal(0, 0.01, 16)
    table = site_effects(design, accuracy)
    for site in range(7):
        by_hand = 100 * (accuracy[design[:, site]].mean() - accuracy[~design[:, site]].mean())
        assert table["effect"][site] == pytest.approx(by_hand)


def test_verdicts_of_the_screen_alone() -> None:
    design = screen_design(7, 64, seed=1)
    pp = np.where(design, 0.5, -0.5) @ [3.0, -3.0, 0, 0, 0, 0, 0] + np.random.default_rng(5).normal(
        0, 0.3, 64
    )
    table = site_effects(design, 0.7 + pp / 100)
    assert list(table["verdict"]) == ["suggestive", "harmful"] + ["unresolved"] * 5
    assert table["p_top5"].between(0, 1).all()
    assert table["rank_low"][0] == 1
    assert table["rank_high"][1] == 7


def test_fewer_runs_than_one_foldover_give_no_verdict() -> None:
    rng = np.random.default_rng(0)
    design = rng.random((60, 33)) < 0.5
    pp = 5 * np.where(design[:, 0], 0.5, -0.5) + rng.normal(0, 0.1, 60)
    with pytest.warns(UserWarning, match="fewer than one whole foldover"):
        table = site_effects(design, 0.7 + pp / 100)
    assert (table["verdict"] == "no verdict").all()
    assert table["q_value"][0] < 0.05


def test_missing_runs_keep_a_verdict_only_where_both_bounds_agree() -> None:
    design = screen_design(7, 64, seed=1)
    pp = np.where(design, 0.5, -0.5) @ [3.0, -3.0, 0, 0, 0, 0, 0] + np.random.default_rng(5).normal(
        0, 0.3, 64
    )
    accuracy = 0.7 + pp / 100
    accuracy[int(np.flatnonzero(design[:, 0])[0])] = np.nan
    with pytest.warns(UserWarning, match="1 of 64 designed runs are missing"):
        far = site_effects(design, accuracy)  # the lost run at 0: the screen could say anything
    assert far["verdict"][0] == "no verdict"
    assert far["effect"][0] == pytest.approx(3.0, abs=0.2)
    with pytest.warns(UserWarning, match="missing"):
        near = site_effects(design, accuracy, chance=0.68)
    assert near["verdict"][0] == "suggestive"
    assert near.attrs["missing"] == 1


@pytest.mark.parametrize(
    ("design", "accuracy", "message"),
    [
        (np.ones((16, 5)), np.full(16, 0.5), "never change"),
        (screen_design(5, 16), np.full(16, 50.0), "divide percent by 100"),
        (screen_design(5, 16), np.full(15, 0.5), "each of the 16 runs"),
        (screen_design(5, 16), np.full(16, np.nan), "no run has a finite"),
        (screen_design(33, 72)[:30], np.full(30, 0.5), "30 runs cannot estimate 34 parameters"),
        (np.full((16, 5), 2), np.full(16, 0.5), "True where the site is reborn"),
        (np.ones(16), np.full(16, 0.5), "two-dimensional"),
        (np.zeros((0, 0)), np.zeros(0), "two-dimensional"),
    ],
)
def test_bad_input_is_refused(design: np.ndarray, accuracy: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        site_effects(design, accuracy)


def test_sites_that_change_together_are_named() -> None:
    design = np.column_stack([screen_design(4, 16), screen_design(4, 16)[:, 0]])
    with pytest.raises(ConfigError, match="'stem' and 'head' always change together"):
        site_effects(design, np.full(16, 0.5), names=["stem", "b", "c", "d", "head"])


def test_accuracies_without_any_spread_find_nothing() -> None:
    table = site_effects(screen_design(5, 16), np.full(16, 0.5))
    assert (table["verdict"] == "unresolved").all()
    assert np.isfinite(table.drop(columns=["site", "verdict"]).to_numpy(dtype=float)).all()


def test_shrinkage_with_one_component_is_the_normal_posterior() -> None:
    effect, se, g = np.array([0.4, -0.1]), np.array([0.1, 0.2]), 0.3
    posterior = shrink(effect, se, grid=(g,))
    factor = g**2 / (g**2 + se**2)
    assert np.allclose(posterior.mean, factor * effect)
    half = 1.959964 * np.sqrt(factor) * se
    assert np.allclose(posterior.low, factor * effect - half, atol=1e-5)
    assert np.allclose(posterior.high, factor * effect + half, atol=1e-5)


def test_shrinkage_weights_maximise_the_likelihood() -> None:
    study = simulate_study("sparse", 96, seed=3)
    table = site_effects(study.plan.design, study.accuracy)
    effect = table["effect"].to_numpy()
    se = (table["ci_high"] - table["effect"]).to_numpy() / stats.t.ppf(0.975, table.attrs["df"])
    density = stats.norm.pdf(effect[:, None], 0, np.sqrt(se[:, None] ** 2 + np.array(GRID) ** 2))

    def loss(logits: np.ndarray) -> float:
        weights = np.exp(logits - logits.max())
        return -float(np.log(density @ (weights / weights.sum())).sum())

    best = optimize.minimize(loss, np.zeros(len(GRID)), method="BFGS").fun
    mine = shrink(effect, se).weights
    assert -np.log(density @ mine).sum() == pytest.approx(best, abs=1e-3)


def test_shrunk_intervals_are_quantiles_of_the_mixture() -> None:
    effect, se = np.array([0.5, 0.02, -0.03, 0.01, 0.25]), np.full(5, 0.06)
    posterior = shrink(effect, se)
    grid = np.array(GRID)
    rng = np.random.default_rng(0)
    for i in range(5):
        weight = posterior.weights * stats.norm.pdf(effect[i], 0, np.sqrt(se[i] ** 2 + grid**2))
        factor = grid**2 / (grid**2 + se[i] ** 2)
        component = rng.choice(len(grid), size=200_000, p=weight / weight.sum())
        draws = factor[component] * effect[i] + np.sqrt(factor[component]) * se[i] * rng.standard_normal(
            200_000
        )
        assert posterior.mean[i] == pytest.approx(draws.mean(), abs=2e-3)
        assert posterior.low[i] == pytest.approx(np.quantile(draws, 0.025), abs=6e-3)
        assert posterior.high[i] == pytest.approx(np.quantile(draws, 0.975), abs=6e-3)


def test_rank_probability_of_two_sites_is_a_t_tail() -> None:
    effect, cov, df = np.array([0.3, 0.1]), np.array([[0.04, 0.01], [0.01, 0.03]]), 6
    spread = np.sqrt(0.04 + 0.03 - 2 * 0.01)
    found = ranks(effect, cov, df, top=1, draws=200_000)
    assert found.p_top[0] == pytest.approx(stats.t.cdf(0.2 / spread, df), abs=0.004)
    assert found.p_top.sum() == pytest.approx(1)


def test_ranks_are_sure_where_the_effects_are() -> None:
    found = ranks(np.array([3.0, 1.0, 2.0]), 1e-8 * np.eye(3), 50, top=2)
    assert list(found.p_top) == [1, 0, 1]
    assert list(found.low) == [1, 3, 2]
    assert list(found.high) == [1, 3, 2]


def test_p_top5_is_calibrated() -> None:
    told, true = [], []
    for seed in range(60):
        study = simulate_study("depth", 96, seed=seed)
        table = site_effects(study.plan.design, study.accuracy, block=study.plan.block)
        shown = table["p_top5"].to_numpy() > 0.6
        told += list(table["p_top5"][shown])
        true += list(np.isin(np.flatnonzero(shown), np.argsort(-study.truth.effects)[:5]))
    assert np.mean(true) == pytest.approx(np.mean(told), abs=0.08)


def test_stage_means_and_slope_are_contrasts_of_the_fit() -> None:
    plan, accuracy, _ = planted()
    matrix = np.column_stack([np.where(plan.design, 0.5, -0.5), np.ones(72)])
    truth = sm.OLS(accuracy * 100, matrix).fit()
    stages = np.arange(33) // 10
    table = stage_means(plan.design, accuracy, stages)
    for stage in range(4):
        weight = np.append((stages == stage) / (stages == stage).sum(), 0)
        test = truth.t_test(weight)
        assert table["effect"][stage] == pytest.approx(test.effect[0])
        assert [table["ci_low"][stage], table["ci_high"][stage]] == pytest.approx(list(test.conf_int()[0]))
        assert table["p_value"][stage] == pytest.approx(float(test.pvalue))
    slope = depth_slope(plan.design, accuracy)
    assert slope["effect"] == pytest.approx(np.polyfit(np.linspace(0, 1, 33), truth.params[:33], 1)[0])
    with pytest.raises(ConfigError, match="stages"):
        stage_means(plan.design, accuracy, [1, 2])
    with pytest.raises(ConfigError, match="depth"):
        depth_slope(plan.design, accuracy, np.zeros(33))


def test_minimum_detectable_effect_at_the_documented_sizes() -> None:
    for n_runs, expected in ((72, 0.25), (96, 0.21), (144, 0.18)):
        assert minimum_detectable_effect(n_runs, 33, 0.3) == pytest.approx(expected, abs=0.006)
    # one comparison: the textbook (1.960 + 0.8416) · 2σ/√N
    assert minimum_detectable_effect(100, 1, 1.0) == pytest.approx(2 * 2.8016 / 10, abs=1e-4)
    with pytest.raises(ConfigError):
        minimum_detectable_effect(0, 33)
    with pytest.raises(ConfigError):
        minimum_detectable_effect(72, 33, power=1.0)


def test_detectable_effect_has_the_promised_power() -> None:
    n_runs, n_sites, df = 96, 33, 58
    size = minimum_detectable_effect(n_runs, n_sites, 0.3, df=df)
    rng = np.random.default_rng(0)
    se = 0.6 / np.sqrt(n_runs)
    effects = np.where(np.arange(n_sites) < 5, size, 0.0)
    found = effects + rng.normal(0, se, (3000, n_sites))
    told = se * np.sqrt(rng.chisquare(df, (3000, 1)) / df)
    q = stats.false_discovery_control(2 * stats.t.sf(np.abs(found) / told, df), axis=1)
    assert (q[:, :5] <= 0.05).mean() == pytest.approx(0.8, abs=0.04)


def test_analysis_of_300_runs_takes_at_most_two_seconds_of_a_core() -> None:
    study = simulate_study("sparse", 296, seed=0)
    took = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            start = time.process_time()
            site_effects(study.plan.design, study.accuracy, block=study.plan.block)
            took.append(time.process_time() - start)
    assert min(took) < 2.0
