"""Whole networks compared: candidate against parent, the baseline's curvature, and whether effects add up to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.effects.linear import NO_NOISE, PP, Fit
from reborn_nas.analysis.effects.shrinkage import Shrunk
from reborn_nas.analysis.student import t_quantile, two_sided_p
from reborn_nas.errors import ConfigError
from reborn_nas.metric import spoken

LEAST_SEEDS = 8

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """First arm − second arm, in percentage points (pp).

    Args:
        effect, ci_low, ci_high: difference of the means and its interval (Welch) at `level`.
        p_value: two-sided.
        df: Welch–Satterthwaite degrees of freedom.
        mean_first, mean_second: accuracies in [0, 1].
        sd_first, sd_second: standard deviation between seeds, in pp.
        n_first, n_second: seeds.
        notes: what a reader must know, such as the images' share of the uncertainty.
        level: 1 − the interval's confidence.
        collapses: what became of collapsed trainings, in words; "" without any.
    """

    effect: float
    ci_low: float
    ci_high: float
    p_value: float
    df: float
    mean_first: float
    mean_second: float
    sd_first: float
    sd_second: float
    n_first: int
    n_second: int
    notes: tuple[str, ...] = ()
    level: float = 0.05
    collapses: str = ""

    @property
    def se(self) -> float:
        """Standard error of `effect`, in pp."""
        return float(np.sqrt(self.sd_first**2 / self.n_first + self.sd_second**2 / self.n_second))

    def interval(self, level: float = 0.05) -> tuple[float, float]:
        """Welch's interval at 1 − `level`."""
        half = t_quantile(level / 2, self.df) * self.se
        return self.effect - half, self.effect + half

    @property
    def noisy(self) -> bool:
        """Whether the trainings of an arm differ at all: without noise there is nothing to hold a difference
        against."""
        return max(self.sd_first, self.sd_second) > NO_NOISE


def candidate_against_parent(
    candidate: Any, parent: Any, *, n_images: int | None = None, se: float | None = None, level: float = 0.05
) -> Comparison:
    """Welch's comparison of the seeds' accuracies, on images that no earlier phase used.

    The interval is over seeds, given these images. `n_images` adds a note on how far one accuracy could move
    on other images of the same kind: √(p(1 − p)/n), the binomial error, which both arms share for the most
    part, so that it hardly enters the difference. Of scores that are no accuracies `se` is the standard error of one.

    Raises:
        ConfigError: fewer than two seeds in an arm, or infinite values.
    """
    first, second = _arm(candidate, "candidate"), _arm(parent, "parent")
    notes = []
    if min(len(first), len(second)) < LEAST_SEEDS:
        notes.append(
            f"{min(len(first), len(second))} seeds an arm; the comparison is planned with {LEAST_SEEDS}"
        )
    if n_images:
        share = float(np.concatenate([first, second]).mean())
        spread = PP * (float(np.sqrt(share * (1 - share) / n_images)) if se is None else se)
        kind = "one binomial standard deviation" if se is None else "one standard error over them"
        metric = spoken()
        notes.append(
            f"the interval is over seeds on these {n_images:,} {metric.counted}; on others of the same kind either "
            f"{metric.label} would move by about ±{spread:.{metric.digits}f} {metric.short_unit} ({kind})"
        )
    return welch(first, second, tuple(notes), level)


def welch(
    first: FloatArray, second: FloatArray, notes: tuple[str, ...] = (), level: float = 0.05
) -> Comparison:
    """Difference of two means of accuracies in [0, 1], variances not assumed equal."""
    parts = np.array([first.var(ddof=1) / len(first), second.var(ddof=1) / len(second)]) * PP**2
    se = float(np.sqrt(parts.sum()))
    effect = PP * float(first.mean() - second.mean())
    if se > 0:
        df = float(parts.sum() ** 2 / (parts**2 / [len(first) - 1, len(second) - 1]).sum())
        p_value = float(two_sided_p(effect, se, df))
    else:
        df = float(len(first) + len(second) - 2)
        p_value = float(effect == 0)
    half = t_quantile(level / 2, df) * se
    return Comparison(
        effect=effect,
        ci_low=effect - half,
        ci_high=effect + half,
        p_value=p_value,
        df=df,
        mean_first=float(first.mean()),
        mean_second=float(second.mean()),
        sd_first=PP * float(first.std(ddof=1)),
        sd_second=PP * float(second.std(ddof=1)),
        n_first=len(first),
        n_second=len(second),
        notes=notes,
        level=level,
    )


