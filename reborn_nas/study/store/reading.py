"""Reading a run back: its records, plan and progress. Nothing is trained or written."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.architecture import Architecture
from reborn_nas.errors import RebornError, StudyError
from reborn_nas.files import safe_join
from reborn_nas.metric import Metric
from reborn_nas.records import TrialRecord, best_observed, class_path
from reborn_nas.study.config.own import metric_of
from reborn_nas.study.plan.phases import ORDER, Phase
from reborn_nas.study.store.compat import trial_id
from reborn_nas.study.store.kept import is_kept, read_kept
from reborn_nas.study.store.opening import open_store, reads_run
from reborn_nas.study.store.storage import RunStore

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "RunInfo",
    "RunStatus",
    "load_records",
    "load_run",
    "read_records",
    "read_status",
    "status",
]


def read_records(store: RunStore) -> list[TrialRecord]:
    """The records of all runs with a result, in the order of phases, then of trials; one per run."""
    records: dict[str, TrialRecord] = {}
    void = store.void()
    for study in store.studies():
        for trial in study.get_trials(deepcopy=False):
            data = trial.user_attrs.get("record")
            if data is None or not trial.state.is_finished() or trial_id(trial) in void:
                continue
            try:
                record = TrialRecord.from_dict({**data, "number": trial.number})
            except (TypeError, KeyError) as error:
                raise StudyError(
                    f"trial {trial.number} of {study.study_name!r} holds no usable record: {error}"
                ) from None
            records.setdefault(record.key, record)
    order = {name: index for index, name in enumerate(ORDER)}
    return sorted(records.values(), key=lambda record: (order.get(record.phase, 99), record.number))


@reads_run
def load_records(run: str | Path, name: str | None = None) -> list[TrialRecord]:
    """The records of a run folder, or of the study `name` at a storage URL."""
    if "://" not in str(run) and is_kept(Path(run)):
        return list(read_kept(Path(run))["records"])
    return read_records(open_store(run, name, results_only=True))


@dataclass(frozen=True, repr=False)
class RunInfo:
    """A run as it is in its storage.

    Args:
        folder: the run folder; None if only a storage was read.
        name: the study's name.
        config: the user's configuration, JSON values.
        settings: everything that changes results.
        plan: phases, factors, parameters, sites, notes.
        records: the trainings that have a result.
        candidate: the architecture compared with the parent, or None.
        reason: how the candidate was decided.
        complete: whether every planned training has a result.
        numbers: trial number in the study of the run's name, as the dashboard shows it → key of its training,
            also of the screen's trainings, of which that study holds copies.
        live: phase and state (WAITING, RUNNING) → attempts that have not finished.
    """

    folder: Path | None
    name: str
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    plan: Mapping[str, Any]
    records: tuple[TrialRecord, ...]
    candidate: Architecture | None
    reason: str = ""
    complete: bool = False
    decisions: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[int, str] = field(default_factory=dict)
    live: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<RunInfo {self.name!r}: {len(self.records)} of {self.plan.get('total', '?')} trainings>"

    @property
    def metric(self) -> Metric:
        """The metric by which trainings are judged."""
        return metric_of(self.config)

    @property
    def start(self) -> str:
        """The weights from which every training started, in words; "" where these were fresh."""
        if self.config.get("checkpoint"):
            return f"the weights in {self.config['checkpoint']}"
        return "the library's published weights" if self.config.get("pretrained") else ""

    @property
    def sites(self) -> list[Mapping[str, Any]]:
        """The backbone's sites, one mapping per site."""
        return list(self.plan.get("sites", ()))

    @property
    def arms(self) -> tuple[str, str]:
        """The activation on trial and its reference."""
        tested, reference = self.plan.get("contrast") or ("reborn", "original")
        return str(tested), str(reference)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of the plan, including those left out."""
        return tuple(Phase.from_dict(row) for row in self.plan.get("phases", ()))

    @property
    def environment(self) -> Mapping[str, str]:
        """Versions, host, device and form of the trainings; if they differ, each value with its trainings."""
        counts: dict[str, Counter[str]] = {}
        for record in self.records:
            for name, value in record.environment.items():
                counts.setdefault(name, Counter())[value] += 1
        return {
            name: next(iter(found))
            if len(found) == 1
            else "; ".join(f"{one} ({n})" for one, n in found.items())
            for name, found in counts.items()
        }

    def curve(self, record: TrialRecord | str) -> pd.DataFrame | None:
        """The learning curve of a record (or of its key), None if it is missing or damaged."""
        if isinstance(record, str):
            record = next((one for one in self.records if one.key == record), _NOBODY)
        found = self._table(record.curve)
        if found is None:
            return None
        numbers = found.select_dtypes("number")
        if "epoch" not in numbers or len(numbers.columns) != len(found.columns):
            return None
        return found

    def classes(self, key: str) -> pd.DataFrame | None:
        """The results by class of the training `key`, None if they are missing or damaged."""
        return self._table(class_path(key), keep_default_na=False)

    def _table(self, relative: str, **options: Any) -> pd.DataFrame | None:
        """A CSV of the run folder; None if it is missing or cannot be read."""
        path = self._file(relative)
        if path is None:
            return None
        import pandas as pd

        try:
            return pd.read_csv(path, **options) if path.stat().st_size <= MOST_BYTES else None
        except (OSError, ValueError):
            return None

    def checkpoint(self, record: TrialRecord) -> Path | None:
        """The trained weights of a record, None if they were not kept."""
        return self._file(record.checkpoint)

    def _file(self, relative: str) -> Path | None:
        if not relative or self.folder is None:
            return None
        try:
            path = safe_join(self.folder, relative)
        except RebornError:
            return None
        return path if path.is_file() else None


_NOBODY = TrialRecord("", "search", "", -1, "failed", {})


MOST_BYTES = 1 << 24
"""A larger file is not a learning curve."""

MANY = 2000
"""Records above which freeing the storage's trials is worth half a second."""


