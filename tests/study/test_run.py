"""Real searches on the digits, in one process: small ones, resumed, refused, stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reborn_nas.errors import ConfigError, RebornError, StudyError
from reborn_nas.records import TrialRecord
from reborn_nas.study import (
    SilentProgress,
    StudyConfig,
    load_records,
    load_run,
    plan_search,
    run_search,
    status,
)
from reborn_nas.study.setup.planning import next_total

TINY: dict[str, Any] = {
    "backbone": "convnet5",
    "backbone_arguments": {"width": 0.125},
    "epochs": 1,
    "baseline": 2,
    "screen": 0,
    "candidate": 2,
    "trials": 6,
    "threads": 1,
    "space": "two_level",
}


def tiny(folder: Path, **changes: Any) -> StudyConfig:
    return StudyConfig(**{**TINY, "run": folder, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    result = run_search(tiny(folder))
    assert result.complete
    return folder


def test_a_whole_run_and_what_it_leaves(finished: Path) -> None:
    info = load_run(finished)
    assert info.complete
    assert {(r.phase, r.arm) for r in info.records} == {
        ("baseline", "parent"), ("baseline", "reborn"), ("search", "sampled"),
        ("candidate", "candidate"), ("candidate", "parent"),
    }  # fmt: skip
    for record in info.records:
        assert record.state == "complete", record.reason
        assert 0 <= (record.accuracy or -1) <= 1
        assert record.accuracy_n == 360
        assert record.params > 0
        assert record.macs > 0
        assert record.environment["torch"]
        assert record.environment["form"] == "eager"
        assert ("latency" in record.extra) == (record.phase in ("baseline", "candidate"))
        assert 0 < record.extra.get("latency", 0.1) < 1
        curve = info.curve(record)
        assert curve is not None
        assert len(curve) == record.epochs == 1
        assert record.accuracy_part == ("test" if record.phase == "candidate" else "validation")
        assert (record.test_accuracy is not None) == (record.phase == "candidate")
    best = [record for record in info.records if info.checkpoint(record) is not None]
    assert {record.arm for record in best} == {"sampled", "candidate", "parent"}
    assert json.loads((finished / "plan.json").read_text())["total"] == 6
    assert len(info.sites) == 5


def test_no_training_is_lost_for_want_of_a_stopwatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no clock")

    monkeypatch.setattr("reborn_nas.study.setup.costs.measure_latency", broken)
    records = run_search(tiny(tmp_path / "run")).records
    assert {record.state for record in records} == {"complete"}
    assert not any("latency" in record.extra for record in records)


def test_a_second_call_trains_nothing(finished: Path) -> None:
    class Refuses(SilentProgress):
        def trial_started(self, key: str, phase: str, done: int, total: int) -> None:
            raise AssertionError(key)

    before = load_records(finished)
    assert run_search(tiny(finished), progress=Refuses()).complete
    assert load_records(finished) == before


def test_the_same_seed_gives_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    run_search(tiny(tmp_path / "two"))
    one, two = (
        {r.key: (r.accuracy, r.train_loss_sum) for r in load_records(f)} for f in (finished, tmp_path / "two")
    )
    assert one == two


def test_status(finished: Path) -> None:
    state = status(finished)
    assert (state.done, state.total, state.running, state.complete) == (6, 6, 0, True)
    assert state.best is not None
    assert {phase.name for phase in state.phases if not phase.planned} == {
        "screen",
        "confirm",
        "control",
        "checks",
    }


def test_each_way_of_training_is_counted(finished: Path) -> None:
    info = load_run(finished)
    first, *rest = info.records
    reason = "eager (no CUDA graph: a step draws random numbers)"
    changed = replace(first, environment={**first.environment, "form": reason})
    found = replace(info, records=(changed, *rest)).environment
    assert found["form"] == f"{reason} (1); eager (5)"
    assert found["torch"] == first.environment["torch"]


def test_other_settings_are_refused_with_the_difference(finished: Path) -> None:
    with pytest.raises(StudyError) as caught:
        plan_search(tiny(finished, epochs=2, seed=3), measure=False)
    assert "recipe.epochs: 1 in the study, 2 now" in str(caught.value)
    assert "seed: 0 in the study, 3 now" in str(caught.value)
    assert plan_search(tiny(finished, epochs=2, adopt=True), measure=False).resumed


def test_what_was_adopted_stays_in_the_notes(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    line = "changed while the study went on: recipe.epochs: 1 in the study, 2 now"
    assert run_search(tiny(folder, epochs=2, adopt=True, trials=7)).complete
    assert line in load_run(folder).plan["notes"]
    again = plan_search(tiny(folder, epochs=2, trials=7), measure=False)
    assert line in again.notes, "now the study's own settings"


@pytest.mark.parametrize("adopt", [False, True])
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"space": "paper"}, "space.parameters.features.conv1.act: ["),
        ({"contrast": "crelu:original"}, 'contrast: "reborn:original" in the study, "crelu:original" now'),
        ({"objectives": "accuracy,params"}, "search.objectives: not set in the study"),
    ],
)
def test_what_cannot_change_is_refused_before_any_training(
    finished: Path, change: dict[str, Any], line: str, adopt: bool
) -> None:
    with pytest.raises(StudyError, match="not even with --adopt") as caught:
        plan_search(tiny(finished, **change, epochs=2, adopt=adopt), measure=False)
    fixed, others = str(caught.value).split("With --adopt these could differ:")
    assert line in fixed
    assert "recipe.epochs: 1 in the study, 2 now" in others
    assert ("dynamic value space" in fixed) == ("space" in change)


def test_how_many_trainings_would_make_it_surer(tmp_path: Path) -> None:
    def planned(**changes: Any) -> Any:
        return plan_search(StudyConfig(run=tmp_path / "run", **changes), measure=False)

    small = planned()
    total = next_total(small)
    assert total is not None
    larger = {phase.name: phase.count for phase in planned(trials=total).phases}
    assert larger["confirm"]
    assert larger["control"]
    assert next_total(planned(trials=total)) is None
    assert next_total(planned(confirm=0)) is None, "as asked"


def test_planning_writes_nothing(tmp_path: Path) -> None:
    view = plan_search(tiny(tmp_path / "new"))
    assert view.seconds is not None
    assert view.seconds > 0
    assert list(tmp_path.iterdir()) == []


class Signals(SilentProgress):
    """Sends this process a signal in the middle of the third training."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.finished: list[TrialRecord] = []

    def epoch(self, key: str, epoch: int, epochs: int, metrics: Any) -> None:
        if len(self.finished) == 2:
            os.kill(os.getpid(), self.number)

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        self.finished.append(record)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_finished_and_the_next_call_goes_on(
    tmp_path: Path, finished: Path, number: signal.Signals
) -> None:
    config = tiny(tmp_path / "run")
    result = run_search(config, progress=Signals(number))
    assert result.interrupted
    assert not result.complete
    assert len(result.records) == 3  # the epoch under way ends, and is that training's only one
    assert "--run" in result.resume_command
    assert status(config.folder).running == 0
    again = run_search(config)
    assert again.complete
    one, two = ({r.key: r.accuracy for r in load_records(f)} for f in (finished, config.folder))
    assert one == two


