"""What a training of the user's own is told, and through which it reports, saves and loads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.errors import ConfigError, TrainingError
from reborn_nas.metric import as_number
from reborn_nas.records import SCORE
from reborn_nas.study.trainer.door import OnEpoch, Pruned, Stopped
from reborn_nas.study.trainer.parts import Parts, divide
from reborn_nas.training.checkpoint import TrainingState
from reborn_nas.training.nested import pack, unpack

if TYPE_CHECKING:
    from reborn_nas.architecture import Architecture
    from reborn_nas.metric import Metric
    from reborn_nas.study.plan.designs import Run
    from reborn_nas.study.trainer.checkpoints import SavedState

__all__ = ["Job"]

WRITING = 0.05
"""Share of a training's time that saving may take; what comes sooner is left out, unless the training is to end."""


class Job:
    """One training of a study, as its function sees it.

    Attributes:
        seed: of this training. Python's, NumPy's and PyTorch's generators are seeded with it before `train` is called.
        split: number of the split into training and validation rows; runs of one split share it.
        part: the rows that judge, see `Parts`: during `train` "validation", or what the value to return is of where no
            `evaluate` was given; during `evaluate` the rows to evaluate.
        epochs: the budget. A training may do less, and none is asked to do more.
        rate: a factor on the learning rate; 1 but in the check at a second rate.
        device: where to train, such as "cpu" or "cuda:0"; the network is there.
        architecture: what stands at which site.
    """

    def __init__(
        self,
        run: Run,
        architecture: Architecture,
        *,
        epochs: int,
        device: str,
        study_seed: int,
        metric: Metric,
        folder: Path,
        on_epoch: OnEpoch | None = None,
        state: SavedState | None = None,
        stopping: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
        part: str = "validation",
        pruned: bool = False,
    ) -> None:
        self.seed = run.seed
        self.split = run.block
        self.part = part
        self.epochs = epochs
        self.rate = run.rate
        self.device = device
        self.architecture = architecture
        self._study_seed, self._metric, self._folder = study_seed, metric, folder
        self._on_epoch, self._state, self._stopping, self._say = on_epoch, state, stopping, say
        self._needs_value = pruned
        self._cost, self._last = 0.0, -math.inf
        self.curve: list[dict[str, float]] = []
        self.raised: Exception | None = None
        self.asked_to_stop = False
        self._cut: dict[Any, Parts] = {}

    def __repr__(self) -> str:
        return (
            f"<Job: split {self.split}, {self.part}, {self.epochs} epochs, seed {self.seed}, {self.device}>"
        )

    def indices(self, n: int, *, strata: Any = None, groups: Any = None) -> Parts:
        """Rows of your data of `n` rows: `.train`, `.validation`, `.reserve` and `.test`, disjoint.

        The same in every call of one split; the test rows are the same in all splits and studies.

        Args:
            strata: (n,) such as classes, which every part has in proportion.
            groups: (n,) such as patients or videos, of which none is in two parts.

        Raises:
            ConfigError: too few rows or groups, or arrays of another length.
        """
        key = (n, id(strata), id(groups)) if strata is not None or groups is not None else n
        plain = strata is None and groups is None
        if plain and key in self._cut:
            return self._cut[key]
        parts = divide(n, seed=self._study_seed, split=self.split, strata=strata, groups=groups)
        if plain:
            self._cut[key] = parts
        return parts

    @property
    def folder(self) -> Path:
        """A folder of this training's own, for files that you want to keep; it is made when it is first asked for."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def report(self, *, epoch: int, **metrics: Any) -> None:
        """Report that an epoch, counted from 1, is over, with whatever numbers it has; call it once an epoch.

        Under the metric's name they make the learning curve and are what a pruner compares. May raise, to end the
        training: a pruner's decision, the end of the study, a training that another process has taken over.

        Raises:
            ConfigError: the epoch is no number from 1 on, or a value is none.
        """
        if self.raised is not None:
            raise self.raised
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
            raise ConfigError(f"report: epoch is a whole number from 1 on, not {epoch!r}")
        row: dict[str, float] = {"epoch": epoch}
        for name, value in metrics.items():
            row[f"{name}_" if name == SCORE else name] = as_number(value, f"report: {name}")
        name = self._metric.name
        if name in row and math.isfinite(row[name]):
            row[SCORE] = self._metric.score(row[name])
        elif self._needs_value:
            raise ConfigError(
                f"report: the pruner compares {name}, which epoch {epoch} did not report; add {name}=… or search "
                "without a pruner"
            )
        self.curve.append(row)
        if self._on_epoch is None:
            return
        try:
            self._on_epoch(epoch, row)
        except (Stopped, Pruned) as stop:
            self.raised = stop
            raise

    @property
    def should_stop(self) -> bool:
        """Whether to save and return at once, for a loop that cannot be ended by an exception from `report`."""
        if self.raised is not None or self._stopping():
            self.asked_to_stop = True
            return True
        return False

    def save(self, **state: Any) -> None:
        """Keep what the next attempt at this very training goes on from, in place of what was kept.

        Tensors, arrays, numbers, text, and lists and dicts of them, such as `state_dict()`s. A call that comes so soon
        after another that writing would take more than a twentieth of the time is left out.

        Raises:
            TrainingError: something else was given.
        """
        began = time.monotonic()
        soon = began - self._last < self._cost / WRITING
        if self._state is None or (soon and not self._stopping()):
            for name, value in state.items():
                if not isinstance(name, str) or callable(value):
                    pack({name: value})  # says what cannot be kept, also where nothing is written
            return
        tensors, text = pack(state)
        given = state.get("epoch")
        epoch = given if isinstance(given, int) else int(self.curve[-1]["epoch"]) if self.curve else 0
        self._state.save(TrainingState(epoch, tensors, list(self.curve), text, 0.0))
        self._last = time.monotonic()
        self._cost = self._last - began

    def load(self) -> dict[str, Any] | None:
        """What the last `save` of this very training kept, its tensors on the CPU; None where it begins."""
        kept = None if self._state is None else self._state.load()
        if kept is None:
            return None
        try:
            found = unpack(kept.tensors, kept.identity)
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"what an earlier attempt saved cannot be read: {error}") from error
        if not self.curve:
            self.curve = [dict(row) for row in kept.curve]
        return found

    def log(self, text: str) -> None:
        """Write a line to the log of the run."""
        self._say(str(text))

    def judging(self, part: str) -> Job:
        """The same training with another part to judge by; nothing is reported or saved through it."""
        found = object.__new__(Job)
        found.__dict__.update(self.__dict__)
        found.part, found._on_epoch, found._state, found.raised = part, None, None, None
        found.curve = []
        return found
