"""A Bayesian linear model of accuracy over the sites' choices: what the additive sampler and the recommender share.

y = μ + Σ_sites (a[choice] + b[stage, choice] + w[site, choice]) + Σ_neighbours g[choice, next choice] + ε. Each
family of weights has a normal prior of its own scale; scales and noise are estimated by maximum marginal
likelihood (MacKay's fixed point), so that choices and stages lend to their sites as far as the trials let them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.conditions import ABSENT
from reborn_nas.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MOST_PAIR_LABELS = 12
"""Neighbour weights are kept for at most so many different choices."""

_LEAST_NOISE, _LEAST_SCALE = 1e-3, 1e-3
_PROBES = 48
_FACTORS = np.array([0.1, 0.3, 0.6, 1.0, 1.6, 2.5])
_FACTOR_PULL = np.array([0.0, 0.0, 1.0, 4.0, 1.0, 0.0]) + 0.05
"""A site's possible relevances, and the imaginary sites that speak for each."""
LEAST_TRIALS = 8
"""With fewer, scales and noise stay at their starting values."""
_MOST_STEPS = 15
_FEW_STEPS, _MANY_TRIALS = 3, 400
"""With many trials the starting scales matter less and a step costs more."""


@dataclass(frozen=True)
class Space:
    """Categorical parameters in the order of the network, with the labels that each may take.

    Args:
        choices: parameter → its labels. A parameter may be absent from a trial (a conditional space).
        stages: parameter → stage; one stage for all without.
        neighbours: whether consecutive parameters interact.
    """

    choices: Mapping[str, Sequence[str]]
    stages: Mapping[str, Any] | None = None
    neighbours: bool = True
    names: tuple[str, ...] = field(init=False)
    labels: tuple[str, ...] = field(init=False)
    allowed: npt.NDArray[np.bool_] = field(init=False)  # (S, L)
    stage: IntArray = field(init=False)  # (S,)

    def __post_init__(self) -> None:
        if not self.choices or any(not options for options in self.choices.values()):
            raise ConfigError("an additive model needs at least one parameter, each with at least one choice")
        names = tuple(self.choices)
        labels = tuple(dict.fromkeys(label for options in self.choices.values() for label in options))
        at = {label: index for index, label in enumerate(labels)}
        allowed = np.zeros((len(names), len(labels)), dtype=np.bool_)
        for row, name in enumerate(names):
            allowed[row, [at[label] for label in self.choices[name]]] = True
        stages = [None if self.stages is None else self.stages.get(name) for name in names]
        order = {stage: index for index, stage in enumerate(dict.fromkeys(stages))}
        for key, value in (
            ("names", names),
            ("labels", labels),
            ("allowed", allowed),
            ("stage", np.array([order[stage] for stage in stages], dtype=np.int64)),
        ):
            object.__setattr__(self, key, value)

    @property
    def has_pairs(self) -> bool:
        """Whether the model has neighbour weights."""
        return self.neighbours and len(self.names) > 1 and 1 < len(self.labels) <= MOST_PAIR_LABELS

    def encode(self, trials: Sequence[Mapping[str, Any]]) -> IntArray:
        """(N, S) label index of each parameter, `ABSENT` where it is missing or not among its labels."""
        at: dict[Any, int] = {label: index for index, label in enumerate(self.labels)}
        codes = np.array([[at.get(trial.get(name), ABSENT) for name in self.names] for trial in trials])
        codes = codes.reshape(len(trials), len(self.names)).astype(np.int64)
        known = self.allowed[np.arange(len(self.names))[None, :], np.maximum(codes, 0)]
        return np.where(known, codes, ABSENT)

    def decode(self, codes: IntArray) -> dict[str, str]:
        """Parameter → label of one row of codes."""
        return {
            name: self.labels[code] for name, code in zip(self.names, codes, strict=True) if code != ABSENT
        }

    def families(self) -> IntArray:
        """Which family of weights each feature belongs to: 0 mean, 1 choice, 2 stage, 3 site, 4 neighbours."""
        sites, labels = self.allowed.shape
        sizes = [1, labels, labels * (int(self.stage.max()) + 1), labels * sites]
        sizes.append(labels * labels if self.has_pairs else 0)
        return np.repeat(np.arange(5), sizes)

    def sites_of_features(self) -> IntArray:
        """The site of each feature; 0 for those that belong to no single site."""
        site = np.zeros(len(self.families()), dtype=np.int64)
        site[self.families() == 3] = np.repeat(np.arange(len(self.names)), len(self.labels))
        return site

    def features(self, codes: IntArray) -> FloatArray:
        """(N, p) design matrix of the codes (N, S)."""
        runs, sites = codes.shape
        labels = len(self.labels)
        present = codes != ABSENT
        rows, columns = np.nonzero(present)
        code = codes[rows, columns]
        site = np.zeros((runs, sites * labels))
        site[rows, columns * labels + code] = 1.0
        shaped = site.reshape(runs, sites, labels)
        n_stages = int(self.stage.max()) + 1
        stage = np.stack([shaped[:, self.stage == k].sum(axis=1) for k in range(n_stages)], axis=1)
        parts = [np.ones((runs, 1)), stage.sum(axis=1), stage.reshape(runs, n_stages * labels), site]
        if self.has_pairs:
            pairs = np.zeros((runs, labels * labels))
            both = present[:, :-1] & present[:, 1:]
            r, s = np.nonzero(both)
            np.add.at(pairs, (r, codes[r, s] * labels + codes[r, s + 1]), 1.0)
            parts.append(pairs)
        return np.concatenate(parts, axis=1)

    def utilities(self, weights: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """What each choice at each site adds (S, L), −inf where not allowed, and each neighbour pair (L, L)."""
        sites, labels = self.allowed.shape
        family = self.families()
        choice = weights[family == 1]
        stage = weights[family == 2].reshape(-1, labels)
        site = weights[family == 3].reshape(sites, labels)
        total = np.where(self.allowed, choice[None, :] + stage[self.stage] + site, -np.inf)
        return total, weights[family == 4].reshape(labels, labels) if self.has_pairs else None


@dataclass(frozen=True)
class Posterior:
    """Weights given the trials: N(`mean`, `precision`⁻¹).

    Args:
        space: what the weights belong to.
        mean: (p,).
        root: (p, p) lower Cholesky factor of the precision.
        sigma: noise of one trial, in the values' unit.
        scales: prior standard deviation of each family (mean, choice, stage, site, neighbours).
        relevance: (S,) factor of each site on the scale of its own weights.
        n_trials: trials behind it.
    """

    space: Space
    mean: FloatArray
    root: FloatArray
    sigma: float
    scales: FloatArray
    relevance: FloatArray
    n_trials: int

    def predict(self, trials: Sequence[Mapping[str, Any]]) -> tuple[FloatArray, FloatArray]:
        """Posterior mean and standard deviation of the expected value of each assignment."""
        return self.predict_codes(self.space.encode(trials))

    def predict_codes(self, codes: IntArray) -> tuple[FloatArray, FloatArray]:
        """`predict` for rows of codes."""
        from scipy.linalg import solve_triangular

        x = self.space.features(codes)
        half = solve_triangular(self.root, x.T, lower=True, check_finite=False)
        return np.asarray(x @ self.mean), np.asarray(np.sqrt((half**2).sum(axis=0)))

    def sample(self, rng: np.random.Generator, spread: float = 1.0) -> FloatArray:
        """One draw of the weights, its distance from the mean scaled by `spread`."""
        from scipy.linalg import solve_triangular

        noise = rng.standard_normal(len(self.mean))
        return np.asarray(
            self.mean + spread * solve_triangular(self.root, noise, lower=True, trans="T", check_finite=False)
        )


def fit_additive(
    space: Space,
    trials: Sequence[Mapping[str, Any]],
    values: Sequence[float] | FloatArray,
    *,
    pending: Sequence[Mapping[str, Any]] = (),
) -> Posterior:
    """The posterior given finished trials.

    Args:
        space: the parameters.
        trials: assignments parameter → label.
        values: (N,) their values, larger is better; non-finite ones are left out.
        pending: assignments under way elsewhere: they narrow the posterior where they will inform it, without
            moving it, so that parallel workers look in different places.
    """
    return fit_codes(space, space.encode(trials), values, pending=space.encode(pending) if pending else None)


def fit_codes(
    space: Space, codes: IntArray, values: Sequence[float] | FloatArray, *, pending: IntArray | None = None
) -> Posterior:
    """`fit_additive` for trials that are encoded already."""
    outcome = np.asarray(values, dtype=np.float64)
    if outcome.shape != (len(codes),):
        raise ConfigError(
            f"values: one number for each of the {len(codes)} trials, not shape {outcome.shape}"
        )
    keep = np.isfinite(outcome)
    outcome = outcome[keep]
    x = space.features(codes[keep])
    centre = float(outcome.mean()) if len(outcome) else 0.0
    unit = float(outcome.std()) if len(outcome) > 1 else 0.0
    unit = unit if unit > 0 else 1.0
    y = (outcome - centre) / unit
    counts = x.astype(np.float32)  # small whole numbers: their products are exact
    gram = (counts.T @ counts).astype(np.float64)
    scales = _estimate(x, y, gram, space)
    prior = scales.prior(space.families(), space.sites_of_features())
    waiting = space.features(pending) if pending is not None and len(pending) else None
    mean, root = _posterior(gram, x.T @ y, prior, scales.noise, waiting)
    weights = unit * mean
    weights[0] += centre
    sigma = unit * float(np.sqrt(scales.noise))
    return Posterior(space, weights, root / unit, sigma, unit * scales.tau, scales.relevance, len(outcome))


def _posterior(
    gram: FloatArray, moment: FloatArray, prior: FloatArray, noise: float, pending: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Posterior mean (p,) and Cholesky factor of the precision, which alone the pending trials enter."""
    from scipy.linalg import cho_solve, cholesky

    precision = gram / noise
    precision[np.diag_indices_from(precision)] += 1 / prior
    root = np.asarray(cholesky(precision, lower=True, check_finite=False))
    mean = np.asarray(cho_solve((root, True), moment / noise, check_finite=False))
    if pending is not None and len(pending):
        root = np.asarray(cholesky(precision + pending.T @ pending / noise, lower=True, check_finite=False))
    return mean, root


@dataclass(frozen=True)
class Scales:
    """Prior standard deviations and noise, in units of the values' standard deviation.

    Args:
        tau: (5,) of each family of weights.
        relevance: (S,) factor on τ of each site's own weights, so that few sites may matter much.
        noise: variance of one trial.
    """

    tau: FloatArray
    relevance: FloatArray
    noise: float

    def prior(self, family: IntArray, site: IntArray) -> FloatArray:
        """(p,) prior variance of each weight."""
        return np.asarray(
            np.where(family == 3, self.tau[family] * self.relevance[site], self.tau[family]) ** 2
        )


def starting_scales(space: Space) -> Scales:
    """Before any trial: half of the variance is noise; the families share the rest, each spread over the sites."""
    sites = len(space.names)
    tau = np.array([3.0, 0.3, 0.3, 0.6, 0.2]) / np.array([1.0, *[np.sqrt(sites)] * 4])
    return Scales(tau, np.ones(sites), 0.5)


def estimate_scales(space: Space, x: FloatArray, y: FloatArray) -> Scales:
    """Scales of standardised values `y` (N,) with features `x` (N, p)."""
    return _estimate(x, y, x.T @ x, space)


def _estimate(x: FloatArray, y: FloatArray, gram: FloatArray, space: Space) -> Scales:
    """Scales and noise, in units of the values' standard deviation.

    MacKay's fixed point of the marginal likelihood: τ² = Σ m²/γ and σ² = RSS/(N − Σγ), where γ counts the
    weights of a family that the trials determine. A site's relevance is such a scale of its own, see `_relevance`.
    """
    found = starting_scales(space)
    if len(y) < LEAST_TRIALS:
        return found
    seen = np.diag(gram) > 0
    used, family, site = x, space.families(), space.sites_of_features()
    if not seen.all():
        used, family, site = x[:, seen], family[seen], site[seen]
    primal = gram[np.ix_(seen, seen)] if len(y) > used.shape[1] else None
    moment = used.T @ y
    for _ in range(_MOST_STEPS if len(y) <= _MANY_TRIALS else _FEW_STEPS):
        prior = found.prior(family, site)
        mean, variance = _moments(used, y, moment, prior, found.noise, primal)
        determined = np.maximum(1 - variance / prior, 0.0)
        residual = float(((y - used @ mean) ** 2).sum())
        updated = max(residual / max(len(y) - float(determined.sum()), 1.0), _LEAST_NOISE)
        settled = abs(np.log(updated / found.noise)) < 1e-2
        found = _rescale(found, family, site, mean**2, determined, updated)
        if settled:
            break
    return found


def _rescale(
    old: Scales, family: IntArray, site: IntArray, square: FloatArray, determined: FloatArray, noise: float
) -> Scales:
    """One step of the fixed point for the families' scales and the sites' relevance."""
    tau, relevance = old.tau.copy(), old.relevance.copy()
    relative = np.where(family == 3, square / relevance[site] ** 2, square)
    for index in range(1, 5):
        mine = family == index
        if mine.any():
            ratio = float(relative[mine].sum()) / max(float(determined[mine].sum()), 1e-6)
            tau[index] = np.sqrt(np.clip(ratio, _LEAST_SCALE**2, 1.0))
    return Scales(tau, _relevance(tau, relevance, family == 3, site, square, determined), noise)


def _relevance(
    tau: FloatArray,
    old: FloatArray,
    own: npt.NDArray[np.bool_],
    site: IntArray,
    square: FloatArray,
    determined: FloatArray,
) -> FloatArray:
    """Each site's factor on the scale of its weights, under a fitted mixture over `_FACTORS`.

    Adaptive shrinkage by site: with γ the determined share of a weight, m/γ is its estimate and τ²r²(1 − γ)/γ
    that estimate's variance, so that the sites' estimates tell how many of them matter, and how much.
    """
    share = np.clip(determined[own], 1e-6, 1 - 1e-9)
    prior = (tau[3] * old[site[own]]) ** 2
    variance, estimate = prior * (1 - share) / share, square[own] / share**2
    total = variance[:, None] + (tau[3] * _FACTORS) ** 2  # (p, M)
    each = -0.5 * (np.log(total) + estimate[:, None] / total)
    logs = np.stack([np.bincount(site[own], column, len(old)) for column in each.T], axis=1)  # (S, M)
    likelihood = np.exp(logs - logs.max(axis=1, keepdims=True))
    weights = _FACTOR_PULL / _FACTOR_PULL.sum()
    for _ in range(30):
        posterior = weights * likelihood
        posterior /= posterior.sum(axis=1, keepdims=True)
        weights = posterior.sum(axis=0) + _FACTOR_PULL
        weights /= weights.sum()
    # the factor that shrinks as the mixture does on average, which its mean square would not
    noise = np.bincount(site[own], variance, len(old)) / np.maximum(np.bincount(site[own], None, len(old)), 1)
    noise = np.where(noise > 0, noise, 1.0)[:, None]
    squares = (tau[3] * _FACTORS) ** 2
    kept = (posterior * squares / (squares + noise)).sum(axis=1, keepdims=True)
    squared = (noise * kept / (1 - kept))[:, 0]
    return np.asarray(np.sqrt(np.maximum(squared / squared.mean(), 1e-4)))


def _moments(
    x: FloatArray, y: FloatArray, moment: FloatArray, prior: FloatArray, noise: float, gram: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Posterior mean and variance of each weight; dual (without `gram`) while there are fewer trials than weights."""
    from scipy.linalg import cho_factor, cho_solve, solve_triangular

    if gram is None:
        weighted = x * prior
        kernel = weighted @ x.T
        kernel[np.diag_indices_from(kernel)] += noise
        solved = cho_solve(cho_factor(kernel, check_finite=False), weighted, check_finite=False)  # (N, p)
        mean = solved.T @ y
        variance = prior - (weighted * solved).sum(axis=0)
    else:
        mean, root = _posterior(gram, moment, prior, noise, None)
        # the variances from draws L⁻ᵀz: the fixed point needs their sums alone, and an inverse costs ten times more
        probes = np.random.default_rng(0).choice((-1.0, 1.0), size=(len(prior), _PROBES))
        drawn = solve_triangular(root, probes, lower=True, trans="T", check_finite=False)
        variance = (drawn**2).mean(axis=1)
    return np.asarray(mean), np.maximum(np.asarray(variance), 0.0)
