"""A training that was cut off goes on from its last state to the numbers of one that was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reborn_nas.architecture import Architecture
from reborn_nas.records import TrialRecord
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.setup.context import StudyContext
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.trainer.checkpoints import SavedState
from reborn_nas.study.trainer.objective import Objective, Stopped
from reborn_nas.training import FileCheckpoint, TrainingState
from tests.study.test_run import tiny

RUN = Run("screen/3", "screen", "design", seed=7)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StudyContext:
    return make_context(tiny(tmp_path_factory.mktemp("context"), epochs=4))


def train(
    context: StudyContext, folder: Path, stop_after: int = 0, epochs: list[int] | None = None
) -> TrialRecord:
    """Train `RUN`, asked to stop in the epoch `stop_after`."""
    stopping = False

    def on_epoch(epoch: int, metrics: Any) -> None:
        nonlocal stopping
        if epochs is not None:
            epochs.append(epoch)
        if stopping:
            raise Stopped
        stopping = epoch == stop_after - 1

    objective = Objective(context, folder, stopping=lambda: stopping)
    record = objective(RUN, Architecture(context.spec, {}), on_epoch)
    objective.forget()
    return record


def states(folder: Path) -> list[Path]:
    return sorted((folder / "states").glob("*.safetensors"))


@pytest.fixture(scope="module")
def whole(context: StudyContext, tmp_path_factory: pytest.TempPathFactory) -> TrialRecord:
    return train(context, tmp_path_factory.mktemp("whole"))


def numbers(record: TrialRecord) -> tuple[Any, ...]:
    return record.state, record.accuracy, record.train_loss_sum, record.epochs


def test_it_goes_on_to_the_same_numbers(context: StudyContext, whole: TrialRecord, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(context, tmp_path, stop_after=2)
    assert len(states(tmp_path)) == 1
    epochs: list[int] = []
    record = train(context, tmp_path, epochs=epochs)
    assert epochs == [3, 4]
    assert numbers(record) == numbers(whole)
    assert record.extra["resumed_epochs"] == 2
    assert "resumed_epochs" not in whole.extra
    assert states(tmp_path) == [], "nobody needs it any more"


def test_another_study_or_architecture_never_takes_it_up(context: StudyContext, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(context, tmp_path, stop_after=2)
    other = replace(context, config=context.config.replace(seed=5))
    epochs: list[int] = []
    train(other, tmp_path, epochs=epochs)
    assert epochs == [1, 2, 3, 4]


def test_a_damaged_state_costs_its_epochs_and_no_more(
    context: StudyContext, whole: TrialRecord, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        train(context, tmp_path, stop_after=3)
    (path,) = states(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    epochs: list[int] = []
    assert numbers(train(context, tmp_path, epochs=epochs)) == numbers(whole)
    assert epochs == [1, 2, 3, 4]


def test_the_shared_folder_is_asked_where_there_is_one(context: StudyContext, tmp_path: Path) -> None:
    shared = replace(context, config=context.config.replace(artifacts=str(tmp_path / "shared")))
    with pytest.raises(Stopped):
        train(shared, tmp_path / "one", stop_after=2)
    epochs: list[int] = []
    train(shared, tmp_path / "two", epochs=epochs)
    assert epochs == [3, 4]
    assert not (tmp_path / "one" / "states").exists()


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_state_is_kept_once_a_minute_and_when_the_training_shall_end(tmp_path: Path) -> None:
    clock, stop = Time(), False
    saved = SavedState(FileCheckpoint(tmp_path / "one.safetensors"), lambda: stop, every=60, clock=clock)
    assert not saved.due()
    clock.now = 61
    assert saved.due()
    saved.save(TrainingState(1, {"model/w": torch.ones(2)}, [], "x", 1.0))
    assert not saved.due()
    stop = True
    assert saved.due()


def test_a_full_disk_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reborn_nas.training.checkpoint.write_atomic", full)
    saved = SavedState(FileCheckpoint(tmp_path / "one.safetensors"))
    saved.save(TrainingState(1, {"model/w": torch.ones(2)}, [], "x", 1.0))
    assert saved.load() is None
