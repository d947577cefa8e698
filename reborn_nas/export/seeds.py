"""What the trainings of one architecture with several seeds left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reborn_nas.export.timm_model import Trained

__all__ = ["Retrained", "SeedResult", "over_seeds"]


@dataclass(frozen=True)
class SeedResult:
    """One training: right answers on the `n` test images after the last epoch, which alone looked at them."""

    seed: int
    correct: int
    n: int
    epochs: int
    seconds: float
    precision: str
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.correct / self.n


@dataclass(frozen=True)
class Retrained:
    """What the trainings left.

    Args:
        results: one a seed, in the order of the seeds.
        trained: the first seed's network, ready for `export_trained`.
    """

    results: tuple[SeedResult, ...]
    trained: Trained

    @property
    def mean(self) -> float:
        """Mean test accuracy over the seeds, in [0, 1]."""
        return _mean(self.results)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of one training (n − 1 in the denominator); None for a single seed."""
        return _deviation(self.results)

    @property
    def sentence(self) -> str:
        """Mean, deviation, trainings, seeds and images in words."""
        return over_seeds(self.results)


def over_seeds(results: Sequence[SeedResult]) -> str:
    """`93.21% ± 0.34% (mean ± sd of 5 trainings, seeds 0, 1, 2, 3, 4; 10,000 images)`."""
    seeds = ", ".join(str(one.seed) for one in results)
    images = f"{results[0].n:,} images"
    mean, deviation = _mean(results), _deviation(results)
    if deviation is None:
        return f"{mean:.2%} (one training, seed {seeds}; {images})"
    return f"{mean:.2%} ± {deviation:.2%} (mean ± sd of {len(results)} trainings, seeds {seeds}; {images})"


def _mean(results: Sequence[SeedResult]) -> float:
    return math.fsum(one.accuracy for one in results) / len(results)


def _deviation(results: Sequence[SeedResult]) -> float | None:
    if len(results) < 2:
        return None
    mean = _mean(results)
    return math.sqrt(math.fsum((one.accuracy - mean) ** 2 for one in results) / (len(results) - 1))