def test_a_time_limit(tmp_path: Path) -> None:
    result = run_search(tiny(tmp_path / "run", timeout=0.001))
    assert result.timed_out
    assert not result.complete
    assert run_search(tiny(tmp_path / "run")).complete


def test_a_storage_that_cannot_be_opened_leaves_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be opened"):
        run_search(tiny(tmp_path / "run", storage=f"sqlite:///{tmp_path}/no/where.db"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"backbone": "resnet35"}, RebornError, "resnet34"),
        ({"dataset": "digist"}, RebornError, "digits"),
        ({"space": "two_levle"}, RebornError, "two_level"),
        ({"batch_size": 10_000}, ConfigError, "717 training images"),
        ({"search": 60}, ConfigError, "need 64 trainings"),
        ({"device": "cuda:77"}, StudyError, "no usable cuda device"),
        ({"backbone_arguments": {"widht": 1}}, RebornError, "widht"),
    ],
)
def test_bad_input_is_refused_and_writes_nothing(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run_search(tiny(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StudyError, match="not empty"):
        run_search(tiny(tmp_path))
    with pytest.raises(StudyError, match="not a run folder"):
        load_run(tmp_path)
    with pytest.raises(StudyError, match="not a run folder"):
        status(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StudyError, match=r"config\.json"):
        run_search(tiny(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes.txt"]


@pytest.mark.slow
def test_two_workers_and_one_of_them_killed(tmp_path: Path, finished: Path) -> None:
    import multiprocessing

    class Kills(SilentProgress):
        killed = False

        def epoch(self, key: str, epoch: int, epochs: int, metrics: Any) -> None:
            if not self.killed:
                self.killed = True
                child = multiprocessing.active_children()[0]
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)

    config = tiny(tmp_path / "run", workers=2, epochs=3)
    progress = Kills()
    result = run_search(config, progress=progress)
    assert progress.killed
    assert result.complete
    assert len(result.records) == 6
    one = tiny(tmp_path / "alone", epochs=3)
    alone = run_search(one)
    designed = ("baseline",)
    assert {r.key: r.accuracy for r in result.records if r.phase in designed} == {
        r.key: r.accuracy for r in alone.records if r.phase in designed
    }


UNGUARDED = """
import sys
from reborn_nas.study import StudyConfig, run_search

print("the script runs", flush=True)
sys.exit(0 if run_search(StudyConfig(**{settings!r})).complete else 1)
"""


@pytest.mark.slow
def test_workers_do_not_run_the_callers_script(tmp_path: Path) -> None:
    import subprocess
    import sys

    settings = {
        **TINY,
        "run": str(tmp_path / "run"),
        "workers": 2,
        "trials": 4,
        "baseline": 2,
        "candidate": 0,
    }
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(settings=settings))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the script runs") == 1
