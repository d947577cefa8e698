"""One run from its architecture to its record: build, convert, train, evaluate. Failures become records too."""

from __future__ import annotations

import csv
import gc
import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from reborn_nas.activations import spare_memory
from reborn_nas.architecture import Architecture
from reborn_nas.backbone import apply, build, plan
from reborn_nas.errors import DeviceLostError, DivergedError, MachineError, machine_fault, wait_out
from reborn_nas.files import safe_join, write_atomic
from reborn_nas.records import EXCESS, EXPLORED, SCORE, TrialRecord, class_path
from reborn_nas.study.config.values import SCHEME, parse_bucket
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.setup.context import StudyContext, environment
from reborn_nas.study.setup.costs import CostBook
from reborn_nas.study.setup.warm import ParentWeights, is_warm_study
from reborn_nas.study.trainer.checkpoints import (
    STATES,
    BucketCheckpoint,
    SavedState,
    Store,
    keep_weights,
    open_bucket,
)
from reborn_nas.study.trainer.classification import Classification
from reborn_nas.study.trainer.door import OnEpoch, Outcome, Pruned, Stopped, Trainer
from reborn_nas.study.trainer.own import Own
from reborn_nas.training import FileCheckpoint
from reborn_nas.training.device.selection import check_device, empty_cache, is_out_of_memory
from reborn_nas.training.step.recompute import recompute_activations

if TYPE_CHECKING:
    from torch import nn

    from reborn_nas.metric import Metric

__all__ = ["Objective", "Pruned", "Stopped"]

TIMED = ("baseline", "candidate")
"""Phases whose networks' latency is measured; the search's are where an objective or a limit asks for it."""

T = TypeVar("T")

_log = logging.getLogger("reborn_nas.study")


