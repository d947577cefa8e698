"""How well a table of effects recovers a planted truth: the measures of the acceptance table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

CLEAR, VISIBLE = 0.25, 0.1
"""pp; effects that a screen should claim, and whose sign it should at least get right."""


def score(table: pd.DataFrame, truth: Any) -> dict[str, float]:
    """Measures of one study.

    Args:
        table: with effect, ci_low, ci_high, q_value (pp), one row a site in order.
        truth: (n,) planted effects in pp.

    Returns:
        precision5: share of the five largest estimates among the five largest truths; tau: Kendall's τ-b;
        rmse (pp); coverage of the intervals; claims: sites with q ≤ .05; power: share of truths of at
        least .25 pp either way that are claimed with their sign; false_share: share of claims whose truth is 0
        or has the other sign (0 without claims); sign: share of truths of at least .1 pp either way whose
        estimate has their sign. NaN where no site is large enough.
    """
    target = np.asarray(truth, dtype=np.float64)
    effect = table["effect"].to_numpy(dtype=np.float64)
    claimed = table["q_value"].to_numpy(dtype=np.float64) <= 0.05
    top_truth = np.argsort(-target, kind="stable")[:5]
    top_found = np.argsort(-effect, kind="stable")[:5]
    right = np.sign(effect) == np.sign(target)
    claims = int(claimed.sum())
    covered = (table["ci_low"].to_numpy() <= target) & (target <= table["ci_high"].to_numpy())
    tau = stats.kendalltau(effect, target).statistic if np.ptp(target) > 0 else np.nan
    return {
        "precision5": len(set(top_truth) & set(top_found)) / 5,
        "tau": float(tau),
        "rmse": float(np.sqrt(np.mean((effect - target) ** 2))),
        "coverage": float(covered.mean()),
        "claims": float(claims),
        "power": _share(claimed & right, np.abs(target) >= CLEAR - 1e-9),
        "false_share": float((claimed & ~right).sum() / claims) if claims else 0.0,
        "sign": _share(right, np.abs(target) >= VISIBLE - 1e-9),
    }


def _share(hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> float:
    return float(hits[among].mean()) if among.any() else float("nan")
