"""A search from its plan to its last training, in this process or in several."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch

from reborn_nas.architecture import Architecture
from reborn_nas.errors import StudyError
from reborn_nas.known import remember_code, remember_storage
from reborn_nas.metric import speaking
from reborn_nas.records import TrialRecord, public_name
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.config.flags import resume_command, write_settings
from reborn_nas.study.config.urls import mask_url
from reborn_nas.study.plan.candidate import Candidate
from reborn_nas.study.setup.planning import PlanView, plan_search, require_device_free, with_images
from reborn_nas.study.setup.resolve import settle_numerics
from reborn_nas.study.setup.warm import ParentWeights, is_warm_study
from reborn_nas.study.store.opening import write_json
from reborn_nas.study.store.outcome import Illustrate
from reborn_nas.study.store.reading import read_records
from reborn_nas.study.store.storage import RunStore, connect, open_run
from reborn_nas.study.trainer.objective import Objective
from reborn_nas.study.worker.log import log, log_to
from reborn_nas.study.worker.loop import Worker
from reborn_nas.study.worker.pool import supervise
from reborn_nas.study.worker.progress import Progress, SilentProgress
from reborn_nas.study.worker.schedule import void_failed_results
from reborn_nas.study.worker.stop import Stopper

__all__ = ["RunResult", "run_search"]


@dataclass(frozen=True, repr=False)
class RunResult:
    """The result of a search.

    Args:
        folder: the run folder.
        name: the study's name in the storage.
        plan: what was planned.
        records: the trainings that have a result.
        candidate: the architecture compared with the parent; None while it is not decided.
        reason: how the candidate was decided.
        interrupted: a signal ended the search.
        timed_out: the time limit ended it.
        spent: the device hours ended it.
        complete: every planned training has a result.
        seconds: wall seconds of this call.
        resume_command: the command that continues the run.
    """

    folder: Path
    name: str
    plan: PlanView
    records: tuple[TrialRecord, ...]
    candidate: Architecture | None
    reason: str
    interrupted: bool
    timed_out: bool
    spent: bool
    complete: bool
    seconds: float
    resume_command: str

    def __repr__(self) -> str:
        state = "complete" if self.complete else "not complete"
        done = f"{len(self.records)} of {self.plan.total} trainings"
        return f"<RunResult {self.name!r} in {str(self.folder)!r}: {done}, {state}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the phases, how the candidate was chosen, and the next step."""
        done = Counter(record.phase for record in self.records)
        rows = "".join(
            f"<tr><td>{public_name(phase.name)}</td><td>{done[phase.name]} of {phase.count}</td>"
            f"<td>{escape(phase.reason)}</td></tr>"
            for phase in self.plan.phases
        )
        after = "reborn_nas.report(run)" if self.complete else f"to continue: {self.resume_command}"
        reason = f"<p>candidate: {escape(self.reason)}</p>" if self.reason else ""
        return (
            f"<p><b>{escape(self.name)}</b> in <code>{escape(str(self.folder))}</code></p><table>"
            f"<tr><th>phase</th><th>trainings</th><th></th></tr>{rows}</table>{reason}<p><code>{escape(after)}</code></p>"
        )


def run_search(
    config: StudyConfig,
    *,
    progress: Progress | None = None,
    plan: PlanView | None = None,
    illustrate: Illustrate | None = None,
) -> RunResult:
    """Run the search that `config` describes, or what is left of it.

    The same call on a finished run trains nothing; with a larger `trials` it adds what the larger plan has more.
    A signal or the time limit ends it early, with all finished trainings kept.

    Args:
        progress: called as phases, trainings and epochs begin and end.
        plan: what `plan_search(config)` gave, to spare making it again.
        illustrate: draws each finished training for optuna-dashboard, see `store.outcome.Illustrate`.

    Raises:
        RebornError: what is wrong with the configuration, the data or the storage.
    """
    began = time.monotonic()
    watcher: Progress = progress or SilentProgress()
    require_device_free(config)
    view = with_images(plan if plan is not None else plan_search(config))
    config = view.config
    store = prepare_run(view)
    watcher.plan(view)
    with speaking(view.context.metric), log_to(config.folder, "-" if config.processes > 1 else "0"):
        log.info("%d of %d trainings are done; %d processes", view.done, view.total, config.processes)
        result = _run_planned(view, store, watcher, illustrate, began)
        log.info("complete" if result.complete else "stopped early")
    return result


