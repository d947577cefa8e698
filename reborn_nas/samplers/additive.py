"""An Optuna sampler for many almost additive categorical choices: a Bayesian linear model with Thompson sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from reborn_nas.analysis.effects.collapse import pull_in
from reborn_nas.analysis.model.additive import fit_codes
from reborn_nas.analysis.model.constraints import LearnedLimit, best_within, corrected, learn_limits
from reborn_nas.analysis.model.encoding import ABSENT, Space, find_conditions
from reborn_nas.analysis.model.maximise import Budget

__all__ = [
    "AdditiveSampler",
    "TrialRows",
    "label_of",
]

Signature = tuple[tuple[str, int], ...]
"""The categorical parameters of a trial, each with the index of its distribution among those of that name."""


@dataclass
class _Row:
    trial: FrozenTrial
    signature: Signature | None = None
    space: Space | None = None
    codes: Any = None
    constraints: dict[str, float] | None = None


class TrialRows:
    """Distributions, codes and constraints of trials, read only once from each finished trial.

    A row is reused only for the same trial object: storages return a finished trial as one object and never change it;
    if a storage does not, everything is read again. The cache thus never changes a result.
    """

    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}
        self._distributions: dict[str, list[CategoricalDistribution]] = {}
        self._space: Space | None = None

    def __reduce__(self) -> tuple[type[TrialRows], tuple[()]]:
        return TrialRows, ()  # copies and pickles of a sampler start empty

    def search_space(self, trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
        """Every categorical parameter whose choices never change, in the order of the trials: parameters of
        a later trial follow those before them in that trial.
        """
        found: dict[str, int] = {}
        order: list[str] = []
        changed: set[str] = set()
        for signature in dict.fromkeys(self._signature(self._row(past)) for past in trials):
            before = ""
            for name, variant in signature:
                if name not in found:
                    found[name] = variant
                    order.insert(order.index(before) + 1 if before else 0, name)
                elif found[name] != variant:
                    changed.add(name)
                before = name
        return {name: self._distributions[name][found[name]] for name in order if name not in changed}

    def space(self, choices: dict[str, tuple[str, ...]], stages: Any, neighbours: bool) -> Space:
        """The model's space of these labels; the same object for the same labels."""
        kept = self._space
        if kept is None or list(kept.choices.items()) != list(choices.items()) or kept.stages != stages:
            kept = self._space = Space(choices, stages, neighbours)
        return kept

    def codes(self, space: Space, trials: Sequence[FrozenTrial]) -> np.ndarray[Any, Any]:
        """(N, S) codes of the trials in a space returned by `space`."""
        rows = [self._row(past) for past in trials]
        fresh = [row for row in rows if row.space is not space]
        labels = [
            {name: label_of(row.trial.params[name]) for name in space.choices if name in row.trial.params}
            for row in fresh
        ]
        for row, codes in zip(fresh, space.encode(labels), strict=True):
            row.space, row.codes = space, codes
        return np.array([row.codes for row in rows], dtype=np.int64).reshape(len(rows), len(space.names))

    def constraints(self, trial: FrozenTrial) -> dict[str, float]:
        """The trial's constraints; above 0 if it is infeasible."""
        row = self._row(trial)
        if row.constraints is None:
            row.constraints = trial.constraints
        return row.constraints

    def is_feasible(self, trial: FrozenTrial) -> bool:
        """Whether the trial violates no constraint."""
        return all(value <= 0 for value in self.constraints(trial).values())

    def excess(self, trials: Sequence[FrozenTrial]) -> tuple[list[str], np.ndarray[Any, Any]]:
        """Names of k constraints and (N, k) amounts above the limits, NaN where unknown.

        A constant flag of failure is not an amount.
        """
        kept = [self.constraints(past) for past in trials]
        names = sorted({name for one in kept for name in one})
        if not names:
            return [], np.zeros((len(trials), 0))
        table = np.array([[one.get(name, math.nan) for name in names] for one in kept], dtype=np.float64)
        varies = np.fmax.reduce(table, axis=0) > np.fmin.reduce(table, axis=0)
        amount = varies | (table <= 0).any(axis=0)
        return [name for name, is_one in zip(names, amount, strict=True) if is_one], table[:, amount]

    def _row(self, trial: FrozenTrial) -> _Row:
        if not trial.state.is_finished():
            return _Row(trial)
        row = self._rows.get(trial.number)
        if row is None or row.trial is not trial:
            row = self._rows[trial.number] = _Row(trial)
        return row

    def _signature(self, row: _Row) -> Signature:
        if row.signature is None:
            row.signature = tuple(
                (name, self._variant(name, distribution))
                for name, distribution in row.trial.distributions.items()
                if isinstance(distribution, CategoricalDistribution) and len(distribution.choices) > 1
            )
        return row.signature

    def _variant(self, name: str, distribution: CategoricalDistribution) -> int:
        known = self._distributions.setdefault(name, [])
        for index, one in enumerate(known):
            if one is distribution or _same(one, distribution):
                return index
        known.append(distribution)
        return len(known) - 1


