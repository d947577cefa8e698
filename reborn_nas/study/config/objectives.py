"""What a search is for: accuracy alone, or accuracy against costs; the Pareto front of its trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from reborn_nas.errors import unknown_name
from reborn_nas.records import TrialRecord

__all__ = [
    "OBJECTIVES",
    "check_objectives",
    "directions",
    "is_beaten",
    "objective_values",
    "pareto_records",
    "pareto_series",
    "values_of",
]

OBJECTIVES = ("accuracy", "params", "macs", "latency", "memory")
"""Accuracy is maximised, all else minimised; units as in `limits.QUANTITIES`."""


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """The objectives, accuracy first. Raises ValueError."""
    for name in names:
        if not isinstance(name, str) or name not in OBJECTIVES:
            raise ValueError(str(unknown_name("objective", str(name), OBJECTIVES)))
    if len(set(names)) != len(names):
        raise ValueError("an objective stands there twice")
    if "accuracy" not in names:
        raise ValueError("accuracy is one of the objectives: the cheapest network of all needs no search")
    return ("accuracy", *(name for name in names if name != "accuracy"))


def directions(names: Sequence[str]) -> tuple[Literal["maximize", "minimize"], ...]:
    """Optuna's words for them."""
    return tuple("maximize" if name == "accuracy" else "minimize" for name in names)


def objective_values(
    record: TrialRecord, names: Sequence[str], value: Callable[[str], float] | None = None
) -> tuple[float, ...] | None:
    """What the record says to each objective; None where one is not known.

    Args:
        value: quantity → its value, asked where the record does not hold it.
    """
    found = []
    for name in names:
        known = values_of(record).get(name)
        if known is None and value is not None and name != "accuracy":
            known = value(name)
        if known is None:
            return None
        found.append(float(known))
    return tuple(found)


def values_of(record: TrialRecord) -> Mapping[str, float | None]:
    """Objective → the record's value."""
    return {
        "accuracy": record.accuracy,
        "params": record.params or None,
        "macs": record.macs or None,
        "latency": record.extra.get("latency"),
        "memory": record.extra.get("memory"),
    }


def pareto_records(records: Iterable[TrialRecord], names: Sequence[str]) -> list[TrialRecord]:
    """The search's finished trainings that no other one beats in all objectives, by falling accuracy.

    Validation accuracies: a front of observations, each partly luck, and no claim. Of equal ones all stay.
    """
    from reborn_nas.analysis.model.pareto import pareto_front

    judged = [
        (record, values)
        for record in records
        if record.phase == "search"
        and record.state == "complete"
        and (values := objective_values(record, names)) is not None
    ]
    if not judged:
        return []
    front = pareto_front([values for _, values in judged], [name == "accuracy" for name in names])
    kept = [record for (record, _), on in zip(judged, front, strict=True) if on]
    return sorted(kept, key=lambda record: (-(record.accuracy or 0.0), record.number))


def pareto_series(records: Iterable[TrialRecord], names: Sequence[str]) -> dict[str, Any]:
    """The hypervolume over the search's trainings in order, with the reference point it is counted from.

    Returns:
        `trials` (numbers), `hypervolume` and `reference` (objective → value): in units of accuracy times the costs
        divided by their range, so that it lies in [0, 1.2 ^ costs].
    """
    import numpy as np

    from reborn_nas.analysis.model.pareto import hypervolume_over_trials, worst_corner

    judged = sorted(
        (
            (record.number, values)
            for record in records
            if record.phase == "search"
            and record.state == "complete"
            and (values := objective_values(record, names)) is not None
        ),
        key=lambda pair: pair[0],
    )
    if not judged:
        return {"trials": [], "hypervolume": [], "reference": {}}
    table = np.array([values for _, values in judged])
    maximise = [name == "accuracy" for name in names]
    corner = worst_corner(table, maximise)
    unit = np.array(
        [1.0 if up else max(float(np.ptp(column)), 1e-12) for up, column in zip(maximise, table.T)]
    )
    series = hypervolume_over_trials(table / unit, maximise, (corner / unit).tolist())
    return {
        "trials": [number for number, _ in judged],
        "hypervolume": series.tolist(),
        "reference": dict(zip(names, corner.tolist(), strict=True)),
    }


def is_beaten(values: Sequence[float], other: Sequence[float], names: Sequence[str]) -> bool:
    """Whether `other` is at least as good in every objective and better in one."""
    signs = [1.0 if name == "accuracy" else -1.0 for name in names]
    gains = [sign * (theirs - mine) for sign, mine, theirs in zip(signs, values, other, strict=True)]
    return min(gains) >= 0 and max(gains) > 0
