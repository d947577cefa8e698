"""The network that a study recommends: the maximiser of the posterior mean, never just the best observed trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reborn_nas.analysis.effects.collapse import collapsed, pull_in
from reborn_nas.analysis.model.additive import fit_codes
from reborn_nas.analysis.model.encoding import Space, find_conditions
from reborn_nas.analysis.model.evidence import Mixture, integrate, integrate_codes
from reborn_nas.analysis.model.maximise import Budget, best_assignment
from reborn_nas.analysis.model.scales import LEAST_TRIALS
from reborn_nas.errors import ConfigError

REPEATS = 8
MOST_STEPS = 20
_MANY_TRIALS = 100
"""From here on the bootstrap takes the quicker posterior."""

Excess = Callable[[Mapping[str, str]], Mapping[str, float]]


@dataclass(frozen=True)
class Recommendation:
    """What to build.

    Args:
        choices: parameter → label.
        predicted: expected accuracy in [0, 1]: the posterior mean, less half of `optimism`.
        ci_low, ci_high: its 95 % interval (of the expectation, not of one training), its lower end less `optimism`.
        optimism: by how much the maximiser promises too much in repeated studies of a truth like the fitted one.
        sigma: estimated noise of one training, in the same unit.
        n_trials: trials behind it.
        observed: mean accuracy of the trials that were exactly this, None where there is none.
    """

    choices: Mapping[str, str]
    predicted: float
    ci_low: float
    ci_high: float
    sigma: float
    n_trials: int
    optimism: float = 0.0
    observed: float | None = None


def recommend(
    trials: Sequence[Mapping[str, Any]],
    accuracy: Sequence[float],
    *,
    choices: Mapping[str, Sequence[str]] | None = None,
    stages: Mapping[str, Any] | None = None,
    budgets: Sequence[Budget] = (),
    excess: Excess | None = None,
    neighbours: bool = True,
    chance: float = 0.0,
    failed: Sequence[bool] | None = None,
) -> Recommendation:
    """The assignment with the largest expected accuracy under an additive model of the trials.

    Args:
        trials: assignments, site (or group) → label, in the order of the network.
        accuracy: in [0, 1]; NaN trials are left out, those that collapsed (`collapse.collapsed`) count as the worst
            and no more.
        choices: what each site may take; what the trials took, without.
        stages: site → stage, so that sites of a stage lend to each other.
        budgets: limits on costs that add up over the sites.
        excess: an assignment → by what share it exceeds each budget, by name, where the costs do not quite add up: the
            budgets are tightened until the recommended assignment exceeds none.
        neighbours: whether neighbouring choices interact.
        chance: accuracy of a guess.
        failed: trials that are known to have failed.

    Raises:
        ConfigError: fewer than 8 finished trials, or no assignment within the budgets.
    """
    values = np.asarray(accuracy, dtype=np.float64)
    finished = int(np.isfinite(values).sum())
    if values.shape != (len(trials),) or finished < LEAST_TRIALS:
        raise ConfigError(
            f"a recommendation needs one accuracy a trial and at least {LEAST_TRIALS} finished trials; got "
            f"{finished} of {len(trials)}"
        )
    space = Space(choices_of(trials) if choices is None else choices, stages, neighbours)
    posterior = integrate(space, trials, pull_in(values, collapsed(values, chance, failed)))
    if excess is not None:
        budgets = tightened(posterior, budgets, excess)
    return recommend_from(posterior, trials, values, budgets=budgets)


def tightened(posterior: Mixture, budgets: Sequence[Budget], excess: Excess) -> tuple[Budget, ...]:
    """`budgets` with limits so low that the maximiser of the posterior mean exceeds none by its true cost.

    Raises:
        ConfigError: it takes more than 20 steps.
    """
    space, kept = posterior.space, tuple(budgets)
    utilities, conditions = space.utilities(posterior.mean), find_conditions(posterior.codes)
    for _ in range(MOST_STEPS):
        over = excess(space.decode(best_assignment(space, *utilities, kept, conditions)))
        if all(share <= 0 for share in over.values()):
            return kept
        kept = tuple(
            replace(budget, limit=budget.limit * (1 - max(0.0, over.get(budget.name, 0.0)) - 1e-4))
            if over.get(budget.name, 0.0) > 0
            else budget
            for budget in kept
        )
    raise ConfigError(
        "no recommendation within the limits: what the choices cost does not add up; raise a limit"
    )


def recommend_from(
    posterior: Mixture,
    trials: Sequence[Mapping[str, Any]] = (),
    values: Sequence[float] | np.ndarray[Any, Any] = (),
    *,
    budgets: Sequence[Budget] = (),
) -> Recommendation:
    """`recommend` from a fitted posterior."""
    space = posterior.space
    conditions = find_conditions(posterior.codes)
    codes = best_assignment(space, *space.utilities(posterior.mean), budgets, conditions)
    mean, low, high = posterior.predict_codes(codes[None])
    promised = optimism(posterior, budgets)
    same = (space.encode(trials) == codes).all(axis=1) if len(trials) else np.zeros(0, dtype=np.bool_)
    here = np.asarray(values, dtype=np.float64)[same] if len(trials) else np.zeros(0)
    here = here[np.isfinite(here)]
    return Recommendation(
        choices=space.decode(codes),
        predicted=float(mean[0]) - promised / 2,
        ci_low=float(low[0]) - promised,
        ci_high=float(high[0]),
        sigma=posterior.sigma,
        n_trials=len(posterior.x),
        optimism=promised,
        observed=float(here.mean()) if len(here) else None,
    )


def optimism(posterior: Mixture, budgets: Sequence[Budget] = (), *, repeats: int = REPEATS) -> float:
    """How much the maximiser's predicted value exceeds its true one on average, by parametric bootstrap; ≥ 0.

    The largest of many estimates is too large where the prior does not fit, such as when few sites matter and
    the model thinks that all do. So the study is repeated on the fitted truth: the same trials, fresh noise, the
    same analysis. It corrects too far where the prior does fit, hence the half in `Recommendation.predicted`.
    """
    space, codes = posterior.space, posterior.codes
    truth = space.features(codes) @ posterior.mean
    rng = np.random.default_rng(31)
    conditions = find_conditions(codes)
    excess = []
    for _ in range(repeats):
        values = truth + posterior.sigma * rng.standard_normal(len(truth))
        if len(codes) <= _MANY_TRIALS:
            mixture = integrate_codes(space, codes, values)
            chosen = best_assignment(space, *space.utilities(mixture.mean), budgets, conditions)
            promise = mixture.predict_codes(chosen[None])[0][0]
        else:
            plain = fit_codes(space, codes, values)
            chosen = best_assignment(space, *space.utilities(plain.mean), budgets, conditions)
            promise = plain.predict_codes(chosen[None])[0][0]
        excess.append(promise - float((space.features(chosen[None]) @ posterior.mean)[0]))
    return max(0.0, float(np.mean(excess))) if excess else 0.0


def choices_of(trials: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Every parameter that the trials hold, with the labels that it took."""
    seen: dict[str, dict[str, None]] = {}
    for trial in trials:
        for name, label in trial.items():
            seen.setdefault(name, {})[label] = None
    return {name: tuple(sorted(labels, key=str)) for name, labels in seen.items()}
