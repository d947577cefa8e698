"""Memory that runs out, or shall not: blocks make their maps again, and the result stays what it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reborn_nas.architecture import Architecture, Choice
from reborn_nas.errors import DeviceLostError
from reborn_nas.records import TrialRecord
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.setup.context import StudyContext
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.trainer import classification
from reborn_nas.study.trainer.objective import Objective
from reborn_nas.training.device.selection import check_device
from tests.study.test_run import tiny

RUN = Run("screen/3", "screen", "design", seed=7)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StudyContext:
    return make_context(tiny(tmp_path_factory.mktemp("context"), epochs=2))


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each training that began: whether its blocks are sparing."""
    seen: list[bool] = []
    train = classification.train

    def watched(model: torch.nn.Module, *args: Any, **options: Any) -> Any:
        seen.append(all(part.sparing for part in model.modules() if hasattr(part, "sparing")))
        return train(model, *args, **options)

    monkeypatch.setattr("reborn_nas.study.trainer.classification.train", watched)
    return seen


def train_reborn(context: StudyContext, folder: Path) -> TrialRecord:
    everywhere = {site.name: Choice.parse("reborn") for site in context.sites}
    return Objective(context, folder)(RUN, Architecture(context.spec, everywhere))


def test_recompute_changes_no_result(context: StudyContext, tmp_path: Path, attempts: list[bool]) -> None:
    plain = train_reborn(context, tmp_path / "plain")
    spared = train_reborn(
        replace(context, config=context.config.replace(recompute=True)), tmp_path / "spared"
    )
    assert attempts == [False, True]
    assert plain.state == spared.state == "complete"
    assert (plain.accuracy, plain.train_loss_sum) == (spared.accuracy, spared.train_loss_sum)


def test_memory_that_runs_out_once(
    context: StudyContext, tmp_path: Path, attempts: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train_reborn(context, tmp_path / "plain")
    watched = classification.train

    def small(*args: Any, **options: Any) -> Any:
        before = len(attempts)
        result = watched(*args, **options)
        if not attempts[before]:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return result

    monkeypatch.setattr("reborn_nas.study.trainer.classification.train", small)
    record = train_reborn(context, tmp_path / "short")
    assert attempts == [False, False, True]
    assert record.state == "complete"
    assert record.extra["activation_checkpointing"] == 1.0
    assert record.accuracy == plain.accuracy


def test_memory_that_runs_out_twice(
    context: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr("reborn_nas.study.trainer.classification.train", none)
    record = train_reborn(context, tmp_path)
    assert record.state == "failed"
    assert "2 GiB" in record.reason


def test_a_training_that_fails_is_the_networks_fault_while_the_device_computes(
    context: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU stand-in for the probe: a dead CUDA context would make every later training of the process fail."""

    def fails(*args: Any, **options: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("reborn_nas.study.trainer.classification.train", fails)
    assert train_reborn(context, tmp_path / "computes").state == "failed"
    monkeypatch.setattr(
        "reborn_nas.study.trainer.objective.check_device", lambda _, error: check_device("cuda", error)
    )
    monkeypatch.setattr("reborn_nas.training.device.selection.probe", fails)
    with pytest.raises(DeviceLostError, match="no longer answers in this process, after: CUDA error"):
        train_reborn(context, tmp_path / "lost")