@reads_run
def load_run(run: str | Path, name: str | None = None) -> RunInfo:
    """Load a run folder, an exported run, or the study `name` at a storage URL. Raises StudyError."""
    if "://" not in str(run) and is_kept(Path(run)):
        found = read_kept(Path(run))
        return RunInfo(folder=None, **found, **_candidate(found["decisions"].get("candidate")))
    store = open_store(run, name, results_only=True)
    info = _read(store, None if "://" in str(run) else Path(run))
    if len(info.records) > MANY:
        del store
        gc.collect()  # the storage's trials are in reference cycles, and as large as the records
    return info


def _read(store: RunStore, folder: Path | None) -> RunInfo:
    kept = store.attribute("candidate")
    plan = store.attribute("plan", {})
    live: Counter[tuple[str, str]] = Counter()
    for study in store.studies():
        for trial in study.get_trials(deepcopy=False):
            if not trial.state.is_finished() and "phase" in trial.user_attrs:
                live[trial.user_attrs["phase"], trial.state.name] += 1
    return RunInfo(
        folder=folder,
        name=store.name,
        config=store.attribute("config", {}),
        settings=store.attribute("settings", {}),
        plan=plan,
        records=tuple(read_records(store)),
        **_candidate(kept),
        complete=store.attribute("finished", -1) == plan.get("total"),
        decisions={"candidate": kept, "confirm": {"sites": store.attribute("top")}},
        numbers=_numbers(store),
        live=live,
    )


def _candidate(kept: Mapping[str, Any] | None) -> dict[str, Any]:
    if not kept:
        return {"candidate": None}
    return {"candidate": Architecture.from_dict(kept["architecture"]), "reason": kept["reason"]}


def _numbers(store: RunStore) -> dict[int, str]:
    """Trial number in the study of the run's name → key; a copy has the key of its original."""
    found = {}
    for trial in store.study("search").get_trials(deepcopy=False):
        key = trial.user_attrs.get("copy_of") or (trial.user_attrs.get("record") or {}).get("key")
        if key:
            found[trial.number] = str(key)
    return found


@dataclass(frozen=True)
class PhaseStatus:
    """Progress of one phase: trainings planned, with a result, running, waiting, and failed results."""

    name: str
    planned: int
    done: int
    running: int
    waiting: int
    failed: int
    reason: str


@dataclass(frozen=True)
class RunStatus:
    """Progress of a run."""

    name: str
    phases: tuple[PhaseStatus, ...]
    complete: bool
    best: TrialRecord | None
    candidate: Architecture | None
    reason: str

    @property
    def total(self) -> int:
        """Trainings planned."""
        return sum(phase.planned for phase in self.phases)

    @property
    def done(self) -> int:
        """Trainings with a result."""
        return sum(phase.done for phase in self.phases)

    @property
    def running(self) -> int:
        """Trainings in progress."""
        return sum(phase.running for phase in self.phases)


@reads_run
def status(run: str | Path | RunInfo, name: str | None = None) -> RunStatus:
    """Progress of a run. `best` is the best training by validation accuracy: an observation, not a claim."""
    info = run if isinstance(run, RunInfo) else load_run(run, name)
    phases = []
    for phase in info.phases:
        own = [record for record in info.records if record.phase == phase.name]
        phases.append(
            PhaseStatus(
                phase.name,
                phase.count,
                len(own),
                info.live.get((phase.name, "RUNNING"), 0),
                info.live.get((phase.name, "WAITING"), 0),
                sum(record.state in ("failed", "diverged") for record in own),
                phase.reason,
            )
        )
    return RunStatus(
        info.name, tuple(phases), info.complete, best_observed(info.records), info.candidate, info.reason
    )


@reads_run
def read_status(store: RunStore) -> RunStatus:
    """As `status`, from an open store."""
    return status(_read(store, None))
