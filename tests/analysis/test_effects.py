"""The table of effects against statsmodels, scipy and hand computation."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from reborn_nas.analysis import (
    depth_slope,
    option_counts,
    plan_screen,
    screen_design,
    site_effects,
    stage_means,
)
from reborn_nas.analysis.designs.blocks import split_allowance
from reborn_nas.analysis.effects.effects import COLUMNS, FURTHER_COLUMNS
from reborn_nas.analysis.effects.shrinkage import Shrunk, ranks, shrink
from reborn_nas.analysis.simulated.simulate import simulate_study
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
    wider = split_allowance(matrix, 33, plan.block)
    assert 1 < wider.max() < 1.06  # two splits, nearly enough
    error = wider * truth.bse[:33]
    half = stats.t.ppf(0.975, truth.df_resid) * error
    assert np.allclose(table["ci_high"] - table["effect"], half)
    assert np.allclose(table["effect"] - table["ci_low"], half)
    p_value = 2 * stats.t.sf(np.abs(truth.params[:33]) / error, truth.df_resid)
    assert np.allclose(table["p_value"], p_value)
    assert np.allclose(table["q_value"], multipletests(p_value, method="fdr_bh")[1])
    assert table.attrs["df"] == truth.df_resid
    assert table.attrs["sigma"] == pytest.approx(np.sqrt(truth.mse_resid))


def test_the_table_has_the_fixed_columns_and_a_row_a_site() -> None:
    design = screen_design(5, 16)
    accuracy = 0.5 + np.random.default_rng(0).normal(0, 0.003, 16)
    table = site_effects(design, accuracy)
    assert tuple(table.columns) == COLUMNS + FURTHER_COLUMNS
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
    assert table[["p_top5", "rank_low", "rank_high"]].isna().all().all()  # of seven sites, five are most


def test_fewer_runs_than_one_foldover_give_no_verdict() -> None:
    rng = np.random.default_rng(0)
    design = rng.random((60, 33)) < 0.5
    pp = 5 * np.where(design[:, 0], 0.5, -0.5) + rng.normal(0, 0.1, 60)
    with pytest.warns(UserWarning, match="fewer than one whole balanced design of 33 sites"):
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
        far = site_effects(design, accuracy)
    assert (
        far["verdict"][0] == "suggestive"
    )  # at 0 it would have collapsed, and effects are among the converged
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
    with pytest.warns(UserWarning, match="noise of a training is unknown"):
        table = site_effects(screen_design(5, 16), np.full(16, 0.5))
    assert (table["verdict"] == "no verdict").all()
    ranks = ["p_top5", "rank_low", "rank_high"]
    assert np.isfinite(table.drop(columns=["site", "verdict", *ranks]).to_numpy(dtype=float)).all()


def posterior_by_hand(
    effect: np.ndarray, se: np.ndarray, df: float, shares: dict[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance by brute force: grids much finer than the product's, the noise's density in full."""
    ratio = np.linspace(0.35, 3.5, 260)
    noise = stats.chi2.pdf(df / ratio**2, df) * 2 * df / ratio**3
    top = 3 * max(np.abs(effect).max(), se.max())
    weights, means, squares = [], [], []
    for tau in np.linspace(0, top, 500):
        variance = (ratio[:, None] * se) ** 2
        total = variance + tau**2
        slab = np.exp(-0.5 * effect**2 / total) / np.sqrt(total)
        spike = np.exp(-0.5 * effect**2 / variance) / np.sqrt(variance)
        factor = tau**2 / total
        for share, prior in shares.items():
            both = share * spike + (1 - share) * slab
            on = (1 - share) * slab / both
            weights.append(prior * noise * both.prod(axis=1))
            means.append(on * factor * effect)
            squares.append(on * ((factor * effect) ** 2 + factor * variance))
    share = np.array(weights).ravel() / np.sum(weights)
    mean = share @ np.concatenate(means)
    return mean, share @ np.concatenate(squares) - mean**2


@pytest.mark.parametrize(
    ("count", "shares"), [(4, {0.0: 1.0}), (12, {0.0: 0.97, 0.5: 0.015, 0.9: 0.015})], ids=["few", "many"]
)
def test_shrinkage_is_the_integral_over_noise_scale_and_share(count: int, shares: dict[float, float]) -> None:
    rng = np.random.default_rng(count)
    effect, se = rng.normal(0, 0.3, count), np.full(count, 0.15)
    mean, variance = posterior_by_hand(effect, se, 9, shares)
    found = shrink(effect, se, 9)
    assert found.mean == pytest.approx(mean, abs=0.006)
    drawn = found.draw(np.random.default_rng(0), 40_000)
    assert drawn.mean(axis=0) == pytest.approx(found.mean, abs=0.006)
    assert drawn.std(axis=0) == pytest.approx(np.sqrt(variance), rel=0.05)
    assert np.quantile(drawn, 0.025, axis=0) == pytest.approx(found.low, abs=0.015)
    assert np.quantile(drawn, 0.975, axis=0) == pytest.approx(found.high, abs=0.015)


@pytest.mark.parametrize("size", [0.6, 6.0, 60.0])
def test_shrinkage_has_no_scale_of_its_own(size: float) -> None:
    effect, se = np.array([1.0, -0.2, 0.1, 0.05, 0.6]), np.full(5, 0.1)
    one, other = shrink(effect, se, 20), shrink(size * effect, size * se, 20)
    assert other.mean == pytest.approx(size * one.mean)
    assert other.low == pytest.approx(size * one.low)
    assert one.mean[0] > 0.95  # ten standard errors are hardly shrunk