def _same(one: CategoricalDistribution, other: CategoricalDistribution) -> bool:
    """Equality, with a fast path for strings: Optuna compares choices one by one, because of NaN."""
    if all(type(choice) is str for choice in one.choices) and one.choices == other.choices:
        return True
    return bool(one == other)


def label_of(value: Any) -> str:
    """The model's label of a choice, which may be a number, a bool or None."""
    return value if isinstance(value, str) else f"{type(value).__name__}:{value!r}"


class AdditiveSampler(BaseSampler):
    """Sampler that maximises a draw from the posterior of an additive model (Thompson sampling).

    In the model each choice at each site adds an effect, the effects of choices and stages are shrunk towards common
    means, neighbours interact, and the noise is estimated (`analysis.additive`). Parameters that are not categorical,
    or that no trial has had yet, are sampled independently; conditional parameters count if they are present. Pruned
    trials count with their last value plus the median later gain of finished ones, collapsed trials as the worst.
    Constraints are also learned, as sums over the sites, and kept. Several objectives are combined with random weights.

    Args:
        seed: seed of the draws.
        n_startup_trials: number of initial random trials.
        stages: parameter → stage, whose sites share information; by default one stage for all.
        neighbours: whether consecutive parameters interact.
        spread: width of the draws relative to the posterior; below 1 exploits more.
        budgets: limits that are known sums over the parameters, in place of learned ones for constraints of the same
            names. If a trial has such a constraint, as a share of the limit, its cost above the sum tightens the limit.
        independent_sampler: for parameters outside of the model; random by default.
        rows: cache of another sampler of the same study, so that each finished trial is read only once.

    Example:
        >>> study = optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed=0))
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        n_startup_trials: int = 8,
        stages: Mapping[str, Any] | None = None,
        neighbours: bool = True,
        spread: float = 0.5,
        budgets: Sequence[Budget] = (),
        independent_sampler: BaseSampler | None = None,
        rows: TrialRows | None = None,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._n_startup_trials = n_startup_trials
        self._stages = None if stages is None else dict(stages)
        self._neighbours = neighbours
        self._spread = spread
        self._budgets = tuple(budgets)
        self._rows = TrialRows() if rows is None else rows
        self._independent = independent_sampler or RandomSampler(seed=None if seed is None else seed % 2**32)

    def reseed_rng(self) -> None:
        """Set a new seed; Optuna calls it in each parallel job."""
        self._rng = np.random.default_rng()
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every categorical parameter of the trials whose choices never change, in the order of the trials."""
        return self._rows.search_space(
            _trials(study, (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))
        )

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The maximiser of one posterior draw; empty while there are too few trials."""
        finished = _trials(study, (TrialState.COMPLETE, TrialState.PRUNED))
        if not search_space or len(finished) < self._n_startup_trials:
            return {}
        choices = {
            name: distribution.choices
            for name, distribution in search_space.items()
            if isinstance(distribution, CategoricalDistribution)
        }
        # the model's labels are strings; a choice may be a number, a bool or None
        space = self._rows.space(
            {name: tuple(label_of(value) for value in values) for name, values in choices.items()},
            self._stages,
            self._neighbours,
        )
        codes = self._rows.codes(space, finished)
        exact, learned, broken = self._limits(space, codes, finished)
        values = self._values(study, finished)
        if exact or learned:  # the limits exclude infeasible trials, which need not count as bad
            values[broken] = np.nan
        running = [past for past in _trials(study, (TrialState.RUNNING,)) if past.number != trial.number]
        pending = self._rows.codes(space, running)
        pending = pending[(pending != ABSENT).any(axis=1)]
        posterior = fit_codes(space, codes, values, pending=pending)
        draw = posterior.sample(self._rng, self._spread)
        found = best_within(space, draw, exact, learned, find_conditions(codes), self._rng)
        chosen = space.decode(found)
        return {
            name: next(value for value in choices[name] if label_of(value) == label)
            for name, label in chosen.items()
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See `independent_sampler`."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _limits(
        self, space: Space, codes: np.ndarray[Any, Any], trials: Sequence[FrozenTrial]
    ) -> tuple[tuple[Budget, ...], tuple[LearnedLimit, ...], np.ndarray[Any, Any]]:
        """The known budgets, the learned limits, and (N,) whether each trial violated a constraint."""
        names, excess = self._rows.excess(trials)
        known = {budget.name for budget in self._budgets}
        unknown = [index for index, name in enumerate(names) if name not in known]
        learned = learn_limits(space, codes, excess[:, unknown])
        exact = tuple(
            corrected(budget, space, codes, excess[:, names.index(budget.name)])
            if budget.name in names
            else budget
            for budget in self._budgets
        )
        return exact, learned, np.asarray((excess > 0).any(axis=1))

    def _values(self, study: Study, trials: Sequence[FrozenTrial]) -> np.ndarray[Any, Any]:
        """(N,) one number per trial, larger is better; failures get the worst observed value."""
        signs = np.array([1.0 if way == StudyDirection.MAXIMIZE else -1.0 for way in study.directions])
        table = np.full((len(trials), len(signs)), np.nan)
        grown = _growth(trials) if len(signs) == 1 else {}
        for row, past in enumerate(trials):
            if past.state == TrialState.COMPLETE and self._rows.is_feasible(past) and past.values is not None:
                table[row] = signs * np.array(past.values)
            elif past.state == TrialState.PRUNED and len(signs) == 1 and self._rows.is_feasible(past):
                last = (
                    past.intermediate_values.get(past.last_step, math.nan)
                    if past.last_step is not None
                    else math.nan
                )
                table[row] = signs * (last + grown.get(past.last_step, 0.0))
        table[~np.isfinite(table)] = np.nan
        if len(signs) > 1:
            low, high = np.nanmin(table, axis=0), np.nanmax(table, axis=0)
            table = (table - low) / np.where(high > low, high - low, 1.0)
        weights = self._rng.dirichlet(np.ones(len(signs))) if len(signs) > 1 else np.ones(1)
        values = pull_in(table @ weights)
        seen = values[np.isfinite(values)]
        return np.where(np.isfinite(values), values, seen.min() if len(seen) else 0.0)


def _growth(trials: Sequence[FrozenTrial]) -> dict[int | None, float]:
    """Step → median gain of finished trials after it, since a value at a rung is not a final value."""
    left: dict[int | None, list[float]] = {}
    for past in trials:
        if past.state == TrialState.COMPLETE and past.values and math.isfinite(past.values[0]):
            for step, value in past.intermediate_values.items():
                left.setdefault(step, []).append(past.values[0] - value)
    return {step: float(np.nanmedian(gains)) for step, gains in left.items() if np.isfinite(gains).any()}


def _trials(study: Study, states: tuple[TrialState, ...]) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states)
