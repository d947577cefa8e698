"""A storage that is away: calls come back with it, and give up after a while with a way out."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection

from reborn_nas.errors import StudyError
from reborn_nas.study.store.patience import be_patient
from reborn_nas.study.store.storage import connect


class Time:
    """Sleeping moves the clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Away(InMemoryStorage):
    """Unreachable until a moment."""

    def __init__(self, time: Time, until: float, error: Exception) -> None:
        self.time, self.until, self.error = time, until, error
        super().__init__()

    def create_new_study(self, directions: list[StudyDirection], study_name: str | None = None) -> int:  # type: ignore[override]
        if self.time.now < self.until:
            raise self.error
        return super().create_new_study(directions, study_name)


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), StorageInternalError(), OSError(errno.ENOSPC, "full")]
)
def test_five_minutes_away(error: Exception) -> None:
    time = Time()
    storage = be_patient(Away(time, 300, error), sleep=time.sleep, clock=time.clock)
    assert storage.create_new_study([StudyDirection.MAXIMIZE]) == 0
    assert 300 <= time.now < 330


def test_away_for_good() -> None:
    time = Time()
    storage = be_patient(Away(time, 1e9, ConnectionError()), patience=600, sleep=time.sleep, clock=time.clock)
    with pytest.raises(StudyError, match="Run the same command"):
        storage.create_new_study([StudyDirection.MAXIMIZE])
    assert time.now < 600


@pytest.mark.parametrize(
    "error", [UpdateFinishedTrialError(), KeyError(), PermissionError(errno.EACCES, "no")]
)
def test_other_errors_come_at_once(error: Exception) -> None:
    time = Time()
    storage = be_patient(Away(time, 10, error), sleep=time.sleep, clock=time.clock)
    with pytest.raises(type(error)):
        storage.create_new_study([StudyDirection.MAXIMIZE])
    assert time.now == 0


def test_every_storage_that_we_open_is_patient(tmp_path: Path) -> None:
    for url in (f"journal://{tmp_path}/study.journal", f"sqlite:///{tmp_path}/study.db"):
        storage = connect(url)
        assert hasattr(storage.set_trial_state_values, "__wrapped__")
        assert hasattr(storage.get_all_trials, "__wrapped__")
        if url.startswith("journal"):
            assert hasattr(storage.append_together, "__wrapped__")  # type: ignore[attr-defined]
