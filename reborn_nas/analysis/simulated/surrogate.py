"""Planted search problems over real site tables: samplers put to the test without a GPU.

A `Surrogate` is an Optuna objective (anything with `suggest_categorical` will do), so that any sampler can be
compared on it; `value` is the truth that no sampler sees.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.model.encoding import Space
from reborn_nas.errors import unknown_name

FloatArray = npt.NDArray[np.float64]

SITE_TABLES: dict[str, tuple[int, ...]] = {
    "convnet8": (1, 2, 2, 2, 1, 2),
    "resnet18": (5, 4, 4, 4),
    "resnet34": (7, 8, 12, 6),
    "resnet50": (11, 12, 18, 8),
    "vgg16": (2, 2, 3, 3, 3, 2),
    "mobilenet_v2": (3, 4, 6, 14, 8),
}
"""Activation sites of each stage, as `reborn-nas sites` finds them."""

CHOICES = ("original", "reborn(k=1)", "reborn(k=3)", "reborn(k=5)", "crelu", "prelu", "silu", "gelu", "mish")
PROBLEMS = ("additive", "sparse", "depth", "interactions", "heteroscedastic", "collapsing")

UNIT = 0.01
"""Accuracy that one standard deviation of random architectures is worth."""

CHANCE = 0.1
"""Accuracy of a training that came to nothing."""


@dataclass(frozen=True)
class Surrogate:
    """An objective with a known truth, in standard deviations (sd) of random architectures.

    Args:
        problem: one of `PROBLEMS`.
        space: the sites, their choices and stages.
        utility: (S, L) what each choice adds at each site.
        pairs: (S − 1, L, L) what neighbouring choices add together.
        noise: standard deviation of one observation, in sd.
        heteroscedastic: t₄ noise that grows with the share of sites that are not original.
        collapses: share of trainings that end at chance, whatever the architecture; the true value is without them.
        conditional: whether the kernel size is a parameter of its own, present only where a site is reborn.
        epochs: length of the learning curve that is reported when the trial can prune; 0 for none.
        seed: of the noise.
    """

    problem: str
    space: Space
    utility: FloatArray
    pairs: FloatArray
    noise: float = 0.5
    heteroscedastic: bool = False
    conditional: bool = False
    epochs: int = 0
    seed: int = 0
    level: float = 0.7
    collapses: float = 0.0
    _calls: list[int] = field(default_factory=lambda: [0], repr=False, compare=False)

    def value(self, assignment: Mapping[str, str]) -> float:
        """True value of an assignment, in sd of random architectures around their mean."""
        return float(self.values(self.space.encode([assignment]))[0])

    def values(self, codes: npt.NDArray[np.int64]) -> FloatArray:
        """(N,) true values of rows of codes."""
        sites = np.arange(codes.shape[1])
        own = self.utility[sites, codes].sum(axis=1)
        return np.asarray(own + self.pairs[sites[:-1], codes[:, :-1], codes[:, 1:]].sum(axis=1))

    @cached_property
    def optimum(self) -> float:
        """The largest true value (exact: dynamic programming along the chain)."""
        score = np.where(self.space.allowed, self.utility, -np.inf)
        best = score[0]
        for site in range(1, len(score)):
            best = (best[:, None] + self.pairs[site - 1]).max(axis=0) + score[site]
        return float(best.max())

    def observe(self, assignment: Mapping[str, str], seed: int) -> float:
        """A noisy accuracy in [0, 1]."""
        rng = np.random.default_rng(np.random.SeedSequence([abs(self.seed), abs(seed), 17]))
        noise = self.noise * rng.standard_normal()
        if self.heteroscedastic:
            share = np.mean([label != CHOICES[0] for label in assignment.values()])
            noise = self.noise * (0.3 + 0.8 * share) * rng.standard_t(4) / np.sqrt(2)
        if self.collapses and rng.random() < self.collapses:
            return CHANCE
        return float(np.clip(self.level + UNIT * (self.value(assignment) + noise), 0, 1))

    def suggest(self, trial: Any) -> dict[str, str]:
        """An assignment from a trial's `suggest_categorical`."""
        assignment = {}
        for name in self.space.names:
            labels = [str(label) for label in self.space.choices[name]]
            if not self.conditional:
                assignment[name] = trial.suggest_categorical(name, labels)
                continue
            plain = [label for label in labels if not label.startswith("reborn(")]
            kind = trial.suggest_categorical(name, [*plain, "reborn"])
            if kind == "reborn":
                kind = f"reborn(k={trial.suggest_categorical(f'{name}.kernel_size', ['1', '3', '5'])})"
            assignment[name] = kind
        return assignment

    def __call__(self, trial: Any) -> float:
        """An Optuna objective: suggest, report a learning curve if there is one, return the accuracy."""
        assignment = self.suggest(trial)
        number = getattr(trial, "number", self._calls[0])
        self._calls[0] += 1
        accuracy = self.observe(assignment, number)
        late = sum(label.startswith("reborn") for label in assignment.values()) / len(assignment)
        for epoch in range(1, self.epochs):
            left = 1 - epoch / self.epochs
            # reborn networks start later: a rung is no final value
            trial.report(accuracy - 0.2 * left**2 - 0.02 * late * left, epoch)
            if trial.should_prune():
                raise _pruned()
        return accuracy


