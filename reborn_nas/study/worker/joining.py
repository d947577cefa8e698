"""A worker from elsewhere: it knows a study's storage and has its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.errors import StudyError
from reborn_nas.study.config.config import StudyConfig, known_settings
from reborn_nas.study.config.masking import SCHEME, mask_url
from reborn_nas.study.plan.phases import Phase
from reborn_nas.study.setup.processes import processes_here
from reborn_nas.study.store.storage import JOURNAL, RunStore, connect, open_run, require_file
from reborn_nas.study.worker.logs import log_to
from reborn_nas.study.worker.progress import Progress, SilentProgress
from reborn_nas.study.worker.stopping import Stopper
from reborn_nas.study.worker.workers import run_worker, supervise

if TYPE_CHECKING:
    from reborn_nas.study.store.artifacts import Illustrate

__all__ = ["join"]

OWN = ("timeout", "workers")
"""Settings that each machine has for itself."""

PATIENCE = 300.0
"""Seconds that a worker waits for a database that does not answer when it comes."""


def join(
    storage: str,
    study: str,
    *,
    device: str = "auto",
    devices: tuple[str, ...] | str = (),
    workers: int | str = "auto",
    progress: Progress | None = None,
    timeout: float | None = None,
    illustrate: Illustrate | None = None,
    stopper: Stopper | None = None,
    expendable: bool = False,
    **overrides: Any,
) -> bool:
    """Join a study from any machine that reaches its storage and has its data; whether the study is complete.

    Args:
        storage: the storage's URL.
        study: the study's name.
        device: where to train.
        devices: one process each under a supervisor, which starts them again when they die.
        workers: processes of that kind; one trains in this process; "auto" is one a device, or one a core of a CPU.
        timeout: leave after so many seconds.
        illustrate: as in `run_search`.
        stopper: says when to leave, in place of `timeout`.
        expendable: whether this process may end itself over a training that hangs.
        overrides: settings of this machine alone: `data_dir`, `dataset`, `run` (folder for curves and weights),
            `artifacts`, `threads`; and `adopt`.

    Raises:
        StudyError: no such study, or it differs from what this machine would train.
    """
    require_file(storage)
    store = open_run(connect(storage, patience=PATIENCE), study)
    changes = {key: value for key, value in overrides.items() if value is not None}
    place = {"storage": storage, "device": device, "devices": devices}
    config = StudyConfig(**{**_settled(store, storage), **changes, **place, "workers": workers})
    if config.workers == "auto":
        from reborn_nas.training.device.selection import pick_device

        config = config.with_processes(processes_here(pick_device(device)[0], config))
    config.folder.mkdir(parents=True, exist_ok=True)
    watcher = progress or SilentProgress()
    with stopper or Stopper(timeout) as stop:
        if config.processes > 1:
            return _several(config, store, watcher, stop, illustrate)
        single = config.devices[0] if config.devices else device
        with log_to(config.folder, "0"):
            return run_worker(config, single, watcher, stop, illustrate, lead=True, expendable=expendable)


def _settled(store: RunStore, storage: str) -> dict[str, Any]:
    """The study's settings, as far as they hold on this machine too."""
    kept: Mapping[str, Any] = store.attribute("config", {})
    known = {key: value for key, value in known_settings(kept).items() if key not in OWN}
    for key in ("data_dir", "artifacts"):
        if key in known and not known[key].startswith(SCHEME) and not Path(known[key]).is_dir():
            del known[key]
    threads = (store.attribute("settings") or {}).get("threads")
    if threads is not None:  # sums depend on them
        known["threads"] = threads
    known["run"] = Path("runs") / store.name
    if storage.startswith("journal://") and Path(storage).name == JOURNAL:
        known["run"] = Path(storage.removeprefix("journal://")).absolute().parent
    return known


def _several(
    config: StudyConfig, store: RunStore, progress: Progress, stopper: Stopper, illustrate: Illustrate | None
) -> bool:
    from reborn_nas.study.setup.planning import PlanView, check_same
    from reborn_nas.study.setup.workbench import make_workbench

    bench = make_workbench(config, proofs=store.attribute("proofs"))
    check_same(store, bench)
    plan = store.attribute("plan")
    if plan is None:
        raise StudyError(
            f"study {store.name!r} in {mask_url(config.storage or '')} has no plan yet; `reborn-nas search` makes it"
        )
    phases = tuple(Phase.from_dict(row) for row in plan["phases"])
    return supervise(PlanView(bench, phases, ()), store, progress, stopper, illustrate)
