"""Which of a run's trained networks `--trial` means. Pure functions on records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from reborn_nas.errors import ExportError
from reborn_nas.records import TrialRecord

__all__ = ["CHOICES", "Kept", "choose", "judged"]

Kept = tuple[TrialRecord, Path]
"""A record with the file of its trained weights."""


def choose(
    kept: Sequence[Kept],
    records: Sequence[TrialRecord],
    which: str,
    run: str,
    front: Sequence[TrialRecord] = (),
) -> list[Kept]:
    """The trained networks that `which` names; several for "pareto".

    Args:
        kept: the records whose weights were kept.
        records: all records of the run.
        which: a word of `CHOICES`, a number of the search as the dashboard shows it, or a record's key.
        run: the run's folder, for messages.
        front: of the search's trainings, those that no other one beats in all objectives.

    Raises:
        ExportError: there is none, or its weights were not kept.
    """
    if not kept:
        done = sum(record.state == "complete" for record in records)
        what = (
            f"none of its {done} finished trainings kept weights" if done else "it has no finished training"
        )
        raise ExportError(f"{run}: {what}; weights are kept from the search phase on: finish the run")
    if which in CHOICES:
        return CHOICES[which](kept, front, run)
    for record, path in kept:
        if record.key == which or _is_number(record, which):
            return [(record, path)]
    found = next((r for r in records if r.key == which or _is_number(r, which)), None)
    if found is not None:
        raise ExportError(
            f"the weights of trial {found.key!r} were not kept, only those of {_keys(kept)}; "
            f"`reborn-nas train --architecture {run} --trial {found.key}` trains it again"
        )
    raise ExportError(
        f"the run has no {'search trial of the number' if which.isdigit() else 'trial'} {which!r}; weights were kept "
        f"of {_keys(kept)}; --trial takes such a key, {', '.join(CHOICES)}, or a number as the dashboard shows it"
    )


def judged(record: TrialRecord) -> float:
    """The validation accuracy, in [0, 1], also of a training whose record holds its test accuracy."""
    return float(record.extra.get("validation_accuracy", record.accuracy or 0.0))


def _auto(kept: Sequence[Kept], front: Sequence[TrialRecord], run: str) -> list[Kept]:
    """The candidate where there is one, else the search's best, else what there is."""
    candidates = [pair for pair in kept if pair[0].arm == "candidate"]
    others = [pair for pair in kept if pair[0].phase == "search"]
    return [_best(candidates or others or kept)]


def _confirmed(kept: Sequence[Kept], front: Sequence[TrialRecord], run: str) -> list[Kept]:
    """The candidate, trained afresh and compared with its parent on the test set."""
    candidates = [pair for pair in kept if pair[0].arm == "candidate"]
    if not candidates:
        raise ExportError(
            f"{run}: no candidate has been trained against its parent yet; finish the run, or take --trial best"
        )
    return [_best(candidates)]


def _best_of_search(kept: Sequence[Kept], front: Sequence[TrialRecord], run: str) -> list[Kept]:
    """The search's best by validation accuracy."""
    others = [pair for pair in kept if pair[0].phase == "search"]
    if not others:
        raise ExportError(f"{run}: the search has no finished trial; take --trial confirmed")
    return [_best(others)]


def _pareto(kept: Sequence[Kept], front: Sequence[TrialRecord], run: str) -> list[Kept]:
    """The search's front, as far as weights were kept."""
    weights = {record.key: path for record, path in kept}
    found = [(record, weights[record.key]) for record in front if record.key in weights]
    if not found:
        raise ExportError(f"{run}: the search has no finished trial; take --trial confirmed")
    return found


CHOICES: Mapping[str, Callable[[Sequence[Kept], Sequence[TrialRecord], str], list[Kept]]] = {
    "auto": _auto,
    "confirmed": _confirmed,
    "best": _best_of_search,
    "pareto": _pareto,
}
"""Word → what it chooses. Another word is another entry here."""


def _best(pairs: Sequence[Kept]) -> Kept:
    return max(pairs, key=lambda pair: judged(pair[0]))


def _is_number(record: TrialRecord, which: str) -> bool:
    return which.isdigit() and record.phase == "search" and record.number == int(which)


def _keys(kept: Sequence[Kept]) -> str:
    return ", ".join(record.key for record, _ in kept)
