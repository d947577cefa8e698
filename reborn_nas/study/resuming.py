"""Where an interrupted training's state waits for the next attempt at the same run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from reborn_nas.errors import TrainingError

if TYPE_CHECKING:
    from reborn_nas.training import FileCheckpoint, TrainingState

__all__ = ["STATES", "SavedState"]

STATES = "states"
"""Folder of the states in the artifact store."""

EVERY = 60.0
"""Seconds of training that a vanished machine costs at most, and the rest of its epoch."""

_log = logging.getLogger("reborn_nas.study")


class SavedState:
    """A training's `Checkpoint`: one file, written every minute or so and when the training is asked to stop.

    Nothing that goes wrong with it harms the training: a state that cannot be written is left out, one that cannot
    be read is dropped, and the training starts from its beginning.

    Args:
        path: of the file; it names the run and everything that the training depends on.
        stopping: whether the training will end after this epoch.
        every: seconds from one write to the next.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        path: Path,
        stopping: Callable[[], bool] = lambda: False,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
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
            state = self._file().load()
        except TrainingError as error:
            _log.warning("%s", error)
            self.discard()
            return None
        self.resumed = 0 if state is None else state.epoch
        return state

    def save(self, state: TrainingState) -> None:
        """Keep `state`; where the disk refuses it, go on without."""
        self._last = self._clock()
        try:
            self._file().save(state)
        except OSError as error:
            _log.warning(
                "the training's state cannot be kept in %s (%s); it goes on", self._path.parent, error
            )

    def discard(self) -> None:
        """The training is told: nobody needs its state."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return

    def _file(self) -> FileCheckpoint:
        from reborn_nas.training import FileCheckpoint

        return FileCheckpoint(self._path)
