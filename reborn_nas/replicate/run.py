"""The plan of a replication and its run: each group of cells is an ordinary study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from reborn_nas.architecture import Architecture
from reborn_nas.backbone.cost import predict
from reborn_nas.errors import DataError, StudyError
from reborn_nas.records import TrialRecord
from reborn_nas.replicate.cells import (
    Cell,
    Group,
    Settings,
    architecture_of,
    groups_of,
    runs_of,
    thinned,
    without,
)
from reborn_nas.replicate.published import Replication
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.plan.phases import ORDER, Phase
from reborn_nas.study.search import prepare_run
from reborn_nas.study.setup.context import StudyContext, check_same
from reborn_nas.study.setup.planning import PlanView
from reborn_nas.study.setup.processes import measure_epoch
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.store.opening import check_run_folder
from reborn_nas.study.store.queue import RunQueue
from reborn_nas.study.store.reading import read_records
from reborn_nas.study.store.storage import RunStore, find_store
from reborn_nas.study.trainer.objective import Objective
from reborn_nas.study.worker.loop import Worker
from reborn_nas.study.worker.progress import Progress, SilentProgress
from reborn_nas.study.worker.schedule import Schedule
from reborn_nas.study.worker.stop import Stopper

__all__ = ["GroupPlan", "Outcome", "Plan", "RowPlan", "plan_replication", "run_replication"]


@dataclass(frozen=True)
class RowPlan:
    """One row of a group: its cost and progress.

    Args:
        row: key in the replication.
        params: trainable parameters.
        macs: multiply-accumulates of one image's forward pass.
        keys: keys of its trainings.
        done: keys of trainings that have a result.
        seconds: estimated time of one training; None if not measured.
    """

    row: str
    params: int
    macs: int
    keys: tuple[str, ...]
    done: int
    seconds: float | None = None


@dataclass(frozen=True)
class GroupPlan:
    """One study: a network at one width on one data set.

    Args:
        group: cells of the study.
        rows: rows in the table's order.
        epochs, images: epochs and training images of each training.
        device: device of the trainings.
        notes: messages for the user.
    """

    group: Group
    rows: tuple[RowPlan, ...]
    epochs: int
    images: int
    device: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The plan of a replication.

    Args:
        study, settings: replication and settings.
        cells: cells to measure.
        groups: groups in order of execution.
        absent: data set → reason why its cells are left out.
    """

    study: Replication
    settings: Settings
    cells: tuple[Cell, ...]
    groups: tuple[GroupPlan, ...]
    absent: Mapping[str, str]

    @property
    def total(self) -> int:
        """Number of trainings."""
        return sum(len(row.keys) for group in self.groups for row in group.rows)

    @property
    def done(self) -> int:
        """Number of trainings that have a result."""
        return sum(row.done for group in self.groups for row in group.rows)

    @property
    def seconds(self) -> float | None:
        """Estimated remaining time on this machine; None if it was not measured."""
        rows = [row for group in self.groups for row in group.rows if row.done < len(row.keys)]
        if any(row.seconds is None for row in rows):
            return None
        return sum((row.seconds or 0.0) * (len(row.keys) - row.done) for row in rows)

    @property
    def on_cpu(self) -> bool:
        """Whether trainings run on a CPU."""
        return any(group.device == "cpu" for group in self.groups)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a replication.

    Args:
        plan: the plan.
        records: key → finished training.
        interrupted, timed_out: reasons for ending early.
    """

    plan: Plan
    records: Mapping[str, TrialRecord]
    interrupted: bool = False
    timed_out: bool = False

    @property
    def complete(self) -> bool:
        """Whether every planned training has a result."""
        return all(
            key in self.records for group in self.plan.groups for row in group.rows for key in row.keys
        )


def plan_replication(
    study: Replication, cells: Sequence[Cell], settings: Settings, *, measure: bool = True
) -> Plan:
    """Plan the measurement of `cells`, counting finished trainings. Trains a few steps, writes nothing.

    Args:
        measure: estimate the time.

    Raises:
        RebornError: there are faults that can be found before training, or no data set is available.
    """
    absent: dict[str, str] = {}
    planned = []
    for group in groups_of(study, cells, settings):
        if group.dataset in absent:
            continue
        try:
            context = _context(study, group, settings)
        except DataError as error:
            absent[group.dataset] = str(error)
            continue
        planned.append(_plan_group(study, group, context, settings, measure))
    if not planned:
        raise DataError(
            f"{study.name}: no data set is there:\n" + "\n".join(f"  - {text}" for text in absent.values())
        )
    return Plan(study, settings, without(cells, absent), tuple(planned), absent)


def run_replication(plan: Plan, *, progress: Progress | None = None) -> Outcome:
    """Train what the plan has left, group by group. The same call resumes it.

    Raises:
        RebornError: a study's folder cannot be used.
    """
    watcher = progress or SilentProgress()
    records: dict[str, TrialRecord] = {}
    with Stopper(plan.settings.timeout) as stopper:
        for planned in plan.groups:
            if stopper.wanted:
                break
            if all(row.done == len(row.keys) for row in planned.rows):
                continue
            watcher.note(f"{planned.group.config.study_name}: {', '.join(row.row for row in planned.rows)}")
            _run_group(plan, planned, watcher, stopper)
    for planned in plan.groups:
        records |= _finished(planned.group)
    return Outcome(plan, records, stopper.interrupted, stopper.timed_out)


class _Listed(Schedule):
    """Schedules trainings that are known from the start; each is enqueued just before it is trained."""

    def __init__(self, view: PlanView, store: RunStore, queue: RunQueue, runs: Sequence[Run]) -> None:
        self._context, self._store, self._queue, self._runs = view.context, store, queue, runs
        self._phases = {phase.name: phase for phase in view.phases}

    def lead(self) -> bool:
        """Reap lost trainings and enqueue the next one; whether there was one."""
        self._queue.reap()
        return any(self._queue.enqueue([run]) for run in self.left())  # stops at the first one added

    def left(self) -> list[Run]:
        """The trainings that have no result."""
        have = {key for phase in {run.phase for run in self._runs} for key in self._queue.finished(phase)}
        return [run for run in self._runs if run.key not in have]

    def raise_if_all_fail(self) -> None:
        """A failing row does not affect the others."""

    def complete(self) -> bool:
        """Whether every training has a result."""
        if self.left():
            return False
        self._store.keep("finished", self.total)
        return True


def _context(study: Replication, group: Group, settings: Settings) -> StudyContext:
    context = make_context(group.config)
    return replace(context, images=thinned(context.images, scale=settings.scale, validation=study.validation))


def _architectures(study: Replication, group: Group, context: StudyContext) -> dict[str, Architecture]:
    return {row: architecture_of(study.rows[row], context.sites, context.spec) for row in group.rows}


def _kept(study: Replication) -> dict[str, str]:
    """Rows whose trained weights the figure needs, and their arm in a report."""
    figure = study.figure
    return {} if figure is None else {figure.before: "parent", figure.after: "candidate"}


def _plan_group(
    study: Replication, group: Group, context: StudyContext, settings: Settings, measure: bool
) -> GroupPlan:
    check_run_folder(group.config.folder)
    done = _finished(group)
    architectures = _architectures(study, group, context)
    cost = {
        row: predict(context.template, a, discovery=context.discovery) for row, a in architectures.items()
    }
    runs = runs_of(architectures, settings.seeds, keep=_kept(study))
    digests = {row: architecture.digest for row, architecture in architectures.items()}
    rows = []
    for row in group.rows:
        keys = tuple(run.key for run in runs if run.key.split("/")[1] == digests[row])
        finished = sum(key in done for key in keys)
        rows.append(RowPlan(row, cost[row].params, cost[row].macs, keys, finished))
    if measure and any(row.done < len(row.keys) for row in rows):
        parent = max(
            1, predict(context.template, Architecture(context.spec, {}), discovery=context.discovery).macs
        )
        each = _seconds(context)
        rows = [replace(row, seconds=each * row.macs / parent) for row in rows]
    held = context.images.validation_size
    return GroupPlan(
        group, tuple(rows), context.recipe.epochs, len(context.images.pool) - held,
        context.device, context.notes,
    )  # fmt: skip


def _seconds(context: StudyContext) -> float:
    """Estimated seconds of one training of the unconverted network."""
    recipe = context.recipe
    epoch = measure_epoch(context, None).seconds
    seen = recipe.epochs * (len(context.images.pool) - context.images.validation_size)
    test = len(context.images.test) / (3 * max(1, seen))  # a forward pass is a third of a training step
    return recipe.epochs * epoch * (1 + test)


def _finished(group: Group) -> dict[str, TrialRecord]:
    """Key → record of the group's trainings that have a result."""
    store = find_store(group.config)
    return {} if store is None else {record.key: record for record in read_records(store)}


