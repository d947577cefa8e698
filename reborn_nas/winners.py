"""Which training is the best observed one, and which network a run hands over: one rule for every place that shows it.

Three networks of a run have names. *Best observed*: the highest validation accuracy of screen and exploration; partly
luck. *Recommended*: the largest expected accuracy, see `study.standing`. *Retested*: the candidate, trained afresh
beside its parent and judged by the test images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reborn_nas.records import EXCESS, TrialRecord

__all__ = [
    "best_of",
    "best_observed",
    "explored",
    "handed_over",
    "retested",
    "validation_accuracy",
]

EXPLORED = ("screen", "search")
"""Phases whose trainings the dashboard's first study shows, and among which the best observed one is."""


DIGITS = 4
"""Of an accuracy in [0, 1] that are told apart: a hundredth of a percentage point."""


def validation_accuracy(record: TrialRecord) -> float:
    """In [0, 1], also of a training whose record holds its test accuracy; trainings are ranked by it alone."""
    return float(record.extra.get("validation_accuracy", record.accuracy or 0.0))


def best_of(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The highest validation accuracy, to four digits; of equal ones the first, as in optuna-dashboard."""
    return min(records, key=_rank, default=None)


def explored(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The finished trainings of screen and exploration whose networks keep the run's limits."""
    return [
        one
        for one in records
        if one.phase in EXPLORED
        and one.state == "complete"
        and one.accuracy is not None
        and not any(value > 0 for name, value in one.extra.items() if name.startswith(EXCESS))
    ]


def best_observed(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The best of the explored trainings."""
    return best_of(explored(records))


def retested(records: Iterable[TrialRecord], arm: str = "candidate") -> list[TrialRecord]:
    """The trainings of the candidate that were judged by the test images; of its parent with `arm="parent"`."""
    return [
        one
        for one in records
        if one.phase == "candidate" and one.arm == arm and one.test_accuracy is not None
    ]


def handed_over(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """What `export` writes unless told otherwise: the candidate where it was retested, else the best observed."""
    return best_of(retested(records)) or best_observed(records)


def _rank(record: TrialRecord) -> tuple[object, ...]:
    parts = tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in record.key.split("/"))
    phase = EXPLORED.index(record.phase) if record.phase in EXPLORED else len(EXPLORED)
    return (-round(validation_accuracy(record), DIGITS), phase, parts)
