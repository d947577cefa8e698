"""What the additive sampler reads of a study's trials, kept from one suggestion to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from reborn_nas.analysis.model.encoding import Space

__all__ = ["TrialRows", "label_of"]

Signature = tuple[tuple[str, int], ...]
"""The categorical parameters of a trial, each with the number of its distribution among those of that name."""


@dataclass
class _Row:
    trial: FrozenTrial
    signature: Signature | None = None
    space: Space | None = None
    codes: Any = None
    constraints: dict[str, float] | None = None


class TrialRows:
    """Distributions, codes and constraints of trials, read once from each finished one.

    A row is used again only for the very same object: storages hand a finished trial out as one object and never
    change it, and where one does not, everything is read anew. So what is kept changes no result.
    """

    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}
        self._distributions: dict[str, list[CategoricalDistribution]] = {}
        self._space: Space | None = None

    def __reduce__(self) -> tuple[type[TrialRows], tuple[()]]:
        return TrialRows, ()  # copies and pickles of a sampler begin afresh

    def search_space(self, trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
        """Every categorical parameter that a trial has had with the same choices, in the order of the trials: what
        a later trial brings stands behind what came before it there.
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
        """The model's space of these labels; the same object as long as they are the same."""
        kept = self._space
        if kept is None or list(kept.choices.items()) != list(choices.items()) or kept.stages != stages:
            kept = self._space = Space(choices, stages, neighbours)
        return kept

    def codes(self, space: Space, trials: Sequence[FrozenTrial]) -> np.ndarray[Any, Any]:
        """(N, S) codes of the trials in a space that `space` made."""
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
        """The trial's constraints; above 0 where it is infeasible."""
        row = self._row(trial)
        if row.constraints is None:
            row.constraints = trial.constraints
        return row.constraints

    def is_feasible(self, trial: FrozenTrial) -> bool:
        """Whether the trial breaks no constraint."""
        return all(value <= 0 for value in self.constraints(trial).values())

    def excess(self, trials: Sequence[FrozenTrial]) -> tuple[list[str], np.ndarray[Any, Any]]:
        """Names of k constraints and (N, k) amounts above the limits, NaN where unknown.

        A mere flag of failure (always the same) is no amount.
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
    """Equality, quickly where all choices are texts: Optuna's compares them one by one, with care for NaN."""
    if all(type(choice) is str for choice in one.choices) and one.choices == other.choices:
        return True
    return bool(one == other)


def label_of(value: Any) -> str:
    """The model's label of a choice, which may be a number, a bool or None."""
    return value if isinstance(value, str) else f"{type(value).__name__}:{value!r}"
