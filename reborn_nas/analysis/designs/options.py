"""The reborn block's own options inside a screen: balanced assignment, and their counts as covariates."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_DRAWS = 12
"""Random assignments from which the one least correlated with the sites is kept."""


def balanced_options(
    design: BoolArray,
    replicate: IntArray,
    kernels: Sequence[int],
    compressions: Sequence[str],
    rng: np.random.Generator,
) -> tuple[IntArray | None, npt.NDArray[np.str_] | None]:
    """Kernel (N, n) and compression (N, n) of each reborn site and run; None where there is no choice.

    Replicate by replicate, so that what a replicate gets does not depend on those that follow; the counts of
    each site's levels, and of their pairs, differ by one at most where the numbers allow it.
    """
    kernel_levels, compression_levels = list(dict.fromkeys(kernels)), list(dict.fromkeys(compressions))
    a, b = max(1, len(kernel_levels)), max(1, len(compression_levels))
    if a * b == 1:
        return None, None
    cell = np.full(design.shape, -1, dtype=np.int64)
    counts = np.zeros((design.shape[1], a, b), dtype=np.int64)
    for index in np.unique(replicate):
        rows = np.flatnonzero(replicate == index)
        best, best_score, best_counts = cell[rows], np.inf, counts
        for _ in range(_DRAWS):
            drawn, drawn_counts = _assign(design[rows], counts, rng)
            score = _correlation(design[rows], drawn, a, b)
            if score < best_score:
                best, best_score, best_counts = drawn, score, drawn_counts
        cell[rows], counts = best, best_counts
    kernel = compression = None
    if a > 1:
        kernel = np.where(design, np.array(kernel_levels, dtype=np.int64)[np.maximum(cell, 0) // b], 0)
    if b > 1:
        compression = np.where(
            design, np.array(compression_levels, dtype=np.str_)[np.maximum(cell, 0) % b], ""
        )
    return kernel, compression


def _assign(
    design: BoolArray, counts: IntArray, rng: np.random.Generator
) -> tuple[IntArray, npt.NDArray[np.int64]]:
    """A random balanced cell (kernel index · b + compression index) for each reborn site and run."""
    counts = counts.copy()
    _, a, b = counts.shape
    cell = np.full(design.shape, -1, dtype=np.int64)
    for site in range(design.shape[1]):
        rows = np.flatnonzero(design[:, site])
        drawn = []
        mine = counts[site]
        for _ in rows:
            # the emptiest margins first, then the emptiest cell, ties at random
            margins = mine.sum(axis=1)[:, None] + mine.sum(axis=0)[None, :]
            pick = int((margins * 1e6 + mine + rng.random((a, b))).argmin())
            mine[pick // b, pick % b] += 1
            drawn.append(pick)
        cell[rng.permutation(rows), site] = drawn
    return cell, counts


def _correlation(design: BoolArray, cell: IntArray, a: int, b: int) -> float:
    """Largest share of a count column's variance that the sites explain or another column shares."""
    labels_a = np.where(cell >= 0, np.maximum(cell, 0) // b, -1)
    labels_b = np.where(cell >= 0, np.maximum(cell, 0) % b, -1)
    columns = np.column_stack([_counts(labels_a, a), _counts(labels_b, b)])
    columns = columns - columns.mean(axis=0)
    sites = np.where(design, 0.5, -0.5)
    explained = ((sites.T @ columns) ** 2 / (len(design) / 4)).sum(axis=0)
    return float((explained / np.maximum((columns**2).sum(axis=0), 1e-12)).max())


def _counts(labels: IntArray, levels: int) -> FloatArray:
    """(N, levels − 1) contrast-coded counts: reborn sites of level k minus their share of the last level's."""
    per_level = np.stack([(labels == level).sum(axis=1) for level in range(levels)], axis=1)
    return np.asarray(per_level[:, :-1] - per_level[:, -1:], dtype=np.float64)


def site_contrasts(
    option: npt.NDArray[np.generic],
) -> tuple[tuple[Hashable, ...], FloatArray]:
    """Levels of an option, and its sum-to-zero contrasts per run and site, (N, n, levels − 1).

    Column k is +1 where the site has level k, −1 where it has the last level, 0 elsewhere: its coefficient is
    what level k adds at one site over the mean of the levels. 0, "" and None mean "not reborn here".
    """
    flat = pd.Series(np.asarray(option).ravel())
    used = flat[~flat.isna() & (flat != 0) & (flat != "")]
    levels = tuple(sorted(used.unique().tolist()))
    array = np.asarray(option)
    stacked = [
        (array == level).astype(np.float64) - (array == levels[-1]).astype(np.float64)
        for level in levels[:-1]
    ]
    return levels, np.stack(stacked, axis=-1) if stacked else np.zeros((*array.shape, 0))


def option_counts(**options: npt.NDArray[np.generic] | None) -> pd.DataFrame:
    """Covariates of a screen: the contrast-coded counts of each option over the sites, one row a run.

    `option_counts(kernel=plan.kernel, compression=plan.compression)`; options that are None are left out.
    """
    columns: dict[str, FloatArray] = {}
    rows = 0
    for name, option in options.items():
        if option is None:
            continue
        levels, contrasts = site_contrasts(option)
        rows = len(contrasts)
        for index, level in enumerate(levels[:-1]):
            columns[f"{name}={level}"] = contrasts[:, :, index].sum(axis=1)
    return pd.DataFrame(columns, index=range(rows))
