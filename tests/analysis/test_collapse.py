"""Collapsed trainings: which they are, what they cost, and which sites cause them."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats

from reborn_nas.analysis import plan_screen, site_effects
from reborn_nas.analysis.effects.budget import CANDIDATE, SITES, spend
from reborn_nas.analysis.effects.collapse import collapsed, converged, failures_by_site
from reborn_nas.analysis.phases.compare import candidate_against_parent

CHANCE = 0.1


def test_the_rule_by_hand() -> None:
    rng = np.random.default_rng(0)
    values = 0.9 + rng.normal(0, 0.003, 96)
    values[:4] = [
        0.1,
        0.5,
        0.6,
        0.875,
    ]  # a third of the way from .9 to .1 is lost at .633; .875 is seven deviations of log(1 − accuracy) off
    assert list(np.flatnonzero(collapsed(values, CHANCE))) == [0, 1, 2, 3]
    values[3] = 0.885  # five
    assert list(np.flatnonzero(collapsed(values, CHANCE))) == [0, 1, 2]
    failed = np.zeros(96, dtype=bool)
    failed[50] = True
    assert list(np.flatnonzero(collapsed(values, CHANCE, failed))) == [0, 1, 2, 50]
    values[4] = np.nan
    assert not collapsed(values, CHANCE)[4]


def test_many_collapses_do_not_hide_one_another() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([0.9 + rng.normal(0, 0.003, 56), 0.1 + rng.normal(0, 0.01, 40)])
    assert list(collapsed(values, CHANCE)) == [False] * 56 + [True] * 40


@pytest.mark.parametrize("spread", [0.0, 0.003, 0.1])
def test_ordinary_runs_do_not_collapse(spread: float) -> None:
    rng = np.random.default_rng(2)
    assert not collapsed(np.clip(0.5 + rng.normal(0, spread, 96), 0, 1), CHANCE).any()
    assert not collapsed(rng.uniform(0, 1, 96), 0.0).any()
    assert not collapsed([0.9, 0.1, 0.9]).any()  # too few to tell


def test_an_arm_that_does_not_learn_is_judged_as_it_is() -> None:
    learns, chance = [0.92, 0.9, 0.93, 0.91, 0.92, 0.94], 0.1
    stuck = [0.11, 0.17, 0.1, 0.19, 0.13, 0.23]
    arms = ["candidate"] * 6 + ["parent"] * 6
    assert collapsed(learns + stuck, chance).sum() == 4
    assert not collapsed(learns + stuck, chance, arms=arms).any()
    unlucky = [0.1, 0.88, 0.9, 0.89, 0.9, 0.91]  # one of six is an accident
    assert list(np.flatnonzero(collapsed(learns + unlucky, chance, arms=arms))) == [6]


def test_collapses_are_left_out_of_both_arms_or_of_none() -> None:
    """Left out of one arm alone, what happens equally often in both made one study in three name a difference."""
    arms = ["candidate"] * 8 + ["parent"] * 8
    one, many = [0.7] * 7 + [0.01], [0.7] * 4 + [0.01] * 4
    values = np.array(one + many) + np.random.default_rng(0).normal(0, 1e-4, 16)
    assert collapsed(values, 0.01).sum() == 5
    assert not collapsed(values, 0.01, arms=arms).any()
    assert collapsed(np.concatenate([values[:8], values[:8]]), 0.01, arms=arms).sum() == 2
    diverged = np.array(arms) == "candidate"
    assert not collapsed(values, 0.01, diverged, arms).any()  # all of an arm diverged: that counts, too
    rng, seen = np.random.default_rng(1), 0
    for _ in range(200):
        values = np.where(rng.random(16) < 0.5, 0.01, 0.7) + rng.normal(0, 0.002, 16)
        values = converged(values, 0.01, arms=arms)
        found = candidate_against_parent(values[:8], values[8:], level=CANDIDATE)
        seen += found.ci_low * found.ci_high > 0
    assert seen <= 20


def test_where_nothing_learns_nothing_has_collapsed() -> None:
    values = 0.1 + np.random.default_rng(3).normal(0, 0.004, 96)
    assert not collapsed(values, CHANCE).any()
    values[:20] = 0.9 + np.random.default_rng(4).normal(0, 0.01, 20)
    assert list(collapsed(values, CHANCE)) == [False] * 20 + [True] * 76


def test_effects_that_saturate_are_no_collapses() -> None:
    """Sites of −16 to +24 pp at 90 % put a quarter of the runs below 70 %, and the better half close to 100 %."""
    plan = plan_screen(5, 32, 0, kernels=(), compressions=())
    logit = np.log(9) + np.where(plan.design, 0.5, -0.5) @ [-1.8, -0.7, 0.4, 1.6, 2.7]
    accuracy = 1 / (1 + np.exp(-logit)) + np.random.default_rng(0).normal(0, 0.001, 32)
    assert (accuracy < 0.7).sum() == 8
    assert not collapsed(accuracy, 0.01).any()


def test_large_effects_are_no_collapses() -> None:
    plan = plan_screen(5, 32, 0, kernels=(), compressions=())
    pp = np.where(plan.design, 0.5, -0.5) @ [-40.0, 10, 5, 0, 0] + np.random.default_rng(0).normal(0, 0.3, 32)
    table = site_effects(plan.design, 0.6 + pp / 100, chance=CHANCE)
    assert table.attrs["collapsed"] == 0
    assert table["verdict"][0] == "harmful"


def test_failures_by_hand() -> None:
    design = np.array([[1, 0], [1, 0], [1, 1], [1, 1], [0, 0], [0, 0], [0, 1], [0, 1]], dtype=bool)
    failed = np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    found = failures_by_site(design, failed)
    # all four of C(8, 4) at the first site, two or more of four at the second
    assert found.p_value == pytest.approx([1 / 70, 53 / 70])
    assert (found.with_level.tolist(), found.without_level.tolist()) == ([4, 2], [0, 2])
    assert list(found.named) == [True, False]  # 1/70 ≤ .05/2
    assert found.size == pytest.approx(2 / 70)  # of either site, 1/70
    assert not found.rescued.any()
    other = failures_by_site(np.tile(~design, (3, 1)), np.tile(failed, 3))
    assert other.p_value == pytest.approx([1, stats.hypergeom.sf(5, 24, 12, 12)])
    assert list(other.rescued) == [True, False]  # 1/C(24, 12) ≤ .005/2
    assert other.found
    few = failures_by_site(design, failed & (np.arange(8) < 3))
    assert few.size == 0  # 1/14 at best
    truth = stats.fisher_exact([[2, 2], [2, 2]], alternative="greater").pvalue
    assert found.p_value[1] == pytest.approx(truth)
    assert not failures_by_site(design, np.zeros(8, dtype=bool)).size


@pytest.mark.parametrize("count", [8, 9, 12, 35])
def test_what_failures_spend_is_what_they_err_by(count: int) -> None:
    """Failures that have nothing to do with the sites: how often one is named, and what is left for the effects."""
    design = plan_screen(33, 96, 0, kernels=(), compressions=()).design
    rng = np.random.default_rng(count)
    found = [failures_by_site(design, rng.permutation(np.arange(96) < count)) for _ in range(3000)]
    named = np.mean([one.found for one in found])
    size = found[0].size
    assert abs(named - size) <= 3 * np.sqrt(size / 3000) + 0.1 * size  # at most one in ten names two
    assert spend(failures=size).screen + size == pytest.approx(SITES)
    assert spend(failures=size, failures_found=True).screen == SITES


EFFECTS = (0.5, 0.42, 0.35, 0.3, 0.25)


@functools.lru_cache(maxsize=16)
def power(sites: int, runs: int, losses: str, studies: int) -> dict[str, float]:
    """Share of the true effects that are found, of the studies that name the failing site, and that name another.

    `losses` is "none", "1" … "3" random collapses, or the share of the first site's reborn runs that fail, "25 %"; the
    effects are at the last sites.
    """
    count = min(len(EFFECTS), sites - 1)
    truth = np.zeros(sites)
    truth[-count:] = EFFECTS[:count]
    found, named, other, covered = [], [], [], []
    for seed in range(studies):
        plan = plan_screen(sites, runs, seed % 40, kernels=(), compressions=())
        rng = np.random.default_rng(np.random.SeedSequence([seed, 3]))  # the same noise for all losses
        accuracy = 0.7 + (np.where(plan.design, 0.5, -0.5) @ truth + rng.normal(0, 0.3, runs)) / 100
        failed = np.zeros(runs, dtype=bool)
        if losses.endswith("%"):
            failed = plan.design[:, 0] & (rng.random(runs) < float(losses[:-1]) / 100)
        elif losses != "none":
            failed[rng.choice(runs, int(losses), replace=False)] = True
        accuracy[failed] = CHANCE
        table = site_effects(plan.design, accuracy, block=plan.block, chance=CHANCE)
        found.append((table["verdict"] == "suggestive").iloc[-count:].mean())
        fails = table["makes_fail"].to_numpy()
        named.append(fails[0])
        other.append(fails[1:].any())
        there = table["effect"].notna()
        held = (table["ci_low"] <= truth) & (truth <= table["ci_high"])
        covered += held[there].to_list()
    return {
        name: float(np.mean(values))
        for name, values in (("found", found), ("named", named), ("other", other), ("covered", covered))
    }


@pytest.mark.filterwarnings("ignore:.*collapsed")
def test_a_share_of_the_table_of_collapses() -> None:
    """One random collapse costs little, and a site that fails in 60 % of its reborn runs is named."""
    whole, one = power(33, 96, "none", 40), power(33, 96, "1", 40)
    assert one["found"] >= whole["found"] - 0.05
    assert one["covered"] >= 0.92
    assert not one["named"]
    often = power(33, 96, "60 %", 20)
    assert often["named"] == 1
    assert often["other"] <= 0.1


STUDIES = 250


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*collapsed")
@pytest.mark.parametrize(("sites", "runs", "cost"), [(33, 96, 0.02), (5, 32, 0.10)])
@pytest.mark.parametrize("losses", ["1", "3"])
def test_random_collapses_cost_little_power(sites: int, runs: int, cost: float, losses: str) -> None:
    whole, lost = power(sites, runs, "none", STUDIES), power(sites, runs, losses, STUDIES)
    assert whole["found"] > 0.8
    assert lost["found"] >= whole["found"] * (1 - cost) - 0.02  # the studies are paired
    assert lost["covered"] >= 0.94 - 0.02
    assert lost["named"] + lost["other"] == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*collapsed")
@pytest.mark.parametrize(
    ("sites", "runs", "losses", "named", "kept"),
    [
        (33, 96, "25 %", 0.8, 0.95),
        (33, 96, "60 %", 0.98, 0.88),
        # whoever knows which runs fail keeps .89 and .63 of the power with eight splits (4,000 studies): few degrees of
        # freedom are left
        (5, 32, "25 %", 0.0, 0.85),
        (5, 32, "60 %", 0.95, 0.58),
    ],
)
def test_a_failing_site_is_named_and_the_others_keep_their_power(
    sites: int, runs: int, losses: str, named: float, kept: float
) -> None:
    whole, lost = power(sites, runs, "none", STUDIES), power(sites, runs, losses, STUDIES)
    assert lost["named"] >= named - 3 * np.sqrt(named * (1 - named) / STUDIES)
    assert lost["other"] <= 0.025 + 0.03
    assert lost["found"] >= whole["found"] * kept - 0.03
    assert lost["covered"] >= 0.92
