"""Several arms against one of them: y = split + arm + ε, with one noise for all arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from reborn_nas.analysis.effects.linear import PP, as_accuracy, block_columns
from reborn_nas.analysis.student import t_quantile, two_sided_p
from reborn_nas.errors import ConfigError

__all__ = ["arm_effects"]


def arm_effects(arm: Sequence[Any], accuracy: Any, *, reference: Any, block: Any = None) -> pd.DataFrame:
    """Each arm − `reference` by least squares with the splits taken out; one residual variance for all arms.

    Args:
        arm: the arm of each run.
        accuracy: in [0, 1], NaN where missing.
        reference: the arm that the others are compared with.
        block: the train/validation split of each run; None for one.

    Returns:
        One row an arm other than `reference`, in order of appearance: `arm, runs, effect, ci_low, ci_high, p_value`,
        effects in percentage points with 95 % t intervals, not corrected for the number of arms. `attrs` hold
        `sigma` (pp), `df` and `reference_runs`.

    Raises:
        ConfigError: fewer than two runs of the reference or of every other arm, or nothing left to tell the noise.
    """
    labels = list(arm)
    values = as_accuracy(accuracy, len(labels))
    keep = np.isfinite(values)
    kept = [label for label, there in zip(labels, keep) if there]
    others = [label for label in dict.fromkeys(kept) if label != reference]
    if kept.count(reference) < 2 or not others:
        raise ConfigError(
            f"arms: at least two runs of {reference!r} and another arm are needed, got {kept!r}"
        )
    columns = np.array([[label == other for other in others] for label in kept], dtype=np.float64)
    blocks = block_columns(None if block is None else np.asarray(block)[keep], len(kept))
    matrix = np.hstack([columns, blocks])
    rank = int(np.linalg.matrix_rank(matrix))
    df = len(kept) - rank
    if rank < matrix.shape[1] or df < 1:
        raise ConfigError(
            f"arms: {len(kept)} runs over {blocks.shape[1]} splits cannot tell {len(others) + 1} arms and the noise "
            "apart"
        )
    solution = np.linalg.lstsq(matrix, PP * values[keep], rcond=None)[0]
    residuals = PP * values[keep] - matrix @ solution
    sigma = float(np.sqrt(residuals @ residuals / df))
    inverse = np.linalg.inv(matrix.T @ matrix)
    rows = []
    for index, other in enumerate(others):
        error = sigma * float(np.sqrt(inverse[index, index]))
        effect = float(solution[index])
        half = t_quantile(0.025, df) * error
        p_value = float(two_sided_p(effect, error, df))
        rows.append((other, kept.count(other), effect, effect - half, effect + half, p_value))
    table = pd.DataFrame(rows, columns=["arm", "runs", "effect", "ci_low", "ci_high", "p_value"])
    table.attrs.update(sigma=sigma, df=df, reference_runs=kept.count(reference))
    return table
