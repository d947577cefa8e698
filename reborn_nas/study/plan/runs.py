"""A run: one training to be done, as plain data that a storage can keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reborn_nas.records import TrialRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """One training to be done, as plain data.

    Args:
        key: unique in the study and stable over resumes, such as `screen/17`.
        phase: one of `records.PHASES`.
        arm: what it stands for in its phase.
        seed: of initialisation, order and augmentation.
        block: index of the train/validation split.
        part: the images that judge it: "validation", "reserve" or "test".
        architecture: `Architecture.to_dict()`; None where the sampler proposes.
        parameters: Optuna parameters, name → label.
        levels: two-level coding of a designed run, factor → 0 or 1.
        rate: factor on the recipe's learning rate.
    """

    key: str
    phase: str
    arm: str
    seed: int
    block: int = 0
    part: str = "validation"
    architecture: Mapping[str, Any] | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, int] = field(default_factory=dict)
    rate: float = 1.0

    def failure(
        self, number: int, reason: str, architecture: Mapping[str, Any], parameters: Mapping[str, str]
    ) -> TrialRecord:
        """The record of a run that nobody could finish."""
        return TrialRecord(
            key=self.key,
            phase=self.phase,
            arm=self.arm,
            number=number,
            state="failed",
            architecture=architecture,
            parameters=dict(parameters),
            levels=dict(self.levels),
            block=self.block,
            seed=self.seed,
            accuracy_part=self.part,
            reason=reason,
        )

    def to_attributes(self) -> dict[str, Any]:
        """User attributes of the trial: everything but the parameters."""
        attributes: dict[str, Any] = {
            "key": self.key,
            "phase": self.phase,
            "arm": self.arm,
            "seed": self.seed,
            "block": self.block,
            "part": self.part,
        }
        if self.architecture is not None:
            attributes["architecture"] = dict(self.architecture)
        if self.levels:
            attributes["levels"] = dict(self.levels)
        if self.rate != 1.0:
            attributes["rate"] = self.rate
        return attributes

    @classmethod
    def from_trial(cls, trial: FrozenTrial) -> Run:
        """The run that `trial` is an attempt at."""
        attributes = trial.user_attrs
        return cls(
            key=attributes["key"],
            phase=attributes["phase"],
            arm=attributes["arm"],
            seed=attributes["seed"],
            block=attributes["block"],
            part=attributes["part"],
            architecture=attributes.get("architecture"),
            parameters=dict(trial.params),
            levels=attributes.get("levels", {}),
            rate=attributes.get("rate", 1.0),
        )
