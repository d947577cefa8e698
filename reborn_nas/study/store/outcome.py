"""How a result is told to Optuna: state, values and constraints, and the training's pictures as artifacts."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore

from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.records import EXCESS, TrialRecord
from reborn_nas.study.config.objectives import objective_values
from reborn_nas.study.store.compat import artifact_attribute

if TYPE_CHECKING:
    pass

__all__ = [
    "ARTIFACTS",
    "Illustrate",
    "TrialOutcome",
    "picture_attributes",
    "save_pictures",
    "outcome_of",
]

WORST_COST = 1e30
"""The cost of a failure for samplers that read only COMPLETE trials, if it is unknown."""


def outcome_of(
    record: TrialRecord,
    learns_pruned: bool,
    objectives: tuple[str, ...] = ("accuracy",),
    metric: Metric = ACCURACY,
) -> TrialOutcome:
    """How to tell `record` to Optuna, so that any sampler learns from failures too.

    A designed run that diverged keeps its last accuracy. In the search, a failure or an architecture over budget is
    PRUNED with a violated constraint, or COMPLETE with the worst value for samplers that read COMPLETE trials only.
    A training that the pruner stopped is PRUNED without a violation; for those samplers, COMPLETE at its rung.
    """
    value = None if record.accuracy is None else metric.told(record.accuracy)
    attributes: dict[str, Any] = {
        "params": record.params,
        "macs": record.macs,
        "seconds": round(record.seconds, 3),
        "digest": record.digest,
    }
    if record.phase != "search":
        if record.state in ("complete", "diverged"):
            return TrialOutcome("COMPLETE", value, attributes=attributes)
        return TrialOutcome("FAIL", attributes={**attributes, "reason": record.reason})
    limits = {key.removeprefix(EXCESS): v for key, v in record.extra.items() if key.startswith(EXCESS)}
    costs = tuple(
        WORST_COST if known is None else known[0]
        for known in (objective_values(record, (name,)) for name in objectives[1:])
    )
    if record.state == "complete":
        return TrialOutcome("COMPLETE", value, limits, attributes, costs)
    attributes["reason"] = record.reason
    if record.state == "pruned":
        state = "PRUNED" if learns_pruned else "COMPLETE"
        return TrialOutcome(state, None if learns_pruned else value, limits, attributes, costs)
    broken = any(value > 0 for value in limits.values())
    constraints = limits if broken else {**limits, record.state: 1.0}
    if learns_pruned:
        return TrialOutcome("PRUNED", constraints=constraints, attributes=attributes)
    worst = metric.worst_score
    return TrialOutcome(
        "COMPLETE", 0.0 if worst is None else metric.told(worst), constraints, attributes, costs
    )


@dataclass(frozen=True)
class TrialOutcome:
    """How a result is told to Optuna.

    Args:
        state: COMPLETE, PRUNED or FAIL.
        value: the metric's value where the state is COMPLETE.
        constraints: name → violation, above 0 where infeasible.
        attributes: further user attributes, small.
        costs: values of the further objectives, in their order.
    """

    state: str
    value: float | None = None
    constraints: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    costs: tuple[float, ...] = ()

    @property
    def values(self) -> list[float] | None:
        """Values to tell Optuna, one per objective, or None."""
        return None if self.value is None else [self.value, *self.costs]

    def to_dict(self) -> dict[str, Any]:
        """What a reaper needs to tell it in place of the worker."""
        return {
            "state": self.state,
            "value": self.value,
            "constraints": dict(self.constraints),
            "costs": list(self.costs),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialOutcome:
        """The inverse of `to_dict`."""
        costs = tuple(data.get("costs", ()))
        return cls(data["state"], data.get("value"), data.get("constraints", {}), costs=costs)


ARTIFACTS = "artifacts"
"""Subfolder of the run folder with the artifacts."""

MOST_BYTES = 256 * 1024
"""Larger pictures are dropped: the folder of a study of ten thousand trainings must stay small enough to copy."""

Illustrate = Callable[
    [TrialRecord, Sequence[Mapping[str, Any]], Sequence[Mapping[str, str]]], Mapping[str, str]
]
"""(record, one mapping a site, rows of the learning curve) → file name → SVG text."""


def picture_attributes(
    illustrate: Illustrate, record: TrialRecord, sites: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, str]:
    """Draw a finished training and store the pictures; returns the system attributes of its trial that name them.

    A picture that cannot be drawn or stored is dropped: it must not fail the training.
    """
    try:
        return save_pictures(folder, illustrate(record, sites, _curve(folder, record.curve)))
    except Exception:  # third-party code draws, and a disk may be full
        return {}


def save_pictures(folder: Path, pictures: Mapping[str, str]) -> dict[str, str]:
    """Write `pictures` into the run folder's artifact store; returns system attribute → value, one per picture.

    Equal pictures share one file. Optuna accepts system attributes only while a trial is running, so they must be
    written together with the result.
    """
    if not pictures:
        return {}
    (folder / ARTIFACTS).mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder / ARTIFACTS)
    attributes = {}
    for file, text in pictures.items():
        data = text.encode()
        if len(data) > MOST_BYTES:
            continue
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, file + text))
        store.write(key, io.BytesIO(data))
        meta = ArtifactMeta(artifact_id=key, filename=file, mimetype="image/svg+xml", encoding=None)
        name, value = artifact_attribute(meta)
        attributes[name] = value
    return attributes


def _curve(folder: Path, relative: str) -> list[dict[str, str]]:
    if not relative:
        return []
    try:
        with open(folder / relative, encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    except OSError:
        return []
