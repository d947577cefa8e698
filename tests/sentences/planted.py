"""Planted truths: what a network with reborn blocks at some sites really reaches, and what one training shows."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ORIGINAL, REBORN, TWIN, EXTENDED, NORM = range(5)
"""Codes of what a site has."""

KERNELS = (1, 3, 5)
CHANCE = 0.01


@dataclass(frozen=True)
class Networks:
    """Trainings to be simulated, one row each.

    Args:
        kinds: (N, n) what each site has.
        kernels: (N, n) index into `KERNELS`.
        block: (N,) train/validation split.
    """

    kinds: IntArray
    kernels: IntArray
    block: IntArray


@dataclass(frozen=True)
class Planted:
    """A truth, in percentage points (pp) of accuracy where nothing else is said.

    Args:
        effects: (n,) what reborn instead of the original adds at each site, the other sites half and half.
        joint: (sites, strength): adds ±strength/2, the sign being the product of the sites' signs. Of three sites it
            is an effect of the same size as a site's own.
        base: accuracy in percent with every site half reborn.
        ceiling: effects add up on the logit scale, and are in pp at `base`.
        twin: share of each effect that the positive twin has too.
        kernel: (n, 3) what each kernel adds at a site over the mean of the kernels.
        sigma: standard deviation of one training.
        tails: noise is Student t₃ of that standard deviation.
        drift: accuracy falls by so much from the first to the last training of a phase.
        slow: every fourth training ran on a machine that loses so much.
        unequal: factor on sigma where the first site is reborn.
        split: standard deviation of what a train/validation split adds to one site's effect.
        collapses: trainings of the screen that end at chance, whatever their sites.
        diverges: (n,) probability that a training diverges because this site is reborn.
        needed: (n,) probability that a training comes to nothing because this site is not reborn.
        slope: what the sites' population gains from the first site to the last; 0 where they were drawn alike.
    """

    effects: FloatArray
    joint: Sequence[tuple[tuple[int, ...], float]] = ()
    base: float = 70.0
    ceiling: bool = False
    twin: float = 1.0
    kernel: FloatArray | None = None
    sigma: float = 0.3
    tails: bool = False
    drift: float = 0.0
    slow: float = 0.0
    unequal: float = 1.0
    split: float = 0.0
    collapses: int = 0
    diverges: FloatArray | None = None
    needed: FloatArray | None = None
    slope: float = 0.0

    @property
    def n(self) -> int:
        """Sites."""
        return len(self.effects)

    def mean(self, networks: Networks) -> FloatArray:
        """(N,) expected accuracy in percent of trainings that neither collapse nor diverge."""
        kinds = networks.kinds
        share = np.array([0.0, 1.0, self.twin, self.twin, 0.0])[kinds]
        value = (share - 0.5) @ self.effects
        if self.kernel is not None:
            added = self.kernel[np.arange(self.n), networks.kernels]
            value = value + np.where((kinds == REBORN) | (kinds == TWIN), added, 0.0).sum(axis=1)
        sign = np.where((kinds == REBORN) | (kinds == TWIN), 1.0, -1.0)
        for sites, strength in self.joint:
            value = value + strength / 2 * sign[:, list(sites)].prod(axis=1)
        if not self.ceiling:
            return np.asarray(self.base + value)
        share_right = self.base / 100
        logit = np.log(share_right / (1 - share_right)) + value / (100 * share_right * (1 - share_right))
        return np.asarray(100 / (1 + np.exp(-logit)))

    def expected(self, networks: Networks) -> FloatArray:
        """(N,) the same with those that come to nothing because of their sites, at chance."""
        reborn = networks.kinds == REBORN
        converges = np.ones(len(reborn))
        for rate, there in ((self.diverges, reborn), (self.needed, ~reborn)):
            if rate is not None:
                converges = converges * (1 - there * rate).prod(axis=1)
        return np.asarray(converges * self.mean(networks) + (1 - converges) * 100 * CHANCE)

    @functools.cached_property
    def average(self) -> FloatArray:
        """(n,) what a screen estimates: each site's effect averaged over networks whose other sites are half reborn."""
        if not self.ceiling:
            return self.effects
        return np.array([self.contrast(self._halves, [site], REBORN, ORIGINAL) for site in range(self.n)])

    @functools.cached_property
    def level(self) -> float:
        """Mean accuracy in percent over half-reborn networks."""
        if not self.ceiling:
            return self.base
        rows = self._halves
        return float(
            self.mean(Networks(rows, np.ones_like(rows), np.zeros(len(rows), dtype=np.int64))).mean()
        )

    @property
    def _halves(self) -> IntArray:
        """Half-reborn networks: all of them, or a large balanced sample."""
        if self.n <= 12:
            return np.array(list(itertools.product((ORIGINAL, REBORN), repeat=self.n)))
        rows = np.random.default_rng(0).integers(0, 2, size=(2048, self.n))
        return np.concatenate([rows, 1 - rows])

    def contrast(
        self, rows: IntArray, sites: Sequence[int], high: int, low: int, kernels: IntArray | None = None
    ) -> float:
        """The mean difference over networks `rows` (M, n) when all of `sites` go from `low` to `high`."""
        ends = []
        for level in (low, high):
            kinds = rows.copy()
            kinds[:, list(sites)] = level
            middle = np.ones_like(kinds) if kernels is None else np.broadcast_to(kernels, kinds.shape)
            ends.append(self.mean(Networks(kinds, middle, np.zeros(len(kinds), dtype=np.int64))).mean())
        return float(ends[1] - ends[0])

    def observe(
        self, networks: Networks, rng: np.random.Generator
    ) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """(N,) accuracies in [0, 1] of one training each, and whether it diverged (then at chance)."""
        count = len(networks.kinds)
        reborn = networks.kinds == REBORN
        spread = np.where(reborn[:, 0], self.sigma * self.unequal, self.sigma)
        drawn = rng.standard_t(3, count) / np.sqrt(3) if self.tails else rng.standard_normal(count)
        pp = self.mean(networks) + spread * drawn
        if self.drift:
            pp = pp - self.drift * np.linspace(0, 1, count)
        if self.slow:
            pp = pp - self.slow * (np.arange(count) % 4 == 0)
        if self.split:
            shifts = rng.normal(0, self.split, size=(int(networks.block.max()) + 1, self.n))
            pp = pp + (np.where(reborn, 0.5, -0.5) * shifts[networks.block]).sum(axis=1)
        accuracy = np.clip(pp / 100, 0.0, 1.0)
        diverged = np.zeros(count, dtype=np.bool_)
        if self.diverges is not None:
            diverged = (reborn & (rng.random(reborn.shape) < self.diverges)).any(axis=1)
        if self.needed is not None:
            stuck = (~reborn & (rng.random(reborn.shape) < self.needed)).any(axis=1)
            accuracy = np.where(stuck, CHANCE, accuracy)
        return np.where(diverged, CHANCE, accuracy), diverged
