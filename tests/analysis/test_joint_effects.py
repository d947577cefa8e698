"""Joint effects of three sites: seen in the odd part of a foldover's residuals, and allowed for in the intervals."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from reborn_nas.analysis import plan_screen, site_effects, stage_means
from reborn_nas.analysis.effects.aliases import JOINT_LEVEL, allow_for_joint_effects, find_aliases
from reborn_nas.analysis.effects.linear import fit

TRIPLES = [(0, 1, 2), (3, 4, 5), (6, 7, 8)]


def observed(seed: int, strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A screen of 10 sites in 48 runs without any single effect, three triples of `strength` pp."""
    plan = plan_screen(10, 48, seed % 8, kernels=())
    signs = np.where(plan.design, 1, -1)
    joint = sum(signs[:, sites].prod(axis=1) for sites in TRIPLES)
    noise = np.random.default_rng(seed).normal(0, 0.3, 48)
    return plan.design, 0.7 + (strength / 2 * joint + noise) / 100, plan.block


def test_odd_residuals_are_those_of_the_half_differences() -> None:
    """Against least squares on half the difference of each run and its mirror image."""
    design, accuracy, block = observed(3, 0.8)
    found = allow_for_joint_effects(fit(design, accuracy, block=block), design)
    p_value = found.joint_p
    mirrors = [
        (i, j)
        for i in range(48)
        for j in range(i)
        if block[i] != block[j] and (design[i] == ~design[j]).all()
    ]
    pairs: list[tuple[int, int]] = []
    for i, j in mirrors:
        if not {i, j} & {k for pair in pairs for k in pair}:
            pairs.append((i, j))
    assert len(pairs) == 24
    first, second = (np.array(side) for side in zip(*pairs))
    dummies = np.eye(block.max() + 1)[block]
    x = np.where(design, 0.5, -0.5)
    halves = {}
    for sign in (-1, 1):
        matrix = np.hstack([x[first] + sign * x[second], dummies[first] + sign * dummies[second]])
        left = sm.OLS(
            100 * (accuracy[first] + sign * accuracy[second]) / np.sqrt(2), matrix / np.sqrt(2)
        ).fit()
        halves[sign] = (left.ssr, left.df_resid)
    (odd, odd_df), (even, even_df) = halves[-1], halves[1]
    assert odd_df + even_df == 48 - 10 - (block.max() + 1)
    assert p_value == pytest.approx(stats.f.sf(odd / odd_df / (even / even_df), odd_df, even_df))
    assert p_value < JOINT_LEVEL
    assert found.df == odd_df
    assert found.sigma**2 == pytest.approx(odd / odd_df)
    assert found.se == pytest.approx(2 * found.sigma / np.sqrt(48))


def test_intervals_cover_under_triples_and_are_unchanged_without() -> None:
    covered = {0.0: 0.0, 0.8: 0.0}
    told = dict(covered)
    for strength in covered:
        for seed in range(60):
            design, accuracy, block = observed(seed, strength)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                table = site_effects(design, accuracy, block=block)
            covered[strength] += ((table["ci_low"] <= 0) & (table["ci_high"] >= 0)).mean() / 60
            told[strength] += any("joint effects" in line for line in table.attrs["warnings"]) / 60
    assert told[0.8] > 0.8
    assert covered[0.8] > 0.9  # with the variance of all residuals 74 % are
    assert told[0.0] < 0.1
    assert 0.92 < covered[0.0] < 0.98


def test_regular_designs_need_no_allowance() -> None:
    """In a full factorial a joint effect of three cannot look like one site's, so it only adds to the noise."""
    plan = plan_screen(5, 32, kernels=())
    signs = np.where(plan.design, 1, -1)
    accuracy = 0.7 + (signs[:, :3].prod(axis=1) + np.random.default_rng(0).normal(0, 0.1, 32)) / 100
    assert not site_effects(plan.design, accuracy, block=plan.block).attrs["warnings"]


def test_means_of_stages_allow_for_joint_effects_as_single_sites_do() -> None:
    """A stage of one site has that site's interval; without the allowance it was two thirds as wide."""
    design, accuracy, block = observed(3, 0.8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        sites = site_effects(design, accuracy, block=block)
    stages = stage_means(design, accuracy, list(range(10)), block=block)
    assert np.allclose(stages[["ci_low", "ci_high"]], sites[["ci_low", "ci_high"]])


def test_aliases_of_runs_that_are_left_are_those_of_their_least_squares() -> None:
    """Against a pseudoinverse: what a joint effect of two or three sites adds to another site's estimate."""
    plan = plan_screen(5, 32, seed=3, kernels=(), compressions=())
    kept = np.ones(32, dtype=bool)
    kept[np.random.default_rng(0).choice(32, 8, replace=False)] = False
    design, block = plan.design[kept], plan.block[kept]
    signs = np.where(design, 1.0, -1.0)
    weights = np.linalg.pinv(np.hstack([signs / 2, block[:, None] == np.unique(block)]))[:5]
    largest = []
    for many in (2, 3):
        shares = {}
        for chosen in itertools.combinations(range(5), many):
            entering = np.abs(weights @ signs[:, chosen].prod(axis=1)) / 2
            shares |= {(chosen, site): share for site, share in enumerate(entering) if site not in chosen}
        largest.append(max(shares.values()))
    found = find_aliases(design, block)
    assert [found.two, found.three] == pytest.approx(largest, abs=1e-5)
    assert min(largest) > 0.19
    whole = find_aliases(plan.design, plan.block)
    assert [whole.two, whole.three] == [0, 0]
