"""Confirmation, control, comparisons, bounds under losses, pooled options and verdicts."""

from __future__ import annotations

import itertools

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
    divergence_p_value,
    loss_bounds,
    needs_bounds,
    plan_screen,
    pooled_effects,
    pooled_sigma,
    screen_design,
    site_effects,
    verdicts,
)
from reborn_nas.analysis.losses import agreed_verdicts
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
    with pytest.raises(ConfigError, match=r"in \[0, 1\]"):
        candidate_against_parent(first * 100, second)


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


def test_divergence_p_value_is_the_enumerated_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        design = rng.random((12, 6)) < 0.5
        diverged = np.zeros(12, dtype=bool)
        diverged[rng.permutation(12)[:4]] = True
        counts = design.sum(axis=1)
        sums = np.array([counts[list(chosen)].sum() for chosen in itertools.combinations(range(12), 4)])
        centre = 4 * counts.mean()
        truth = (np.abs(sums - centre) >= abs(counts[diverged].sum() - centre) - 1e-9).mean()
        assert divergence_p_value(design, diverged) == pytest.approx(truth)
    assert divergence_p_value(design, np.zeros(12, dtype=bool)) == 1.0


def test_divergence_that_goes_with_the_level_needs_bounds() -> None:
    rng = np.random.default_rng(1)
    design = rng.random((64, 9)) < 0.5
    counts = design.sum(axis=1)
    accuracy = np.full(64, 0.7)
    most, few = np.zeros(64, dtype=bool), np.zeros(64, dtype=bool)
    most[np.argsort(counts)[-6:]] = True
    few[np.argsort(counts)[[0, -1, 30, 32]]] = True
    assert needs_bounds(design, accuracy, most)
    assert not needs_bounds(design, accuracy, few)
    accuracy[3] = np.nan
    assert needs_bounds(design, accuracy)


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


def test_verdicts_combine_screen_and_confirmation() -> None:
    screen = pd.DataFrame(
        {
            "site": list("abcdefgh"),
            "effect": [0.4, 0.4, 0.4, -0.4, 0.1, 0.1, 0.1, 0.4],
            "q_value": [0.01, 0.01, 0.01, 0.01, 0.5, 0.5, 0.5, 0.01],
            "verdict": ["suggestive"] * 7 + ["no verdict"],
        }
    )
    confirmation = pd.DataFrame(
        {
            "site": list("abcefh"),
            "ci_low": [0.1, -0.1, -0.5, 0.1, -0.5, 0.2],
            "ci_high": [0.3, 0.3, -0.1, 0.3, -0.1, 0.3],
        }
    )
    assert list(verdicts(screen, confirmation)) == [
        "confirmed", "suggestive", "harmful", "harmful", "suggestive", "harmful", "unresolved", "no verdict",
    ]  # fmt: skip
    assert list(verdicts(screen)) == ["suggestive"] * 3 + ["harmful"] + ["unresolved"] * 3 + ["no verdict"]
    with pytest.raises(ConfigError, match="q_value"):
        verdicts(screen.drop(columns="q_value"))
