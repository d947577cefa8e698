"""The network that a study recommends: the maximiser of the posterior mean, never just the best observed trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reborn_nas.analysis.additive import LEAST_TRIALS, Space
from reborn_nas.analysis.evidence import Mixture, integrate
from reborn_nas.analysis.maximise import Budget, best_assignment
from reborn_nas.errors import ConfigError


@dataclass(frozen=True)
class Recommendation:
    """What to build.

    Args:
        choices: parameter → label.
        predicted: expected accuracy in [0, 1], the posterior mean.
        ci_low, ci_high: its 95 % interval (of the expectation, not of one training).
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
    observed: float | None = None


def recommend(
    trials: Sequence[Mapping[str, Any]],
    accuracy: Sequence[float],
    *,
    choices: Mapping[str, Sequence[str]] | None = None,
    stages: Mapping[str, Any] | None = None,
    budgets: Sequence[Budget] = (),
    neighbours: bool = True,
) -> Recommendation:
    """The assignment with the largest expected accuracy under an additive model of the trials.

    Args:
        trials: assignments, site (or group) → label, in the order of the network.
        accuracy: in [0, 1]; NaN trials are left out.
        choices: what each site may take; what the trials took, without.
        stages: site → stage, so that sites of a stage lend to each other.
        budgets: limits on costs that add up over the sites.
        neighbours: whether neighbouring choices interact.

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
    return recommend_from(integrate(space, trials, values), trials, values, budgets=budgets)


def recommend_from(
    posterior: Mixture,
    trials: Sequence[Mapping[str, Any]] = (),
    values: Sequence[float] | np.ndarray[Any, Any] = (),
    *,
    budgets: Sequence[Budget] = (),
) -> Recommendation:
    """`recommend` from a fitted posterior."""
    space = posterior.space
    codes = best_assignment(space, *space.utilities(posterior.mean), budgets)
    mean, low, high = posterior.predict_codes(codes[None])
    same = (space.encode(trials) == codes).all(axis=1) if len(trials) else np.zeros(0, dtype=np.bool_)
    here = np.asarray(values, dtype=np.float64)[same] if len(trials) else np.zeros(0)
    here = here[np.isfinite(here)]
    return Recommendation(
        choices=space.decode(codes),
        predicted=float(mean[0]),
        ci_low=float(low[0]),
        ci_high=float(high[0]),
        sigma=posterior.sigma,
        n_trials=len(posterior.x),
        observed=float(here.mean()) if len(here) else None,
    )


def choices_of(trials: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Every parameter that the trials hold, with the labels that it took."""
    seen: dict[str, dict[str, None]] = {}
    for trial in trials:
        for name, label in trial.items():
            seen.setdefault(name, {})[label] = None
    return {name: tuple(sorted(labels, key=str)) for name, labels in seen.items()}
