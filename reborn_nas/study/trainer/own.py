"""A training of the user's own in a study: called with a network and a job, judged by what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from reborn_nas.backbone.load.third_party import undisturbed
from reborn_nas.backbone.trace.inputs import arguments, moved
from reborn_nas.errors import ConfigError, DivergedError, TrainingError
from reborn_nas.files import safe_join, write_atomic
from reborn_nas.metric import Metric, as_number
from reborn_nas.records import SCORE
from reborn_nas.study.setup.warm import search_epochs
from reborn_nas.study.trainer.door import OnEpoch, Outcome, Pruned, Stopped
from reborn_nas.study.trainer.job import Job
from reborn_nas.training.nested import pack

if TYPE_CHECKING:
    from torch import nn

    from reborn_nas.architecture import Architecture
    from reborn_nas.study.plan.designs import Run
    from reborn_nas.study.setup.context import OwnTraining, StudyContext
    from reborn_nas.study.trainer.checkpoints import SavedState

__all__ = ["Own", "read_value"]

JOBS = "jobs"
"""Folder in the run folder for what trainings write through `job.folder`."""

TAKEN = frozenset({"latency", "memory", "warm", SCORE, "resumed_epochs", "rung", "learning_rate"})
"""Names of scalars that a record has a meaning for already."""


class Own:
    """The `Trainer` of a study with a training of the user's own.

    Args:
        context: what all trainings share.
        folder: the run folder.
        stopping: whether a training shall end after its epoch.
        say: writes a line to the run's log.
    """

    def __init__(
        self, context: StudyContext, folder: Path, stopping: Callable[[], bool], say: Callable[[str], None]
    ) -> None:
        assert context.own is not None
        self._context, self._own = context, context.own
        self._folder, self._stopping, self._say = folder, stopping, say
        self._last: float | None = None
        self._interrupted: set[int] = set()
        self.left_on = context.device
        """Where the last training left its network, which is put back to be judged."""

    def train(
        self,
        model: nn.Module,
        architecture: Architecture,
        run: Run,
        on_epoch: OnEpoch,
        state: SavedState | None,
        *,
        epochs: int | None = None,
    ) -> Outcome:
        """See `Trainer`; `epochs` is the budget, that of the study where None."""
        job = self.job(run, architecture, on_epoch, state)
        job.epochs = epochs or job.epochs
        self._last = None
        model = model.to(self._context.device)
        names = set(model.state_dict())
        with undisturbed(run.seed):
            returned = self._call(partial(self._own.train, model, job), job)
        self.left_on = next((str(one.device) for one in model.parameters()), self._context.device)
        if self.left_on == "meta":
            raise ConfigError("train left the network on the device meta, where it has no weights")
        if other := sorted(names ^ set(model.state_dict())):
            raise ConfigError(
                f"train left a network with other parameters, such as {other[0]}: train the network that it is called "
                "with as it is, or build what you add in the backbone's factory"
            )
        self._last = next((row[SCORE] for row in reversed(job.curve) if SCORE in row), None)
        if self._own.evaluate is None:
            score, n, extra = self._read(returned, "train", run.part)
            validation = score if run.part == "validation" else None
        else:
            validation, n, extra = self._judge(model, job, run, "validation")
            score = validation
            if run.part != "validation":
                score, n, more = self._judge(model, job, run, run.part)
                extra = more
        return Outcome(
            score,
            n,
            validation,
            max((int(row["epoch"]) for row in job.curve), default=job.epochs),
            curve=job.curve,
            extra=extra,
            save_example=partial(_save_example, model, self._own, self._context),
        )

    def judge(self, model: nn.Module, architecture: Architecture, run: Run) -> None:
        """Evaluate `model` as it is, and forget what comes out."""
        self._judge(model, self.job(run, architecture, None, None), run, run.part)

    def lost(self, run: Run, error: Exception) -> Outcome | None:
        """The metric's worst, or the last value that was reported; without either it counts as nothing."""
        worst = self._own.metric.worst_score
        known = self._last if worst is None else worst
        return None if known is None else Outcome(known, test=known)

    def judged(self, block: int) -> int:
        """See `Trainer`."""
        return 0

    def known(self, run: Run) -> Mapping[str, float]:
        """See `Trainer`."""
        return {} if run.rate == 1.0 else {"rate": run.rate}

    def job(
        self, run: Run, architecture: Architecture, on_epoch: OnEpoch | None, state: SavedState | None
    ) -> Job:
        """What the training of `run` is told."""
        config = self._context.config
        return Job(
            run,
            architecture,
            epochs=search_epochs(self._context) if run.phase == "search" else self._context.epochs,
            device=self._context.device,
            study_seed=config.seed,
            metric=self._own.metric,
            folder=safe_join(self._folder, JOBS, run.key.replace("/", "-")),
            on_epoch=on_epoch,
            state=state,
            stopping=self._stopping,
            say=self._say,
            part="validation" if self._own.evaluate is not None else run.part,
            pruned=run.phase == "search" and config.pruner != "none",
        )

    def _judge(self, model: nn.Module, job: Job, run: Run, part: str) -> tuple[float, int, dict[str, float]]:
        assert self._own.evaluate is not None
        judging = job.judging(part)
        model.to(self._context.device)  # Lightning leaves it on the CPU
        with undisturbed(run.seed):
            returned = self._call(partial(self._own.evaluate, model, judging), judging)
        return self._read(returned, "evaluate", part)

    def _call(self, function: Callable[[], Any], job: Job) -> Any:
        """What the function returns. A stop that it swallowed still counts, and so does leaving the process.

        An error while the study ends is taken for its end, in whatever form the user's framework passes that on
        (Lightning: SystemExit, SIGTERMException): the run gets another attempt, in which a real fault shows again.
        """
        try:
            returned = function()
        except (Stopped, Pruned):
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and (
                self._stopping() or job.seed not in self._interrupted
            ):
                self._interrupted.add(
                    job.seed
                )  # Ctrl-C past a handler of its own, or its own doing: once more tells
                raise
            if job.raised is not None:
                raise job.raised from error
            if self._stopping():
                raise Stopped from error
            if isinstance(error, Exception):
                raise
            left = (
                f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"raised {error!r}"
            )
            raise TrainingError(f"it {left}") from error
        if job.raised is not None:
            raise job.raised
        if job.asked_to_stop and not (job.curve and job.curve[-1]["epoch"] >= job.epochs):
            raise Stopped
        return returned

    def _read(self, returned: Any, what: str, part: str) -> tuple[float, int, dict[str, float]]:
        value, n, extra = read_value(returned, self._own.metric, what, part)
        if not math.isfinite(value):
            raise DivergedError(f"{what} returned {self._own.metric.name} {value:g} on the {part} part")
        return self._own.metric.score(value), n, extra


