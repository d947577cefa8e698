"""Simulated studies with a planted truth: what an analysis must recover, and what it must not find.

A study's truth is the average marginal effect of reborn − original at each site, the other sites being reborn
with p = ½, in percentage points (pp). Public, so that any design or estimator can be put to the test; `plant_problem`
makes the same for samplers: an Optuna objective over a real network's sites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from reborn_nas.analysis.designs.design import ScreenPlan, plan_screen
from reborn_nas.analysis.effects.linear import PP, as_design
from reborn_nas.analysis.simulated.surrogate import PROBLEMS, SITE_TABLES, Surrogate, plant_problem
from reborn_nas.errors import ConfigError, unknown_name

__all__ = [
    "PROBLEMS",
    "SCENARIOS",
    "SITE_TABLES",
    "SimulatedStudy",
    "Surrogate",
    "Truth",
    "plant",
    "plant_problem",
    "simulate_study",
]

FloatArray = npt.NDArray[np.float64]

SPARSE = (0.5, 0.42, 0.35, 0.3, 0.25)
"""Effects of the five planted sites, in pp; all others have none."""


@dataclass(frozen=True)
class Truth:
    """What is planted.

    Args:
        scenario: its name in `SCENARIOS`.
        effects: (n,) average marginal effects in pp, the estimators' target.
        pairs: (k, 2) sites that interact.
        strengths: (k,) change of the pair's first effect when the second becomes reborn, in pp.
        negative_phase: (n,) part of `effects` that the positive twin does not have, in pp.
        sigma: noise of one run, in pp.
        heteroscedastic: noise is Student t₄, scaled to the standard deviation .15 + .5 · share of reborn sites.
        split_sd: standard deviation of what one train/validation split adds to one site's effect, in pp.
        level: accuracy in [0, 1] of a run with every site half reborn.
    """

    scenario: str
    effects: FloatArray
    pairs: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    strengths: FloatArray = field(default_factory=lambda: np.zeros(0))
    negative_phase: FloatArray | None = None
    sigma: float = 0.3
    heteroscedastic: bool = False
    split_sd: float = 0.0
    level: float = 0.7

    @property
    def n_sites(self) -> int:
        """Sites."""
        return len(self.effects)

    def mean(self, design: Any) -> FloatArray:
        """(N,) expected accuracy in [0, 1] of each run of `design` (N, n), whatever its split."""
        x = np.where(as_design(design), 0.5, -0.5)
        pp = x @ self.effects
        if len(self.pairs):
            pp = pp + (x[:, self.pairs[:, 0]] * x[:, self.pairs[:, 1]]) @ self.strengths
        return np.asarray(self.level + pp / PP)

    def run(self, design: Any, *, block: Any = None, seed: int = 0) -> FloatArray:
        """(N,) observed accuracies in [0, 1]; `block` (N,) is the split of each run, one split without."""
        levels = as_design(design)
        rng = np.random.default_rng(np.random.SeedSequence([abs(seed), 11]))
        pp = self._noise(levels, rng)
        if self.split_sd > 0:
            codes = (
                np.zeros(len(levels), dtype=int)
                if block is None
                else np.unique(block, return_inverse=True)[1]
            )
            drawn = rng.normal(0, self.split_sd, size=(int(codes.max()) + 1, self.n_sites))
            pp = pp + (np.where(levels, 0.5, -0.5) * drawn[codes]).sum(axis=1)
        return np.asarray(np.clip(self.mean(levels) + pp / PP, 0.0, 1.0))

    def run_control(self, design: Any, *, seed: int = 0) -> FloatArray:
        """(N,) accuracies where `design` is True for reborn and False for its positive twin."""
        gain = np.zeros(self.n_sites) if self.negative_phase is None else self.negative_phase
        twin = replace(self, effects=gain, pairs=np.zeros((0, 2), dtype=np.int64), strengths=np.zeros(0))
        return twin.run(design, seed=seed)

    def only(self, sites: npt.NDArray[np.int64]) -> Truth:
        """The same truth over some of the sites, the others held; interactions are left out."""
        phase = None if self.negative_phase is None else self.negative_phase[sites]
        empty = np.zeros((0, 2), dtype=np.int64)
        return replace(
            self, effects=self.effects[sites], negative_phase=phase, pairs=empty, strengths=np.zeros(0)
        )

    def _noise(self, levels: npt.NDArray[np.bool_], rng: np.random.Generator) -> FloatArray:
        n_runs = len(levels)
        if not self.heteroscedastic:
            return rng.normal(0, self.sigma, n_runs)
        spread = 0.15 + 0.5 * levels.mean(axis=1)
        return np.asarray(spread * rng.standard_t(4, n_runs) / np.sqrt(2))  # t₄ has variance 2


def _sparse(n: int, rng: np.random.Generator) -> Truth:
    effects = np.zeros(n)
    chosen = rng.permutation(n)[: len(SPARSE)]
    effects[chosen] = SPARSE[: len(chosen)]
    return Truth("sparse", effects, negative_phase=effects.copy())


def _depth(n: int, rng: np.random.Generator) -> Truth:
    effects = 0.1 + 0.25 * np.linspace(-1, 1, n) + rng.normal(0, 0.1, n)
    return Truth("depth", effects, negative_phase=effects.copy())


def _interactions(n: int, rng: np.random.Generator) -> Truth:
    plain = _sparse(n, rng)
    firsts = rng.permutation(n - 1)[:12]
    strengths = rng.choice((-0.3, 0.3), size=len(firsts))
    pairs = np.column_stack([firsts, firsts + 1])
    effects = plain.effects.copy()
    for pair, strength in zip(pairs, strengths, strict=True):
        effects[pair] += strength / 2  # the other site of the pair is reborn half of the time
    return replace(
        plain,
        scenario="interactions",
        effects=effects,
        pairs=pairs,
        strengths=strengths,
        negative_phase=effects.copy(),
    )


def _heteroscedastic(n: int, rng: np.random.Generator) -> Truth:
    return replace(_sparse(n, rng), scenario="heteroscedastic", heteroscedastic=True)


def _null(n: int, rng: np.random.Generator) -> Truth:
    return Truth("null", np.zeros(n), negative_phase=np.zeros(n))


def _split(n: int, rng: np.random.Generator) -> Truth:
    return replace(_sparse(n, rng), scenario="split", split_sd=0.1)


def _capacity(n: int, rng: np.random.Generator) -> Truth:
    return replace(_sparse(n, rng), scenario="capacity", negative_phase=np.zeros(n))


SCENARIOS: dict[str, Callable[[int, np.random.Generator], Truth]] = {
    "sparse": _sparse,
    "depth": _depth,
    "interactions": _interactions,
    "heteroscedastic": _heteroscedastic,
    "null": _null,
    "split": _split,
    "capacity": _capacity,
}
"""sparse: five sites help. depth: .1 + .25 · depth + N(0, .1), the depth from
−1 to 1. interactions: sparse, and 12 neighbour pairs of ±.3 pp.
heteroscedastic: sparse with heavy tails that grow with the reborn count. null: nothing helps. split: sparse,
each train/validation split adding its own .1 pp to each site. capacity: sparse, but the positive twin helps
just as much."""


def plant(scenario: str, n_sites: int = 33, seed: int = 0) -> Truth:
    """A truth of the named scenario; equal seeds plant equal truths."""
    if scenario not in SCENARIOS:
        raise unknown_name("scenario", scenario, SCENARIOS)
    if n_sites < 2:
        raise ConfigError(f"a simulated study has at least 2 sites, not {n_sites}")
    rng = np.random.default_rng(np.random.SeedSequence([abs(seed), sum(map(ord, scenario))]))
    return SCENARIOS[scenario](n_sites, rng)


@dataclass(frozen=True)
class SimulatedStudy:
    """A screen of a planted truth."""

    truth: Truth
    plan: ScreenPlan
    accuracy: FloatArray


def simulate_study(scenario: str, n_runs: int, n_sites: int = 33, seed: int = 0) -> SimulatedStudy:
    """Plan a screen and run it on a planted truth.

    Example:
        >>> study = simulate_study("sparse", n_runs=96, seed=1)
        >>> table = site_effects(study.plan.design, study.accuracy, block=study.plan.block)
    """
    truth = plant(scenario, n_sites, seed)
    plan = plan_screen(n_sites, n_runs, seed, kernels=(), compressions=())
    return SimulatedStudy(truth, plan, truth.run(plan.design, block=plan.block, seed=seed))


CLEAR, VISIBLE = 0.25, 0.1
"""pp; effects that a screen should claim, and whose sign it should at least get right."""


def score(table: pd.DataFrame, truth: Any) -> dict[str, float]:
    """Measures of one study.

    Args:
        table: with effect, ci_low, ci_high, q_value (pp), one row a site in order.
        truth: (n,) planted effects in pp.

    Returns:
        precision5: share of the five largest estimates among the five largest truths; tau: Kendall's τ-b;
        rmse (pp); coverage of the intervals; claims: sites with q ≤ .05; power: share of truths of at
        least .25 pp either way that are claimed with their sign; false_share: share of claims whose truth is 0
        or has the other sign (0 without claims); sign: share of truths of at least .1 pp either way whose
        estimate has their sign. NaN where no site is large enough.
    """
    target = np.asarray(truth, dtype=np.float64)
    effect = table["effect"].to_numpy(dtype=np.float64)
    claimed = table["q_value"].to_numpy(dtype=np.float64) <= 0.05
    top_truth = np.argsort(-target, kind="stable")[:5]
    top_found = np.argsort(-effect, kind="stable")[:5]
    right = np.sign(effect) == np.sign(target)
    claims = int(claimed.sum())
    covered = (table["ci_low"].to_numpy() <= target) & (target <= table["ci_high"].to_numpy())
    tau = stats.kendalltau(effect, target).statistic if np.ptp(target) > 0 else np.nan
    return {
        "precision5": len(set(top_truth) & set(top_found)) / 5,
        "tau": float(tau),
        "rmse": float(np.sqrt(np.mean((effect - target) ** 2))),
        "coverage": float(covered.mean()),
        "claims": float(claims),
        "power": _share(claimed & right, np.abs(target) >= CLEAR - 1e-9),
        "false_share": float((claimed & ~right).sum() / claims) if claims else 0.0,
        "sign": _share(right, np.abs(target) >= VISIBLE - 1e-9),
    }


def _share(hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> float:
    return float(hits[among].mean()) if among.any() else float("nan")