class Objective:
    """Runs trainings of one study in this process.

    Args:
        context: what all trainings share.
        folder: the run folder, for curves and checkpoints.
        stopping: whether a training shall end after its epoch; then its state is kept for the next attempt.

    Raises:
        StudyError: the bucket for the states cannot be reached.
    """

    def __init__(
        self, context: StudyContext, folder: Path, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._context = context
        self._folder = folder
        self._stopping = stopping
        self._state: SavedState | None = None
        self._trainer = _trainer(context, folder, stopping)
        place = context.config.artifacts
        in_bucket = place is not None and place.startswith(SCHEME)
        self._bucket: Store | None = open_bucket(str(place)) if in_bucket else None
        self._plans: dict[str, Any] = {}
        self._costs = CostBook(context)
        self._parent = ParentWeights(context, folder)
        self._curve: list[dict[str, float]] = []
        self._environment = environment(context.device)
        self._in_training = 0.0

    def __call__(self, run: Run, architecture: Architecture, on_epoch: OnEpoch | None = None) -> TrialRecord:
        """Train `architecture` as `run` says.

        Raises:
            Stopped, KeyboardInterrupt: it shall not go on.
            DeviceLostError, MachineError: the machine could not do it, which says nothing about the architecture.
        """
        started = time.perf_counter()
        self._in_training = 0.0
        record = self._blank(run, architecture)
        self._state = self._saved_state(run, architecture)
        repeated = sparing = False
        while True:
            try:
                record = self._priced(record, architecture)
                if record.state == "rejected":
                    break
                record = self._attempt(record, run, architecture, on_epoch, sparing)
            except Pruned:
                record = self._pruned(record)
            except (Stopped, KeyboardInterrupt, DeviceLostError):
                raise
            except DivergedError as error:
                if not repeated and self._context.device != "cpu":  # the same seed once more tells a glitch
                    repeated = True
                    self.forget()
                    continue
                record = self._diverged(record, run, error)
            except Exception as error:  # third-party code may raise anything; the study goes on
                if is_out_of_memory(error) and not sparing:
                    sparing = True  # recomputing changes no result; a smaller batch would change batch norm
                    continue
                check_device(self._context.device, error)
                fault = machine_fault(error)
                if fault is not None:
                    raise MachineError(fault) from error
                record = replace(record, state="failed", reason=_one_line(error))
            break
        return replace(
            record,
            seconds=self._in_training,
            overhead_seconds=time.perf_counter() - started - self._in_training,
            finished=_now(),
        )

    def _attempt(
        self,
        record: TrialRecord,
        run: Run,
        architecture: Architecture,
        on_epoch: OnEpoch | None,
        sparing: bool,
    ) -> TrialRecord:
        if sparing:  # here the failed attempt's tensors are gone
            gc.collect()
            empty_cache(self._context.device)
        model = self._build(architecture, run)
        if self._context.config.recompute:
            spare_memory(model)
        if sparing:
            recompute_activations(model)
            record = replace(record, extra={**record.extra, "activation_checkpointing": 1.0})
        began = time.perf_counter()
        self._curve = []

        def listen(epoch: int, metrics: Mapping[str, float]) -> None:
            self._curve.append(dict(metrics))
            if on_epoch is not None:
                on_epoch(epoch, metrics)

        assert self._state is not None
        try:
            outcome = self._trainer.train(model, architecture, run, listen, self._state)
        finally:
            self._in_training += time.perf_counter() - began
        return self._complete(record, model, outcome)

    def _blank(self, run: Run, architecture: Architecture) -> TrialRecord:
        return TrialRecord(
            key=run.key,
            phase=run.phase,
            arm=run.arm,
            number=-1,
            state="running",
            architecture=architecture.to_dict(),
            parameters=dict(run.parameters),
            levels=dict(run.levels),
            block=run.block,
            seed=run.seed,
            accuracy_part=run.part,
            device=self._context.device,
            digest=architecture.digest,
            started=_now(),
            environment=self._environment,
            extra=dict(self._trainer.known(run)),
            chance=self._context.metric.worst_score,
        )

    def _priced(self, record: TrialRecord, architecture: Architecture) -> TrialRecord:
        """What the architecture costs; a proposal of the exploration above a limit is rejected, before any training."""
        cost = self._costs.cost(architecture)
        record = replace(record, params=cost.params, macs=cost.macs)
        if record.phase not in EXPLORED:
            return record
        over = self._costs.excess(architecture)
        if record.phase != "search":  # a designed run is trained whatever it costs
            return replace(record, extra={**record.extra, **_over_limits(over)})
        weighed = {*over, *self._context.config.objectives} & {"latency", "memory"}
        extra = _over_limits(over)
        extra |= {name: self._costs.value(architecture, name) for name in sorted(weighed)}
        extra |= {"warm": 1.0} if self._is_warm(record.phase) else {}
        record = replace(record, extra=extra)
        broken = [f"{name} {share:.1%} above the limit" for name, share in over.items() if share > 0]
        return replace(record, state="rejected", reason=", ".join(broken)) if broken else record

    def _is_warm(self, phase: str) -> bool:
        return phase == "search" and is_warm_study(self._context)

    def _build(self, architecture: Architecture, run: Run) -> nn.Module:
        spec = architecture.backbone
        warm = self._is_warm(run.phase)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            if warm:
                model = build(spec, device="cpu")
                self._parent.load_into(model)
            else:
                model = self._context.unconverted(spec)
            if not architecture.choices:
                return model
            key = f"{architecture.digest} {warm}"
            if key not in self._plans:
                if len(self._plans) > 64:
                    self._plans.clear()
                template, discovery = self._context.traced(spec)
                self._plans[key] = plan(
                    template,
                    architecture,
                    discovery=discovery,
                    init="preserve" if warm else self._context.init,
                )
            return apply(model, self._plans[key], inplace=True, seed=run.seed)

    def forget(self) -> None:
        """The last training's result is told: its state is of no use."""
        if self._state is not None:
            self._state.discard()

    def _saved_state(self, run: Run, architecture: Architecture) -> SavedState:
        """One file for this run, this architecture and these settings: another one's state is never taken up."""
        config = self._context.config
        mark = f"{architecture.digest[:12]}-{self._context.digest}"
        name = f"{_file_name(run.key)}~{mark}.safetensors"
        if self._bucket is not None:
            words = (parse_bucket(str(config.artifacts))[1], config.study_name, STATES, name)
            key = "/".join(word for word in words if word)
            return SavedState(BucketCheckpoint(self._bucket, key), self._stopping)
        home = self._folder if config.artifacts is None else safe_join(config.artifacts, config.study_name)
        return SavedState(FileCheckpoint(safe_join(home, STATES, name)), self._stopping)

    def _complete(self, record: TrialRecord, model: nn.Module, outcome: Outcome) -> TrialRecord:
        on_test = record.accuracy_part == "test"
        validation = {} if outcome.validation is None else {SCORE: outcome.validation}
        record = replace(
            record,
            state="complete",
            accuracy=outcome.score,
            accuracy_n=outcome.n,
            test_accuracy=outcome.score if on_test else None,
            test_n=outcome.n if on_test else 0,
            train_loss_sum=outcome.train_loss_sum,
            epochs=outcome.epochs,
            extra={
                **self._latency(record),
                **record.extra,
                **outcome.extra,
                **validation,
                **self._resumed(),
            },
            environment={**self._environment, **outcome.environment},
        )
        record = replace(record, curve=self._save_curve(record.key, outcome.curve))
        if outcome.classes:
            self._save_rows(class_path(record.key), outcome.classes, "the results of each class")
        if outcome.validation is None:  # nothing ranks the weights
            return record
        ranked, objectives = outcome.validation, self._context.config.objectives
        kept = self._written(
            "the trained weights",
            lambda: keep_weights(self._folder, record, model, outcome.save_example, ranked, objectives),
        )
        return replace(record, checkpoint=kept)

    def _latency(self, record: TrialRecord) -> dict[str, float]:
        """Seconds of one image in deployment form on the study's device, of the networks that are compared.

        {} for all others, since a measurement takes as long as a short epoch, and where it cannot be had.
        """
        if record.phase not in TIMED:
            return {}
        try:
            return {"latency": self._costs.value(Architecture.from_dict(record.architecture), "latency")}
        except Exception as error:  # no training is lost for want of a stopwatch
            if machine_fault(error) is not None:
                raise
            return {}

    def _resumed(self) -> dict[str, float]:
        """Epochs that an earlier attempt at the run had done, where there was one."""
        epochs = 0 if self._state is None else self._state.resumed
        return {"resumed_epochs": float(epochs)} if epochs else {}

    def _pruned(self, record: TrialRecord) -> TrialRecord:
        """What there is at the rung that stopped the training."""
        last = self._curve[-1]
        epoch, score = int(last["epoch"]), float(last[SCORE])
        losses = [row["train_loss"] for row in self._curve if "train_loss" in row]
        return replace(
            record,
            state="pruned",
            accuracy=score,
            accuracy_n=self._trainer.judged(record.block),
            train_loss_sum=sum(losses) if losses else None,
            epochs=epoch,
            extra={**record.extra, "rung": float(epoch)},
            curve=self._save_curve(record.key, self._curve),
            reason=f"stopped by the pruner after epoch {epoch} at {self._context.metric.shown(score)}",
        )

    def _diverged(self, record: TrialRecord, run: Run, error: DivergedError) -> TrialRecord:
        """What a training that went astray counts as, so that it stays in the analysis; failed where as nothing."""
        lost = self._trainer.lost(run, error)
        if lost is None:
            reason = (
                f"{_one_line(error)}; with a worst value of the metric such a training would count as that"
            )
            return replace(record, state="failed", reason=reason)
        on_test = record.accuracy_part == "test"
        return replace(
            record,
            state="diverged",
            accuracy=lost.score,
            accuracy_n=lost.n,
            accuracy_part="validation",
            test_accuracy=lost.test if on_test else None,
            test_n=lost.test_n if on_test else 0,
            epochs=lost.epochs,
            curve=self._save_curve(record.key, lost.curve),
            reason=_one_line(error),
        )

    def _save_curve(self, key: str, curve: Sequence[Mapping[str, Any]]) -> str:
        path = f"curves/{_file_name(key)}.csv"
        rows = [curve_row(row, self._context.metric) for row in curve]
        return self._save_rows(path, rows, "the learning curve") if rows else ""

    def _save_rows(self, path: str, rows: Sequence[Mapping[str, Any]], what: str) -> str:
        """Write rows as CSV into the run folder; returns `path`."""
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        target = safe_join(self._folder, path)
        self._written(what, lambda: write_atomic(target, text.getvalue()))
        return path

    def _written(self, what: str, write: Callable[[], T]) -> T:
        """What `write` returns, once the disk takes it: a training that is done is not lost to a full one."""
        return wait_out(write, f"{what} cannot be written", stopping=self._stopping)


def _trainer(context: StudyContext, folder: Path, stopping: Callable[[], bool]) -> Trainer:
    return Classification(context) if context.own is None else Own(context, folder, stopping, _log.info)


def curve_row(row: Mapping[str, Any], metric: Metric) -> dict[str, Any]:
    """A row of a learning curve as its file has it: the value under the metric's name in place of the score."""
    if SCORE not in row:
        return dict(row)
    if metric.name in row:  # as a training of the user's own reported it
        return {name: value for name, value in row.items() if name != SCORE}
    value = row[SCORE] if metric.is_accuracy else metric.value(row[SCORE])
    return {f"validation_{metric.name}" if name == SCORE else name: value if name == SCORE else given
            for name, given in row.items()}  # fmt: skip


def _file_name(key: str) -> str:
    return key.replace("/", "-")


def _over_limits(over: Mapping[str, float]) -> dict[str, float]:
    return {f"{EXCESS}{name}": share for name, share in over.items()}


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{type(error).__name__}: {text}"[:500]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
