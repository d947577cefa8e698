"""The candidate and its parent class by class, on the test images of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from reborn_nas.analysis.phases.compare import welch
from reborn_nas.analysis.shares import wilson
from reborn_nas.records import TrialRecord
from reborn_nas.report.results.view import RunView

COLUMNS = ("class", "images", "right", "predicted")

FloatArray = npt.NDArray[np.float64]


def class_table(view: RunView, runs: Sequence[TrialRecord]) -> pd.DataFrame | None:
    """One row a class; None where an arm has no training whose results by class were kept.

    Of both arms the mean recall over trainings with Wilson's 95 % interval over images, and F1; and the difference of
    recalls, in percentage points, with Welch's interval over trainings, wide enough to hold for all classes together
    (Bonferroni); it is NaN where no training of either arm differs from another.

    Args:
        runs: the trainings of both arms that count.
    """
    arms = {"parent": view.parent_arm, "candidate": "candidate"}
    found = {name: _results(view, [run for run in runs if run.arm == arm]) for name, arm in arms.items()}
    first = next((tables[0] for tables in found.values() if tables), None)
    if first is None or not all(found.values()):
        return None
    names, images = list(first["class"].astype(str)), first["images"].to_numpy(dtype=float)
    columns: dict[str, object] = {"class": names, "images": first["images"]}
    recalls: dict[str, FloatArray] = {}
    for name, tables in found.items():
        if any(list(table["images"]) != list(first["images"]) for table in tables):
            return None  # of other data: what a damaged folder may hold
        right = np.array([table["right"] for table in tables], dtype=float)
        predicted = np.array([table["predicted"] for table in tables], dtype=float)
        recalls[name] = right / np.maximum(images, 1)
        mean = recalls[name].mean(axis=0)
        ends = [wilson(share * n, n) for share, n in zip(mean, images)]
        columns |= {
            f"{name}_recall": mean,
            f"{name}_low": [low for low, _ in ends],
            f"{name}_high": [high for _, high in ends],
            f"{name}_f1": (2 * right / np.maximum(images + predicted, 1)).mean(axis=0),
        }
    differences = [
        _difference(recalls["candidate"][:, k], recalls["parent"][:, k], 0.05 / len(names))
        for k in range(len(names))
    ]
    columns |= {
        name: [row[k] for row in differences] for k, name in enumerate(("difference", "ci_low", "ci_high"))
    }
    table = pd.DataFrame(columns)
    table.attrs["trainings"] = {name: len(tables) for name, tables in found.items()}
    return table


def _difference(first: FloatArray, second: FloatArray, level: float) -> tuple[float, float, float]:
    """In percentage points, with its interval where there is one."""
    size = 100 * float(first.mean() - second.mean())
    if min(len(first), len(second)) < 2:
        return size, float("nan"), float("nan")
    found = welch(first, second, level=level)
    if not found.noisy:
        return size, float("nan"), float("nan")
    return size, max(-100.0, found.ci_low), min(100.0, found.ci_high)


def _results(view: RunView, runs: Sequence[TrialRecord]) -> list[pd.DataFrame]:
    tables = [view.classes(run.key) for run in runs]
    return [
        table for table in tables if table is not None and set(COLUMNS) <= set(table.columns) and len(table)
    ]
