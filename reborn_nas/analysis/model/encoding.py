"""Assignments of categorical parameters as codes and as features of an additive model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.errors import ConfigError

__all__ = ["ABSENT", "MOST_PAIR_LABELS", "Space"]

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