def _run_group(plan: Plan, planned: GroupPlan, watcher: Progress, stopper: Stopper) -> None:
    group = planned.group
    context = _context(plan.study, group, plan.settings)
    runs = runs_of(_architectures(plan.study, group, context), plan.settings.seeds, keep=_kept(plan.study))
    earlier = _finished(group)
    phases = []
    for name in ORDER:
        keys = {run.key for run in runs if run.phase == name} | {
            k for k, r in earlier.items() if r.phase == name
        }
        phases.append(Phase(name, len(keys)))
    view = PlanView(context, tuple(phases), context.notes, done=len(earlier), resumed=bool(earlier))
    store = find_store(group.config)
    if store is not None:
        try:
            check_same(store, context)
        except StudyError as error:
            lines = "\n".join(line for line in str(error).splitlines()[1:])
            raise StudyError(
                f"{group.config.folder} holds trainings with other settings; choose another --out:\n{lines}"
            ) from None
    store = prepare_run(view)
    watcher.plan(view)
    if group.config.threads is not None:
        torch.set_num_threads(group.config.threads)
    objective = Objective(view.context, view.config.folder)
    worker = Worker(view.context, store, view.phases, objective, watcher, stopper)
    worker.schedule = _Listed(view, store, worker.queue, runs)
    worker.work(lead=True)
