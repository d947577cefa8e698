"""Where an interrupted training's state waits for the next attempt at the same run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from reborn_nas.errors import TrainingError

if TYPE_CHECKING:
    from reborn_nas.training import TrainingState

__all__ = ["STATES", "SavedState"]

STATES = "states"
"""Folder of the states in the artifact store."""

EVERY = 60.0
"""Seconds of training that a vanished machine costs at most, and the rest of its epoch."""

_log = logging.getLogger("reborn_nas.study")


class Kept(Protocol):
    """Where one state lies: `training.FileCheckpoint` or `bucket.BucketCheckpoint`. All raise OSError."""

    def load(self) -> TrainingState | None:
        """The state, or None. Raises TrainingError where it is damaged."""

    def save(self, state: TrainingState) -> None:
        """Keep `state` in place of the last one."""

    def discard(self) -> None:
        """Remove it."""


class SavedState:
    """A training's `Checkpoint`: one state, written every minute or so and when the training is asked to stop.

    Nothing that goes wrong with it harms the training: a state that cannot be written is left out, one that cannot
    be read is dropped, and the training starts from its beginning.

    Args:
        kept: where it lies; its name holds the run and everything that the training depends on.
        stopping: whether the training will end after this epoch.
        every: seconds from one write to the next.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        kept: Kept,
        stopping: Callable[[], bool] = lambda: False,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept = kept
        self._stopping = stopping
        self._every = every
        self._clock = clock
        self._last = clock()
        self.resumed = 0
        """Epochs that an earlier attempt had done."""

    def due(self) -> bool:
        """Whether the state of this epoch is to be kept; copying it costs time."""
        return self._clock() - self._last >= self._every or self._stopping()

    def load(self) -> TrainingState | None:
        """The state that an earlier attempt left, or None."""
        try:
            state = self._kept.load()
        except TrainingError as error:
            _log.warning("%s", error)
            self.discard()
            return None
        except OSError as error:
            _log.warning("the training's state cannot be asked for (%s); it begins at its start", error)
            return None
        self.resumed = 0 if state is None else state.epoch
        return state

    def save(self, state: TrainingState) -> None:
        """Keep `state`; where its place refuses it, go on without."""
        self._last = self._clock()
        try:
            self._kept.save(state)
        except OSError as error:
            _log.warning("the training's state cannot be kept (%s); it goes on", error)

    def discard(self) -> None:
        """The training is told: nobody needs its state."""
        try:
            self._kept.discard()
        except OSError:
            return
