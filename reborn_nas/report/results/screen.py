"""The designed runs as arrays: what `reborn_nas.analysis` needs, read off the records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.effects.collapse import converged
from reborn_nas.architecture import Choice
from reborn_nas.errors import RebornError
from reborn_nas.metric import spoken
from reborn_nas.records import TrialRecord

_ORDER = {"complete": 3, "diverged": 2, "pruned": 1}


FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Designed:
    """The runs of one designed phase.

    Args:
        names: the sites (or groups of sites) whose level was varied.
        design: (N, n) bool.
        accuracy: (N,) in [0, 1], NaN for a run that is missing.
        block: (N,) the split.
        kernel, compression: (N, n) the option where the level is on, 0 or "" elsewhere; None where it never varies.
        diverged: (N,) bool.
        images: images that each accuracy rests on, the smallest.
        part: what the accuracy was measured on.
        collapsed: runs whose accuracy was taken out by `converged`.
    """

    names: tuple[str, ...]
    design: npt.NDArray[np.bool_]
    accuracy: FloatArray
    block: npt.NDArray[np.int64]
    kernel: npt.NDArray[Any] | None
    compression: npt.NDArray[Any] | None
    diverged: npt.NDArray[np.bool_]
    images: int
    part: str
    collapsed: int = 0

    @property
    def n_runs(self) -> int:
        """Runs, missing ones included."""
        return len(self.accuracy)

    def converged(self, chance: float) -> Designed:
        """The same without the accuracies of collapsed runs."""
        left = converged(self.accuracy, chance, self.diverged)
        gone = int((np.isfinite(self.accuracy) & np.isnan(left)).sum())
        return replace(self, accuracy=left, collapsed=gone)


def unique_runs(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """One record a key: of a run that was repeated, the one that came furthest.

    And one a training: what is the same to the last digit, its seed included, stands there twice under two keys.
    """
    kept: dict[str, TrialRecord] = {}
    for record in records:
        before = kept.get(record.key)
        if before is None or _ORDER.get(record.state, 0) >= _ORDER.get(before.state, 0):
            kept[record.key] = record
    if len({(record.seed, record.accuracy) for record in kept.values()}) == len(kept):
        return list(kept.values())
    trained = {_training(record) or record.key: record for record in reversed(kept.values())}
    return list(reversed(trained.values()))


def _training(record: TrialRecord) -> tuple[Any, ...] | None:
    """What distinguishes one training from all others; None where no seed or no result is known."""
    if not record.seed or record.accuracy is None:
        return None
    return (
        record.phase, record.arm, record.seed, record.block, record.accuracy, record.test_accuracy,
        *sorted(record.levels.items()), *sorted(record.parameters.items()), str(record.extra.get("learning_rate")),
    )  # fmt: skip


def designed(
    records: Sequence[TrialRecord], order: Sequence[str] = (), chance: float = 0.0
) -> Designed | None:
    """The runs among `records` that have levels; None where there are none.

    Args:
        order: names in the order in which they are wanted; others follow.
        chance: accuracy of a diverged run that left none.
    """
    runs = [record for record in unique_runs(records) if record.levels]
    if not runs:
        return None
    found = dict.fromkeys(name for record in runs for name in record.levels)
    names = tuple(
        [name for name in order if name in found] + [name for name in found if name not in set(order)]
    )
    runs = [record for record in runs if len(record.levels) == len(names)]
    accuracy = np.array([_accuracy(record, chance) for record in runs], dtype=np.float64)
    trained = [record for record in runs if record.accuracy_n > 0]
    return Designed(
        names=names,
        design=np.array([[bool(record.levels[name]) for name in names] for record in runs], dtype=np.bool_),
        accuracy=accuracy,
        block=np.array([record.block for record in runs], dtype=np.int64),
        kernel=_option(runs, names, "kernel_size", 0),
        compression=_option(runs, names, "compression", ""),
        diverged=np.array([record.state == "diverged" for record in runs], dtype=np.bool_),
        images=min((record.accuracy_n for record in trained), default=0),
        part=trained[0].accuracy_part if trained else "validation",
    )


def possible(score: float | None) -> TypeGuard[float]:
    """Whether a score is one that the study's metric can have; a record may come from anywhere."""
    if score is None or not math.isfinite(score):
        return False
    return not spoken().is_accuracy or 0 <= score <= 1


def _accuracy(record: TrialRecord, chance: float) -> float:
    """What a run counts with; NaN for one that has no accuracy, or one that no accuracy can have."""
    value = record.accuracy
    if record.state == "diverged":
        return value if possible(value) else chance
    if record.state == "complete" and possible(value):
        return value
    return float("nan")


def _option(
    runs: Sequence[TrialRecord], names: Sequence[str], option: str, absent: Any
) -> npt.NDArray[Any] | None:
    """One option of the choices that are on, (N, n); None where it has a single value."""
    labels = [
        [
            record.parameters.get(name, (record.architecture.get("choices") or {}).get(name)) if on else None
            for name, on in ((name, record.levels[name]) for name in names)
        ]
        for record in runs
    ]
    known = {label: _option_in(label, option, absent) for label in {label for row in labels for label in row}}
    levels = set(known.values()) - {absent}
    if len(levels) < 2 or len({type(value) for value in levels}) > 1:
        return None
    return np.array([[known[label] for label in row] for row in labels])


def option_of(record: TrialRecord, name: str, option: str, absent: Any) -> Any:
    """One option of what a network has at a site or group; `absent` where its choice has none."""
    label = record.parameters.get(name, (record.architecture.get("choices") or {}).get(name))
    return _option_in(label, option, absent)


def _option_in(label: Any, option: str, absent: Any) -> Any:
    if not isinstance(label, str):
        return absent
    try:
        return Choice.parse(label).options.get(option, absent)
    except RebornError:
        return absent