def _run_planned(
    view: PlanView, store: RunStore, watcher: Progress, illustrate: Illustrate | None, began: float
) -> RunResult:
    config = view.config
    if config.processes > 1 and is_warm_study(view.context) and view.done < view.total:
        ParentWeights(view.context, config.folder).ensure()  # once, before the workers start
    with Stopper(config.timeout) as stopper, _resumable(config):
        if config.processes > 1:
            complete = supervise(view, store, watcher, stopper, illustrate)
        else:
            _set_threads(view.config)
            settle_numerics(deterministic=config.deterministic)
            objective = Objective(view.context, config.folder, stopping=lambda: stopper.wanted)
            engine = Worker(
                view.context,
                store,
                view.phases,
                objective,
                watcher,
                stopper,
                settled=objective.forget,
                illustrate=illustrate,
            )
            complete = engine.work(lead=True)
    return _result(view, store, stopper, complete, time.monotonic() - began)


@contextmanager
def _resumable(config: StudyConfig) -> Iterator[None]:
    """Report how to continue after an interrupt outside of a training; the worker handles one inside."""
    try:
        yield
    except KeyboardInterrupt:
        raise StudyError(
            f"interrupted while the storage was away; what is finished is kept. To continue: {resume_command(config)}"
        ) from None


def prepare_run(view: PlanView) -> RunStore:
    """Create or extend the run: its folder, its studies, its settings and its plan."""
    config = view.config
    folder = config.folder
    empty = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"run folder {folder} cannot be made: {error}; choose another with --run") from error
    try:
        store = view.store or open_run(
            connect(config.storage_url),
            config.study_name,
            create=True,
            objectives=config.objectives,
            metric=config.judged_by,
        )
    except StudyError:
        if empty:
            with suppress(OSError):
                folder.rmdir()
        raise
    described = {"study": config.study_name, "digest": view.context.digest, **_portable(config)}
    if store.attribute("digest") != view.context.digest:
        store.keep("settings", view.context.settings)
        store.keep("digest", view.context.digest)
    store.keep("config", described)
    proofs = view.context.proofs
    if store.attribute("proofs") != proofs:
        store.keep("proofs", proofs)
    changed = list(view.adopted) != list(store.attribute("adopted", ()))
    if changed:
        store.keep("adopted", list(view.adopted))
    if changed or (store.attribute("plan") or {}).get("phases") != view.to_dict()["phases"]:
        store.keep("plan", view.to_dict())
    void_failed_results(store, view.phases)
    try:
        write_json(folder / "config.json", {**described, "settings": view.context.settings})
        write_json(folder / "plan.json", view.to_dict())
        write_settings(config)
    except OSError as error:
        raise StudyError(
            f"run folder {folder} cannot be written: {error}; repeat the command when it can"
        ) from error
    for spec in view.context.code:
        remember_code(spec)
    if config.storage is not None:
        remember_storage(mask_url(config.storage))
    return store


def _portable(config: StudyConfig) -> dict[str, object]:
    return {key: value for key, value in config.to_dict().items() if key not in ("adopt",)}


def _set_threads(config: StudyConfig) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def _result(view: PlanView, store: RunStore, stopper: Stopper, complete: bool, seconds: float) -> RunResult:
    kept = store.attribute("candidate")
    candidate = Candidate.from_dict(kept) if kept else None
    config = view.config
    return RunResult(
        folder=config.folder,
        name=config.study_name,
        plan=view,
        records=tuple(read_records(store)),
        candidate=candidate.architecture if candidate else None,
        reason=candidate.reason if candidate else "",
        interrupted=not complete and stopper.interrupted,
        timed_out=not complete and stopper.timed_out,
        spent=not complete and stopper.spent,
        complete=complete,
        seconds=seconds,
        resume_command=resume_command(config),
    )
