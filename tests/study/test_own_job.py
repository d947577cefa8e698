"""What a training of one's own is told: rows, saving, reporting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.errors import ConfigError, TrainingError
from reborn_nas.metric import Metric
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.trainer.checkpoints import SavedState
from reborn_nas.study.trainer.door import Pruned, Stopped
from reborn_nas.study.trainer.job import Job
from reborn_nas.study.trainer.parts import NAMES, divide
from reborn_nas.training import FileCheckpoint
from reborn_nas.training.nested import pack, unpack

RMSE = Metric("rmse", unit="degrees", higher_is_better=False, worst=90.0)


def a_job(folder: Path, **more: Any) -> Job:
    run = Run("screen/3", "screen", "design", seed=7, block=1)
    given: dict[str, Any] = {
        "epochs": 5,
        "device": "cpu",
        "study_seed": 0,
        "metric": RMSE,
        "folder": folder / "j",
    }
    return Job(run, Architecture(BackboneSpec("net.py:make"), {}), **{**given, **more})


@pytest.mark.parametrize("n", [8, 40, 1000, 20_000])
def test_parts_are_disjoint_and_whole(n: int) -> None:
    parts = divide(n, seed=0, split=0)
    rows = np.concatenate([parts[name] for name in NAMES])
    assert sorted(rows.tolist()) == list(range(n))
    share = 0.1 if n >= 10_000 else 0.2
    for name in NAMES[1:]:
        assert len(parts[name]) == pytest.approx(share * n, abs=1)


def test_splits_change_validation_alone_and_seeds_never_the_test_part() -> None:
    first, second, other = (
        divide(500, seed=0, split=0),
        divide(500, seed=0, split=1),
        divide(500, seed=1, split=0),
    )
    assert set(first.validation) != set(second.validation)
    assert (first.reserve == second.reserve).all()
    assert (first.test == second.test).all()
    assert set(first.reserve) != set(other.reserve)
    assert (first.test == other.test).all()
    assert (divide(500, seed=0, split=0).train == first.train).all()


def test_strata_are_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    parts = divide(1000, seed=0, split=0, strata=labels)
    for name in NAMES[1:]:
        counts = np.bincount(labels[parts[name]])
        assert counts.tolist() == pytest.approx([120, 60, 20], abs=2)


def test_no_group_is_in_two_parts() -> None:
    groups = np.random.default_rng(0).integers(0, 40, 900)
    parts = divide(900, seed=0, split=2, groups=torch.from_numpy(groups))
    found = [set(groups[parts[name]]) for name in NAMES]
    assert sum(map(len, found)) == len(set.union(*found)) == 40
    assert len(parts.test) == pytest.approx(180, abs=50)


@pytest.mark.parametrize("seed", range(20))
def test_a_group_larger_than_a_part_is_trained_on(seed: int) -> None:
    groups = [0] * 500 + [1 + row // 10 for row in range(1000)]
    parts = divide(1500, seed=seed, split=seed, groups=groups)
    assert set(range(500)) <= set(parts.train.tolist())
    assert [len(parts[name]) for name in NAMES[1:]] == [300] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "above 0"),
        ({"n": 7}, "7 rows cannot be divided"),
        ({"n": 2.5}, "whole number"),
        ({"n": 50, "groups": [0] * 50}, "1 groups cannot"),
        (
            {"n": 50, "groups": [0] * 41 + list(range(1, 10))},
            "no row is left for reserve and validation; the groups",
        ),
        ({"n": 50, "strata": [None, 1] * 25}, "strata has entries that cannot be compared"),
        ({"n": 50, "strata": [0] * 49}, r"each of the 50 rows, not shape \(49,\)"),
    ],
)
def test_faults_of_indices(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        a_job(tmp_path).indices(arguments.pop("n"), **arguments)


def test_a_part_by_name(tmp_path: Path) -> None:
    job = a_job(tmp_path)
    parts = job.indices(100)
    assert (parts[job.part] == parts.validation).all()
    with pytest.raises(ConfigError, match="a part is one of"):
        parts["valid"]


def test_states_come_back_without_pickle() -> None:
    network = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    state = {
        "model": network.state_dict(), "optimiser": optimiser.state_dict(), "epoch": 3, "best": math.nan,
        "names": ["a", ("b", None)], "array": np.arange(3.0), "generator": torch.get_rng_state(), "flag": True,
        "count": np.int64(4),
    }  # fmt: skip
    back = unpack(*pack(state))
    assert list(back) == list(state)
    assert back["names"] == ["a", ("b", None)]
    assert back["flag"] is True
    assert back["count"] == 4
    assert math.isnan(back["best"])
    assert (back["array"] == np.arange(3.0)).all()
    assert back["optimiser"]["state"].keys() == optimiser.state_dict()["state"].keys()
    assert torch.equal(back["generator"], state["generator"])
    torch.optim.Adam(network.parameters()).load_state_dict(back["optimiser"])
    assert torch.equal(back["model"]["weight"], network.weight)


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"save.model: keeps .* not Linear; .* state_dict"):
        a_job(tmp_path).save(model=torch.nn.Linear(1, 1))


def test_a_job_loads_what_it_saved_last(tmp_path: Path) -> None:
    def saved() -> SavedState:
        return SavedState(FileCheckpoint(tmp_path / "state.safetensors"))

    first = a_job(tmp_path, state=saved())
    assert first.load() is None
    first.report(epoch=1, rmse=3.0)
    first.save(weights=torch.arange(3), epoch=1)
    second = a_job(tmp_path, state=saved())
    state = second.load()
    assert state is not None
    assert state["epoch"] == 1
    assert state["weights"].tolist() == [0, 1, 2]
    assert second.curve == [{"epoch": 1, "rmse": 3.0, "validation_score": pytest.approx(-0.03)}]


def test_saving_takes_a_twentieth_of_the_time_unless_the_training_is_to_end(tmp_path: Path) -> None:
    stopping = False
    state = SavedState(FileCheckpoint(tmp_path / "state.safetensors"))
    job = a_job(tmp_path, state=state, stopping=lambda: stopping)
    job.save(epoch=1)
    job._cost = 1000.0  # as if writing took so many seconds
    job.save(epoch=2)
    kept = job.load()
    assert kept is not None
    assert kept["epoch"] == 1
    stopping = True
    job.save(epoch=3)
    kept = job.load()
    assert kept is not None
    assert kept["epoch"] == 3


def test_reports_become_rows_of_numbers(tmp_path: Path) -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    job = a_job(tmp_path, on_epoch=lambda epoch, row: heard.append((epoch, dict(row))))
    job.report(epoch=1, rmse=torch.tensor(12.0), loss=np.float32(0.5))
    assert heard == [(1, {"epoch": 1, "rmse": 12.0, "loss": 0.5, "validation_score": pytest.approx(-0.12)})]
    for wrong in (0, 1.5, True, "1"):
        with pytest.raises(ConfigError, match="epoch is a whole number"):
            job.report(epoch=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="report: loss is a number, not 'low'"):
        job.report(epoch=2, loss="low")


def test_a_pruner_needs_the_metric(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the pruner compares rmse, which epoch 1 did not report"):
        a_job(tmp_path, pruned=True).report(epoch=1, loss=0.5)


@pytest.mark.parametrize("stop", [Stopped, Pruned])
def test_a_stop_that_was_swallowed_is_raised_again(stop: type[Exception], tmp_path: Path) -> None:
    def on_epoch(epoch: int, row: object) -> None:
        raise stop

    job = a_job(tmp_path, on_epoch=on_epoch)
    for epoch in (1, 2):
        with pytest.raises(stop):
            job.report(epoch=epoch)
    assert job.should_stop
    assert isinstance(job.raised, stop)


def test_the_folder_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    job = a_job(tmp_path)
    assert not (tmp_path / "j").exists()
    (job.folder / "picture.txt").write_text("x")
    assert (tmp_path / "j" / "picture.txt").is_file()
