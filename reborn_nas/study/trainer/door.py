"""What trains a network in a study: the one interface, which the built-in training and a user's own both have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn

    from reborn_nas.architecture import Architecture
    from reborn_nas.study.plan.designs import Run
    from reborn_nas.study.trainer.checkpoints import SavedState

__all__ = ["OnEpoch", "Outcome", "Pruned", "Stopped", "Trainer"]

OnEpoch = Callable[[int, Mapping[str, float]], None]
"""Called with the epoch, from 1, and a row of the learning curve, the score as `records.SCORE`; may raise."""


class Stopped(Exception):
    """Raised out of a training that must stop: the run has been taken away, or the study ends."""


class Pruned(Exception):
    """Raised out of a training of the exploration that the pruner stops at a rung."""


@dataclass(frozen=True)
class Outcome:
    """What a training left beside the trained network. Scores: see `reborn_nas.metric`.

    Args:
        score: on the part that judges the run; None where it is not known.
        n: what that rests on, images or rows; 0 where nobody says.
        validation: score on the validation part; None where the training was not judged by it.
        epochs: epochs trained.
        train_loss_sum: sum of the epochs' mean training losses, where they are known.
        curve: one row an epoch.
        extra: further scalars by name.
        environment: how it ran.
        save_example: writes an example of inputs and outputs of the trained network; None where there is none.
        test, test_n: of a training that went astray, what it counts as on the test part.
        classes: of a classifier that the test part judged, one row a class: class, images, right, predicted.
    """

    score: float | None
    n: int = 0
    validation: float | None = None
    epochs: int = 0
    train_loss_sum: float | None = None
    curve: Sequence[Mapping[str, Any]] = ()
    extra: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    save_example: Callable[[Path], None] | None = None
    test: float | None = None
    test_n: int = 0
    classes: Sequence[Mapping[str, Any]] = ()


class Trainer(Protocol):
    """Trains and judges the networks of one study in this process."""

    def train(
        self, model: nn.Module, architecture: Architecture, run: Run, on_epoch: OnEpoch, state: SavedState
    ) -> Outcome:
        """Train `model` as `run` says, from `state` where an earlier attempt left one, and judge it.

        The part that judges the run, where it is not the validation part, is read once, after the last epoch.

        Raises:
            Stopped, Pruned: whatever `on_epoch` raised.
            DivergedError: the loss or the value became non-finite.
        """

    def lost(self, run: Run, error: Exception) -> Outcome | None:
        """What a training counts as that went astray; None where it counts as nothing."""

    def judged(self, block: int) -> int:
        """Rows of the validation part of a split; 0 where nobody says."""

    def known(self, run: Run) -> Mapping[str, float]:
        """Scalars of a run that are known before it is trained."""
