"""Chooses the trained networks of a run for `--trial`. Pure functions on records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reborn_nas.commands import command_line
from reborn_nas.errors import ExportError
from reborn_nas.records import TrialRecord, best_observed, best_of, handed_over, retested, stored_name

__all__ = ["CHOICES", "Kept", "Trainings", "choose"]

Kept = tuple[TrialRecord, Path]
"""A record and the file of its trained weights."""


@dataclass(frozen=True)
class Trainings:
    """The trainings of a run.

    Args:
        run: folder of the run, for messages.
        records: all records.
        kept: key → file of its weights, if they were kept.
        numbers: trial number in the study of the run's name, as in the dashboard → key.
        front: the Pareto front of the objectives.
        parent_arm: arm of the trainings with the reference at every site.
    """

    run: str
    records: Sequence[TrialRecord]
    kept: Mapping[str, Path]
    numbers: Mapping[int, str] = field(default_factory=dict)
    front: Sequence[TrialRecord] = ()
    parent_arm: str = "parent"


def choose(trainings: Trainings, which: str) -> list[Kept]:
    """The trained networks of `which`; "pareto" may be several.

    Args:
        which: a word of `CHOICES`, a trial number of the dashboard, or a record's key.

    Raises:
        ExportError: there is no such network, or its weights were not kept.
    """
    records = trainings.records
    if not any(record.state == "complete" for record in records):
        raise ExportError(f"{trainings.run}: it has no finished training; finish the run")
    if which in CHOICES:
        found = CHOICES[which](trainings)
        if isinstance(found, list):
            return [_kept(trainings, record) for record in found]
        return [_kept(trainings, found)]
    key = trainings.numbers.get(int(which), which) if which.isdigit() else stored_name(which)
    for record in records:
        if record.key == key:
            return [_kept(trainings, record)]
    what = "trial of the number" if which.isdigit() else "trial"
    raise ExportError(
        f"the run has no {what} {which!r}; --trial takes {', '.join(CHOICES)}, a key such as {_example(trainings)}, or "
        "a number as the dashboard shows it"
    )


def _kept(trainings: Trainings, record: TrialRecord) -> Kept:
    """The record with its weights."""
    path = trainings.kept.get(record.key)
    if path is not None:
        return record, path
    again = command_line(
        "reborn-nas", "train", "--architecture", trainings.run, "--trial", record.label, "--out", "my-model"
    )
    some = f", those of {_example(trainings)} were" if trainings.kept else ""
    raise ExportError(
        f"the weights of trial {record.label} were not kept{some}; this trains its network again: {again}"
    )


def _example(trainings: Trainings) -> str:
    """A key that can be exported, or else any key."""
    found = [record.label for record in trainings.records if record.key in trainings.kept]
    return found[0] if found else trainings.records[0].label


def _auto(trainings: Trainings) -> TrialRecord:
    """The candidate if it was retested, else the best observed, else the most accurate of all.

    For old runs that kept few weights, the best one that was kept.
    """
    found = handed_over(trainings.records) or best_of(_complete(trainings))
    assert found is not None
    if found.key in trainings.kept:
        return found
    return handed_over([one for one in trainings.records if one.key in trainings.kept]) or found


def _retested(trainings: Trainings) -> TrialRecord:
    """The candidate, trained again with its parent in the retest."""
    found = best_of(retested(trainings.records))
    if found is None:
        raise ExportError(
            f"{trainings.run}: no candidate has been retested; take --trial best, or more --trials"
        )
    return found


def _parent(trainings: Trainings) -> TrialRecord:
    """The network with its reference activations, from the retest if possible, else from the baseline."""
    arm = trainings.parent_arm
    baseline = [one for one in _complete(trainings) if one.phase == "baseline" and one.arm == arm]
    found = best_of(retested(trainings.records, arm)) or best_of(baseline)
    if found is None:
        raise ExportError(f"{trainings.run}: the parent was not trained in this run")
    return found


def _best(trainings: Trainings) -> TrialRecord:
    """The best observed training of screen and exploration."""
    found = best_observed(trainings.records)
    if found is None:
        raise ExportError(f"{trainings.run}: no finished trial of screen or exploration")
    return found


def _pareto(trainings: Trainings) -> list[TrialRecord]:
    """The networks of the front whose weights were kept."""
    found = [record for record in trainings.front if record.key in trainings.kept]
    if not found:
        raise ExportError(f"{trainings.run}: no finished trial of the exploration whose weights were kept")
    return found


def _complete(trainings: Trainings) -> list[TrialRecord]:
    return [record for record in trainings.records if record.state == "complete"]


CHOICES: Mapping[str, Callable[[Trainings], TrialRecord | list[TrialRecord]]] = {
    "auto": _auto,
    "retested": _retested,
    "confirmed": _retested,
    "candidate": _retested,
    "best": _best,
    "parent": _parent,
    "pareto": _pareto,
}
"""Word → function that chooses. `recommended` is chosen in `api.export`; "confirmed" and "candidate" are synonyms of
"retested"."""