def read_value(returned: Any, metric: Metric, what: str, part: str) -> tuple[float, int, dict[str, float]]:
    """The metric's value, the rows that it rests on (0 where nobody says), and the other numbers.

    Raises:
        ConfigError: nothing, no number, or not the metric was returned; a number outside of the metric's range.
    """
    form = (
        f"the value of {metric.name} on job.part ({part}), a number or a dict such as {{{metric.name!r}: …}}"
    )
    if returned is None:
        raise ConfigError(f"{what} returned None; return {form}")
    if not isinstance(returned, Mapping):
        return metric.check(_told(returned, metric.name, what)), 0, {}
    if metric.name not in returned:
        got = ", ".join(sorted(map(str, returned))) or "an empty dict"
        raise ConfigError(f"{what} returned {got}, not {metric.name}; return {form}")
    found = {str(name): _told(value, str(name), what) for name, value in returned.items()}
    value, n = metric.check(found.pop(metric.name)), found.pop("n", 0.0)
    if not (math.isfinite(n) and n >= 0 and n == int(n)):
        raise ConfigError(f"{what}: n is the number of {metric.counted} that the value rests on, not {n:g}")
    return value, int(n), {(f"{name}_" if name in TAKEN else name): number for name, number in found.items()}


def _told(value: Any, name: str, what: str) -> float:
    try:
        return as_number(value, name)
    except ConfigError as error:
        raise ConfigError(f"{what} returned {error}") from None


def _save_example(model: nn.Module, own: OwnTraining, context: StudyContext, path: Path) -> None:
    """Write what the trained network makes of its example inputs, where it takes and returns tensors."""
    example = own.example
    if example is None:  # a library's network, which takes images of its own size
        example = torch.zeros(2, *(context.spec.input_size or ()))
    modes = {module: module.training for module in model.modules()}
    device = str(next(model.parameters(), torch.empty(0)).device)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            args, kwargs = arguments(moved(example, device))
            outputs = model.eval()(*args, **kwargs)
    except Exception:  # an example is a convenience; no training is lost for want of it
        return
    finally:
        for module, mode in modes.items():
            module.training = mode
    try:
        tensors, text = pack({"inputs": example, "outputs": outputs})
    except TrainingError:  # a structure of its own
        return
    write_atomic(path, save(tensors, metadata={"nested": text}))
