"""Ordinary least squares of a designed phase: y = μ + block + Σ βᵢ xᵢ + covariates + ε, xᵢ = ±½."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.designs.blocks import split_allowance
from reborn_nas.errors import ConfigError

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

PP = 100.0
"""Percentage points (pp) in an accuracy of 1."""

NO_NOISE = 1e-6
"""pp; a standard deviation of no more is rounding."""


@dataclass(frozen=True)
class Fit:
    """A fitted designed phase, in percentage points (pp).

    Args:
        beta: (n,) average marginal effect of each site, the others half and half.
        cov: (n, n) covariance V = s²(X'X)⁻¹ of `beta`.
        extra: coefficients of the covariates.
        extra_cov: their covariance.
        sigma: residual standard deviation s of one run.
        df: residual degrees of freedom N − p.
        n_runs: runs that the fit used.
        residuals: (n_runs,).
        matrix: (n_runs, p) columns: sites, covariates, mean and blocks.
        inverse: (p, p) (X'X)⁻¹.
        widening: (n,) what the standard errors of `cov` are multiplied by for the luck of few splits; None for nothing.
        joint_p: p value of the test for joint effects of three sites, where they can look like one site's.
    """

    beta: FloatArray
    cov: FloatArray
    extra: FloatArray
    extra_cov: FloatArray
    sigma: float
    df: int
    n_runs: int
    residuals: FloatArray
    matrix: FloatArray
    inverse: FloatArray
    widening: FloatArray | None = None
    joint_p: float = 1.0

    @property
    def se(self) -> FloatArray:
        """(n,) standard errors of `beta`."""
        return np.asarray(np.sqrt(np.diag(self.cov)))


def as_design(design: Any) -> BoolArray:
    """`design` as a bool array (runs, sites). Raises ConfigError for anything but 0/1 or bool."""
    array = np.asarray(design)
    if array.ndim != 2 or 0 in array.shape:
        raise ConfigError(f"a design is a two-dimensional array (runs, sites), not of shape {array.shape}")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise ConfigError("a design holds True where the site is reborn and False elsewhere (or 1 and 0)")
    return array.astype(np.bool_)


def as_accuracy(accuracy: Any, n_runs: int) -> FloatArray:
    """`accuracy`, one score a run (see `reborn_nas.metric`), as floats (runs,), NaN where missing.

    Raises:
        ConfigError: another number of them, none that is finite, or an infinite one.
    """
    array = np.asarray(accuracy, dtype=np.float64)
    if array.shape != (n_runs,):
        raise ConfigError(f"accuracy has one number for each of the {n_runs} runs, not shape {array.shape}")
    if not np.isfinite(array).any():
        raise ConfigError("accuracy: no run has a finite value, so there is nothing to estimate")
    if np.isinf(array).any():
        raise ConfigError(
            "accuracy: NaN stands for a missing run; infinite values have no place in an average"
        )
    return array


def site_names(names: Sequence[Any] | None, n_sites: int) -> list[Any]:
    """`names`, or 0 … n−1; ConfigError when their number is wrong or one appears twice."""
    if names is None:
        return list(range(n_sites))
    listed = list(names)
    if len(listed) != n_sites or len(set(listed)) != n_sites:
        raise ConfigError(f"names: {n_sites} different site names are needed, got {listed!r}")
    return listed


def block_columns(block: Any, n_runs: int) -> FloatArray:
    """The mean and the blocks as 0/1 columns: one column a block, or the constant column alone."""
    if block is None:
        return np.ones((n_runs, 1))
    codes = block_codes(block)
    if len(codes) != n_runs or (codes < 0).any():
        raise ConfigError(f"block has one value for each of the {n_runs} runs, got {len(codes)}")
    return np.asarray(codes[:, None] == np.arange(codes.max() + 1), dtype=np.float64)


def block_codes(block: Any) -> npt.NDArray[np.int64]:
    """The blocks as 0, 1, 2 … in order of appearance; −1 for a run without one."""
    found: dict[Any, int] = {}
    return np.array(
        [
            -1 if one is None or one != one else found.setdefault(one, len(found))
            for one in np.asarray(block).tolist()
        ],
        dtype=np.int64,
    )


def covariate_columns(covariates: Any, n_runs: int) -> FloatArray:
    """Covariates (runs, k), centred; constant ones are dropped because they say nothing."""
    if covariates is None:
        return np.zeros((n_runs, 0))
    array = np.asarray(covariates, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != n_runs or not np.isfinite(array).all():
        raise ConfigError(f"covariates: finite numbers of shape ({n_runs}, k), not {array.shape}")
    centred = array - array.mean(axis=0)
    return np.asarray(centred[:, np.abs(centred).max(axis=0, initial=0.0) > 1e-12])


def fit(
    design: Any,
    accuracy: Any,
    *,
    block: Any = None,
    covariates: Any = None,
    names: Sequence[Any] | None = None,
) -> Fit:
    """Least squares over the runs that have an accuracy.

    Raises:
        ConfigError: fewer runs than parameters, or a site that the runs cannot tell from others.
    """
    levels = as_design(design)
    outcome = as_accuracy(accuracy, len(levels))
    keep = np.isfinite(outcome)
    listed = site_names(names, levels.shape[1])
    sites = np.where(levels[keep], 0.5, -0.5)
    extra = covariate_columns(None if covariates is None else np.asarray(covariates)[keep], int(keep.sum()))
    blocks = block_columns(None if block is None else np.asarray(block)[keep], int(keep.sum()))
    matrix = np.column_stack([sites, extra, blocks])
    inverse = _known_inverse(matrix, sites, listed)
    return _solve(matrix, inverse, outcome[keep] * PP, sites.shape[1], extra.shape[1])


def _solve(matrix: FloatArray, inverse: FloatArray, outcome: FloatArray, n_sites: int, n_extra: int) -> Fit:
    n_runs, p = matrix.shape
    coefficients = inverse @ (matrix.T @ outcome)
    residuals = outcome - matrix @ coefficients
    df = n_runs - p
    variance = float(residuals @ residuals) / df
    cov = variance * inverse
    extra = slice(n_sites, n_sites + n_extra)
    return Fit(
        beta=coefficients[:n_sites],
        cov=cov[:n_sites, :n_sites],
        extra=coefficients[extra],
        extra_cov=cov[extra, extra],
        sigma=float(np.sqrt(variance)),
        df=df,
        n_runs=n_runs,
        residuals=residuals,
        matrix=matrix,
        inverse=inverse,
    )


def tilt(fitted: Fit) -> tuple[float, float]:
    """By how much the runs' mean lies above that of half-reborn networks, and its standard error; 0 where balanced."""
    lean = fitted.matrix[:, : len(fitted.beta)].mean(axis=0)
    return float(lean @ fitted.beta), float(np.sqrt(max(lean @ fitted.cov @ lean, 0.0)))


def unvaried(design: BoolArray) -> BoolArray:
    """(n,) bool, the sites that are at one level in all runs."""
    return np.asarray(design.all(axis=0) | ~design.any(axis=0), dtype=np.bool_)


def inverse_of(matrix: FloatArray) -> FloatArray | None:
    """(X'X)⁻¹, None where it has none; one design is fitted several times for one report."""
    return _inverse(np.ascontiguousarray(matrix).tobytes(), matrix.shape)


@lru_cache(maxsize=256)
def _inverse(cells: bytes, shape: tuple[int, int]) -> FloatArray | None:
    matrix = np.frombuffer(cells, dtype=np.float64).reshape(shape)
    if np.linalg.matrix_rank(matrix) < shape[1]:
        return None
    inverse = np.asarray(np.linalg.inv(matrix.T @ matrix), dtype=np.float64)
    inverse.flags.writeable = False
    return inverse


def _known_inverse(matrix: FloatArray, sites: FloatArray, names: list[Any]) -> FloatArray:
    """(X'X)⁻¹. Raises ConfigError where the runs cannot tell the parameters, and says which."""
    n_runs, p = matrix.shape
    if n_runs <= p:
        raise ConfigError(
            f"{n_runs} runs cannot estimate {p} parameters ({sites.shape[1]} sites, the mean, blocks and "
            f"covariates) and their noise: at least {p + 1} runs are needed"
        )
    constant = [names[i] for i in np.flatnonzero((sites == sites[0]).all(axis=0))]
    if constant:
        raise ConfigError(
            f"design: the sites {constant} never change over the runs, so they have no estimate"
        )
    inverse = inverse_of(matrix)
    if inverse is None:
        correlation = np.abs(np.corrcoef(sites.T)) - np.eye(sites.shape[1])
        i, j = np.unravel_index(int(correlation.argmax()), correlation.shape)
        twins = (
            f"; sites {names[i]!r} and {names[j]!r} always change together"
            if correlation[i, j] > 1 - 1e-9
            else ""
        )
        raise ConfigError(
            f"design: the {p} parameters cannot be told apart from these {n_runs} runs{twins}; "
            "use screen_design, and blocks and covariates that are no combination of sites"
        )
    return inverse


def allow_for_splits(fitted: Fit, block: Any) -> Fit:
    """The fit with the standard errors that few splits need (`blocks.split_allowance`).

    Args:
        block: (n_runs,) the split of each run that the fit used; None for one split.
    """
    factor = split_allowance(fitted.matrix, len(fitted.beta), block)
    return replace(fitted, cov=fitted.cov * np.outer(factor, factor), widening=factor)