def shrunk_studies(sigma: float, spread: float, studies: int, widening: float = 1.0) -> tuple[float, float]:
    """Coverage of the shrunk intervals, and their root mean square error over that of the plain estimates.

    `widening` is an allowance for the luck of splits, of which there is none.
    """
    rng = np.random.default_rng(np.random.SeedSequence([int(1000 * sigma), int(1000 * spread)]))
    n, n_runs, df = 33, 96, 61
    covered, shrunk, plain = [], [], []
    for _ in range(studies):
        truth = rng.normal(0, spread, n)
        estimate = truth + rng.normal(0, 2 * sigma / np.sqrt(n_runs), n)
        se = np.full(n, 2 * sigma / np.sqrt(n_runs) * np.sqrt(rng.chisquare(df) / df))
        found = shrink(estimate, widening * se, df, np.full(n, widening))
        covered.append((found.low <= truth) & (truth <= found.high))
        shrunk.append((found.mean - truth) ** 2)
        plain.append((estimate - truth) ** 2)
    return float(np.mean(covered)), float(np.sqrt(np.mean(shrunk) / np.mean(plain)))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("spread", [0.02, 0.05, 0.1, 3.0])
def test_shrunk_intervals_cover_and_never_err_more_than_the_estimates(sigma: float, spread: float) -> None:
    coverage, error = shrunk_studies(sigma, spread, 100)
    assert coverage >= 0.91
    assert error <= 1.02


def test_a_share_of_the_shrinkage_table() -> None:
    for spread in (0.02, 3.0):
        coverage, error = shrunk_studies(0.3, spread, 25)
        assert coverage >= 0.88
        assert error <= 1.02
    # effects a little smaller than their standard error, where an allowance that is not needed hides them: .89 if it
    # is taken for noise
    assert shrunk_studies(0.3, 0.05, 60, widening=1.13)[0] >= 0.905


def point(effect: list[float], spread: float) -> Shrunk:
    """A posterior of one grid point."""
    centre = np.array([effect])
    nothing = np.zeros_like(centre)
    return Shrunk(centre[0], np.ones(1), nothing, centre, np.full_like(centre, spread), 1.0)


def test_ranks_are_those_of_the_draws() -> None:
    sure = ranks(point(list(range(14, 0, -1)), 1e-6), np.full(14, 0.1))
    assert list(sure.low) == list(sure.high) == list(range(1, 15))
    assert list(sure.p_top) == [1] * 5 + [0] * 9
    # of the fifth and the sixth, apart by .3 with deviations of .2 each, P(the fifth is higher) = Φ(.3 / (.2 √2))
    near = ranks(point([9, 8, 7, 6, 0.3, 0.0, *[-9.0] * 8], 0.2), np.full(14, 0.1), draws=40_000)
    assert near.p_top[4] == pytest.approx(stats.norm.cdf(0.3 / (0.2 * np.sqrt(2))), abs=0.01)
    assert near.p_top.sum() == pytest.approx(5)


def test_no_ranks_where_they_would_not_be_calibrated() -> None:
    assert np.isnan(ranks(point([1.0] * 11, 0.1), np.full(11, 0.1)).p_top).all()  # few sites
    assert np.isnan(ranks(point([1.0] * 14, 0.1), np.full(14, 2.0)).p_top).all()  # effects below their error


def test_p_top5_is_calibrated() -> None:
    told, true = [], []
    for seed in range(60):
        study = simulate_study("depth", 96, seed=seed)
        table = site_effects(study.plan.design, study.accuracy, block=study.plan.block)
        shown = table["p_top5"].fillna(0).to_numpy() > 0.6
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
    with pytest.raises(ConfigError, match="stages"):
        stage_means(plan.design, accuracy, [1, 2])


def test_the_depth_slope_is_a_regression_of_the_estimates_on_their_depth() -> None:
    effect = np.array([0.1, 0.5, 0.2, np.nan, 0.9])
    position = np.linspace(0, 1, 5)
    there = np.isfinite(effect)
    truth = sm.OLS(effect[there], sm.add_constant(position[there])).fit()
    slope = depth_slope(effect)
    assert slope["effect"] == pytest.approx(truth.params[1])
    assert [slope["ci_low"], slope["ci_high"]] == pytest.approx(list(truth.conf_int()[1]))
    assert slope["p_value"] == pytest.approx(truth.pvalues[1])
    with pytest.raises(ConfigError, match="all the same"):
        depth_slope(effect, np.zeros(5))
    with pytest.raises(ConfigError, match="at least three"):
        depth_slope([0.1, np.nan, 0.2])


@pytest.mark.parametrize("n_sites", [5, 10, 33])
def test_site_effects_unrelated_to_depth_make_a_trend_in_one_study_of_twenty(n_sites: int) -> None:
    rng = np.random.default_rng(n_sites)
    studies = [depth_slope(rng.normal(0, np.hypot(0.2, 0.06), n_sites)) for _ in range(1000)]
    told = np.mean([slope["ci_low"] > 0 or slope["ci_high"] < 0 for slope in studies])
    assert told == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 1000))


@pytest.mark.slow
def test_analysis_grows_little_faster_than_the_runs() -> None:
    took = {}
    for runs in (72, 288):
        study = simulate_study("sparse", runs, seed=0)
        times = []
        for _ in range(3):
            start = time.process_time()
            site_effects(study.plan.design, study.accuracy, block=study.plan.block)
            times.append(time.process_time() - start)
        took[runs] = min(times)
    assert took[288] < 8 * took[72]  # 4 times the runs