def plant_problem(
    problem: str = "additive",
    *,
    table: str | Sequence[int] = "resnet34",
    choices: Sequence[str] = CHOICES,
    interactions: float = 1.0,
    noise: float = 0.5,
    conditional: bool = False,
    epochs: int = 0,
    seed: int = 0,
) -> Surrogate:
    """A seeded problem; random architectures have mean 0 and standard deviation 1.

    Args:
        problem: additive: every site and choice its own effect, shared in part by choice and stage. sparse:
            few sites matter. depth: a choice's effect grows with depth. interactions: neighbours matter four
            times as much. heteroscedastic: heavy-tailed noise. collapsing: additive, and a twentieth of the trainings
            ends at chance.
        table: a name in `SITE_TABLES`, or sites of each stage.
        interactions: factor on the neighbour terms, whose variance is 1/20 of the whole at 1.
        noise, conditional, epochs, seed: as in `Surrogate`.
    """
    if problem not in PROBLEMS:
        raise unknown_name("problem", problem, PROBLEMS)
    if isinstance(table, str) and table not in SITE_TABLES:
        raise unknown_name("site table", table, SITE_TABLES)
    stages = SITE_TABLES[table] if isinstance(table, str) else tuple(table)
    stage = np.repeat(np.arange(len(stages)), stages)
    sites, labels = len(stage), len(choices)
    rng = np.random.default_rng(np.random.SeedSequence([abs(seed), sum(map(ord, problem))]))
    utility = (
        0.35 * rng.standard_normal(labels)
        + 0.35 * rng.standard_normal((len(stages), labels))[stage]
        + rng.standard_normal((sites, labels))
    )
    if problem == "sparse":
        utility = utility * np.where(rng.permutation(sites) < max(3, sites // 5), 1.0, 0.15)[:, None]
    if problem == "depth":
        utility = utility * 0.6 + np.linspace(-1, 1, sites)[:, None] * rng.standard_normal(labels)
    pairs = rng.standard_normal((max(sites - 1, 0), labels, labels))
    utility -= utility.mean(axis=1, keepdims=True)
    utility /= np.sqrt(utility.var(axis=1).sum())
    pairs *= np.sqrt(interactions * (4.0 if problem == "interactions" else 1.0) / 20 / max(sites - 1, 1))
    names = [f"layer{k}.{i}" for k, count in enumerate(stages) for i in range(count)]
    space = Space(
        {name: tuple(choices) for name in names},
        dict(zip(names, stage.tolist(), strict=True)),
        neighbours=True,
    )
    raw = Surrogate(
        problem,
        space,
        utility,
        pairs,
        noise,
        problem == "heteroscedastic",
        conditional,
        epochs,
        seed,
        collapses=0.05 if problem == "collapsing" else 0.0,
    )
    values = raw.values(rng.integers(0, labels, size=(4000, sites)))
    scale = float(values.std())
    shifted = utility / scale
    shifted[0] -= float(values.mean()) / scale
    return replace(raw, utility=shifted, pairs=pairs / scale)


def _pruned() -> Exception:
    """Optuna's TrialPruned where a stranger's Optuna is already loaded: this room does not import it."""

    optuna = sys.modules.get("optuna")
    return optuna.TrialPruned() if optuna is not None else RuntimeError("pruned")


__all__ = ["CHOICES", "PROBLEMS", "SITE_TABLES", "UNIT", "Surrogate", "plant_problem"]