@dataclass(frozen=True)
class Curvature:
    """How far the effects are from adding up, in pp.

    Args:
        effect, ci_low, ci_high: mean of the two endpoints − mean of the screen.
        p_value: two-sided; small means that interactions matter.
        interaction_sum: 4 · effect, the sum over all pairs of sites of how much one site's effect changes when
            the other becomes reborn.
    """

    effect: float
    ci_low: float
    ci_high: float
    p_value: float
    interaction_sum: float


def curvature(
    parent: Any,
    all_reborn: Any,
    screen: Any,
    *,
    sigma: float | None = None,
    tilt: float = 0.0,
    tilt_se: float = 0.0,
) -> Curvature:
    """Mean of the endpoints against the mean of the screen.

    With y = μ + Σβᵢxᵢ + Σγᵢⱼxᵢxⱼ and xᵢ = ±½ the endpoints' mean is μ + ¼Σγᵢⱼ and the screen's is μ.

    Args:
        parent, all_reborn: accuracies of the baseline's seeds, in [0, 1].
        screen: accuracies of the screen's runs; NaN runs are left out.
        sigma: one run's standard deviation in the screen in pp, as fitted; its runs' spread without (which
            holds the effects too, so the interval is wider).
        tilt, tilt_se: what the screen's mean has too much because some sites are reborn in more than half of its runs,
            as in a screen that lost runs; in pp, with its standard error (`linear.tilt`).
    """
    low, high = _arm(parent, "parent"), _arm(all_reborn, "all_reborn")
    runs = _arm(screen, "screen")
    effect = PP * float((low.mean() + high.mean()) / 2 - runs.mean()) + tilt
    one_run = PP * float(runs.std(ddof=1)) if sigma is None else sigma
    parts = np.array(
        [
            PP**2 * low.var(ddof=1) / len(low) / 4,
            PP**2 * high.var(ddof=1) / len(high) / 4,
            one_run**2 / len(runs) + tilt_se**2,
        ]
    )
    se = float(np.sqrt(parts.sum()))
    df = (
        float(parts.sum() ** 2 / (parts**2 / [len(low) - 1, len(high) - 1, len(runs) - 1]).sum())
        if se
        else 1.0
    )
    half = t_quantile(0.025, df) * se
    p_value = float(two_sided_p(effect, se, df))
    return Curvature(effect, effect - half, effect + half, p_value, 4 * effect)


def pooled_sigma(*arms: Any) -> tuple[float, int]:
    """σ̂ in pp over arms of repeated seeds, and its degrees of freedom."""
    values = [_arm(arm, "arm") for arm in arms]
    df = sum(len(arm) - 1 for arm in values)
    squares = sum(float(((arm - arm.mean()) ** 2).sum()) for arm in values)
    return PP * float(np.sqrt(squares / df)), df


def _arm(accuracy: Any, name: str) -> FloatArray:
    array = np.asarray(accuracy, dtype=np.float64).ravel()
    array = array[~np.isnan(array)]
    if len(array) < 2:
        raise ConfigError(f"{name}: at least two finished runs are needed, got {len(array)}")
    if not np.isfinite(array).all():
        raise ConfigError(f"{name}: infinite values have no place in an average")
    return array


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


def shrunk_sum(posterior: Shrunk, sites: npt.NDArray[np.bool_], df: float) -> Sum:
    """The sum over sites that were chosen for their estimates; of shrunk effects, or the choice alone makes it
    large."""
    return Sum(*posterior.total(sites), df)


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
