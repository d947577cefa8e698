"""Assignments of categorical parameters as codes and as features of an additive model.

A conditional parameter is present only under some labels of another one, such as the kernel size of a reborn block.
What it adds belongs to the labels that bring it, or the maximiser of an additive model would never take a label for
the sake of what it makes possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.errors import ConfigError

__all__ = ["ABSENT", "Condition", "Folded", "MOST_PAIR_LABELS", "Space", "find_conditions", "fold"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ABSENT = -1
"""The code of a parameter that a trial does not have."""

MOST_PAIR_LABELS = 12
"""Neighbour weights are kept for at most so many different choices."""


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


BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Condition:
    """Parameter `child` is there where `parent` has one of `labels` (indices), and only there."""

    child: int
    parent: int
    labels: tuple[int, ...]


def find_conditions(codes: IntArray) -> tuple[Condition, ...]:
    """What the trials tell: for each parameter that some of them lack, the nearest one before it that decides it.

    Args:
        codes: (N, S) label indices, `ABSENT` where a parameter is missing. Parents stand before their children.
    """
    found = []
    present = codes != ABSENT
    for child in np.flatnonzero(present.any(axis=0) & ~present.all(axis=0)):
        here = present[:, child]
        for parent in range(int(child) - 1, -1, -1):
            labels = np.unique(codes[here, parent])
            if ABSENT not in labels and not np.isin(codes[~here, parent], labels).any():
                found.append(Condition(int(child), parent, tuple(int(label) for label in labels)))
                break
    return tuple(found)


@dataclass(frozen=True)
class Folded:
    """A problem without conditional parameters, whose solution `unfold` completes.

    Args:
        utility: (S, L); the children's rows are empty but for one label that adds nothing.
        costs: (B, S, L) likewise.
        linked: (S − 1,) whether a parameter and the next one are still neighbours.
        picks: condition → (L,) the child's best label under each label of its parent.
    """

    utility: FloatArray
    costs: FloatArray
    linked: BoolArray
    picks: tuple[tuple[Condition, IntArray], ...]

    def unfold(self, codes: IntArray) -> IntArray:
        """The codes (S,) with the children's labels, `ABSENT` where a child is not there."""
        codes = codes.copy()
        for condition, best in self.picks:  # parents first
            at = codes[condition.parent]
            codes[condition.child] = best[at] if at in condition.labels else ABSENT
        return codes


def fold(
    utility: FloatArray, pairs: FloatArray | None, costs: FloatArray, conditions: Sequence[Condition]
) -> Folded:
    """Add what each child's best label is worth, and costs, to the labels of its parent that bring it.

    Args:
        utility: (S, L) what each label adds, −inf where it is not allowed.
        pairs: (L, L) what labels of neighbours add; between a child and what follows it, nothing.
        costs: (B, S, L) what each label costs.
    """
    utility, costs = utility.copy(), costs.copy()
    linked = np.ones(max(len(utility) - 1, 0), dtype=np.bool_)
    picks = []
    for condition in sorted(conditions, key=lambda one: -one.child):  # a child's own children first
        child, parent, labels = condition.child, condition.parent, list(condition.labels)
        worth = np.repeat(utility[child][None], utility.shape[1], axis=0)  # (parent's label, child's label)
        if pairs is not None and child == parent + 1:
            worth = worth + pairs
        best = worth.argmax(axis=1)
        utility[parent, labels] += worth[labels, best[labels]]
        costs[:, parent, labels] += costs[:, child, best[labels]]
        first = int(np.flatnonzero(np.isfinite(utility[child]))[0])
        utility[child], costs[:, child] = -np.inf, 0.0
        utility[child, first] = 0.0
        linked[max(child - 1, 0) : child + 1] = False
        picks.append((condition, best))
    return Folded(utility, costs, linked, tuple(reversed(picks)))
