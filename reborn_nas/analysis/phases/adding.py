"""Do the effects add up? Their sum beside the difference that was measured between two whole networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.effects.linear import Fit
from reborn_nas.analysis.effects.shrinkage import Shrunk
from reborn_nas.analysis.phases.compare import Comparison
from reborn_nas.analysis.student import t_quantile

__all__ = ["AddsUp", "Sum", "adds_up", "fitted_sum", "shrunk_sum"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sum:
    """A sum of effects in pp, with its standard error and degrees of freedom."""

    effect: float
    se: float
    df: float

    def plus(self, other: Sum) -> Sum:
        """The sum of two independent ones, with the smaller degrees of freedom."""
        se = float(np.hypot(self.se, other.se))
        return Sum(self.effect + other.effect, se, min(self.df, other.df))

    def shrunk(self) -> Sum:
        """The effect by James and Stein's positive-part factor, for one that was chosen; the error stays."""
        factor = max(0.0, 1 - (self.se / self.effect) ** 2) if self.effect else 0.0
        return Sum(factor * self.effect, self.se, self.df)

    def interval(self, level: float = 0.05) -> tuple[float, float]:
        """The t interval at 1 − `level`."""
        half = t_quantile(level / 2, self.df) * self.se
        return self.effect - half, self.effect + half


@dataclass(frozen=True)
class AddsUp:
    """A sum of effects against a measured difference, in pp.

    Args:
        total: the sum that the screen lets expect.
        measured: what was measured.
        gap, gap_low, gap_high: measured − total with its interval at the level that the budget leaves.
        clear: whether they disagree, which is whether that interval leaves out 0.
    """

    total: Sum
    measured: Comparison
    gap: float
    gap_low: float
    gap_high: float
    clear: bool


def fitted_sum(fitted: Fit, levels: FloatArray, covariates: FloatArray | None = None) -> Sum:
    """What a fit expects of a change of `levels` (n,), such as 1 everywhere, and of the covariates (k,)."""
    weight = np.concatenate([levels, np.zeros(0) if covariates is None else covariates])
    values = np.concatenate([fitted.beta, fitted.extra])[: len(weight)]
    wide = weight.copy()
    if fitted.widening is not None:
        wide[: len(levels)] *= fitted.widening
    cov = fitted.sigma**2 * fitted.inverse[: len(weight), : len(weight)]
    return Sum(float(weight @ values), float(np.sqrt(max(wide @ cov @ wide, 0.0))), float(fitted.df))


def shrunk_sum(posterior: Shrunk, sites: npt.NDArray[np.bool_], df: float, *, draws: int = 4000) -> Sum:
    """The sum over sites that were chosen for their estimates; of shrunk effects, or the choice alone makes it
    large."""
    drawn = posterior.draw(np.random.default_rng(np.random.SeedSequence([7, len(sites)])), draws)
    total = drawn[:, sites].sum(axis=1)
    return Sum(float(posterior.mean[sites].sum()), float(total.std()), df)


def adds_up(total: Sum, measured: Comparison, level: float) -> AddsUp:
    """Welch's comparison of the sum with what was measured; `level` is that of saying that they disagree."""
    parts = np.array([total.se**2, measured.se**2])
    se = float(np.sqrt(parts.sum()))
    gap = measured.effect - total.effect
    if not se > 0 or not measured.noisy:
        return AddsUp(total, measured, gap, gap, gap, False)
    df = float(parts.sum() ** 2 / (parts**2 / [total.df, measured.df]).sum())
    half = t_quantile(level / 2, df) * se
    return AddsUp(total, measured, gap, gap - half, gap + half, abs(gap) > half)
