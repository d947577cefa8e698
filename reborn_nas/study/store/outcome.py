"""How a result is told to Optuna, so that the sampler at hand learns from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reborn_nas.records import EXCESS, TrialRecord
from reborn_nas.study.config.objectives import objective_values
from reborn_nas.winners import DIGITS

__all__ = ["Told", "told"]

WORST_COST = 1e30
"""Told to samplers that read COMPLETE trials only, where a failure's cost is not known."""


def told(record: TrialRecord, learns_pruned: bool, objectives: tuple[str, ...] = ("accuracy",)) -> Told:
    """How `record` is told to Optuna, so that the sampler at hand learns from a failure too.

    A designed run that diverged keeps its last accuracy. In the search, a failure or an architecture over budget is
    PRUNED with a violated constraint, or for samplers that read COMPLETE trials only, COMPLETE with the worst value.
    A training that the pruner stopped is PRUNED with no constraint violated; to those samplers, COMPLETE at its rung.
    """
    attributes: dict[str, Any] = {
        "params": record.params,
        "macs": record.macs,
        "seconds": round(record.seconds, 3),
        "digest": record.digest,
    }
    if record.phase != "search":
        if record.state in ("complete", "diverged"):
            return Told("COMPLETE", record.accuracy, attributes=attributes)
        return Told("FAIL", attributes={**attributes, "reason": record.reason})
    limits = {key.removeprefix(EXCESS): v for key, v in record.extra.items() if key.startswith(EXCESS)}
    costs = tuple(
        WORST_COST if known is None else known[0]
        for known in (objective_values(record, (name,)) for name in objectives[1:])
    )
    if record.state == "complete":
        return Told("COMPLETE", record.accuracy, limits, attributes, costs)
    attributes["reason"] = record.reason
    if record.state == "pruned":
        state = "PRUNED" if learns_pruned else "COMPLETE"
        return Told(state, None if learns_pruned else record.accuracy, limits, attributes, costs)
    broken = any(value > 0 for value in limits.values())
    constraints = limits if broken else {**limits, record.state: 1.0}
    if learns_pruned:
        return Told("PRUNED", constraints=constraints, attributes=attributes)
    return Told("COMPLETE", 0.0, constraints, attributes, costs)


@dataclass(frozen=True)
class Told:
    """How a result is told to Optuna: so that the sampler at hand learns from it.

    Args:
        state: COMPLETE, PRUNED or FAIL.
        value: the accuracy where the state is COMPLETE.
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
        """What Optuna is told: one value an objective, the accuracy in four digits, or none."""
        return None if self.value is None else [round(self.value, DIGITS), *self.costs]

    def to_dict(self) -> dict[str, Any]:
        """What a reaper needs to tell it in the worker's place."""
        return {
            "state": self.state,
            "value": self.value,
            "constraints": dict(self.constraints),
            "costs": list(self.costs),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Told:
        """The inverse of `to_dict`."""
        costs = tuple(data.get("costs", ()))
        return cls(data["state"], data.get("value"), data.get("constraints", {}), costs=costs)
