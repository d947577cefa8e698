"""How many processes train at the same time: one a device that was named, one a GPU, or as many as end soonest."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from reborn_nas import machine
from reborn_nas.errors import ConfigError, StudyError
from reborn_nas.study import StudyConfig
from reborn_nas.study.setup.children import _answer, call_in_child
from reborn_nas.study.setup.planning import plan_search, require_device_free
from reborn_nas.study.setup.processes import fastest, processes_here
from reborn_nas.training import Estimate, available_cores, available_memory, threads_each
from reborn_nas.training.device.selection import Survey


def test_devices_make_workers() -> None:
    assert StudyConfig(devices="0,1").workers == 2
    assert StudyConfig(devices="0,1", workers=2).workers == 2
    assert StudyConfig().workers == "auto"
    require_device_free(StudyConfig(devices="0,1"))
    with pytest.raises(StudyError, match="name one, or one a worker"):
        require_device_free(StudyConfig(devices="0,1", workers=3))


def test_a_device_is_named_once() -> None:
    for twice in ("0,0", "cuda:1,cpu,cuda:1", ["cuda:0", "0"]):
        with pytest.raises(ConfigError, match=r"devices: cuda:\d is named twice; each device has one worker"):
            StudyConfig(devices=twice)


def test_every_visible_gpu_has_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert processes_here("cuda", StudyConfig()) == 4
    assert processes_here("cuda:1", StudyConfig(device="cuda:1")) == 1


def test_as_many_processes_as_end_soonest() -> None:
    def shared(count: int) -> float:
        return {1: 6.0, 2: 7.0, 4: 8.0, 8: 12.0}[count]

    tried = fastest(100, 8, shared)  # 600 s, 5 + 50 · 7, 5 + 25 · 8, 5 + 13 · 12
    assert (tried.count, tried.training) == (8, 12.0)
    assert fastest(100, 4, shared).count == 4
    assert fastest(2, 8, shared).count == 1  # 12 s, and 5 + 7 are no sooner
    assert fastest(4, 4, shared).count == 4
    assert fastest(1, 8, shared).count == 1
    few = fastest(20, 8, lambda count: 0.2)  # 4 s are over before another process has started
    assert (few.count, few.notes) == (1, ())
    assert fastest(100, 1, lambda count: 1.0).count == 1


def test_what_cannot_end_sooner_is_not_measured() -> None:
    measured = []

    def training(count: int) -> float:
        measured.append(count)
        return 1.0

    assert fastest(5, 64, training).count == 1  # 5 s; 16 processes would need 5 to start and 1 to train
    assert measured == [1]


def test_memory_bounds_the_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "MEMORY_LIMIT", tmp_path)
    assert available_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    8000000 kB\n")
    assert available_memory() == 8_192_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() == 8_192_000_000
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_memory() == 2000


def test_memory_of_groups_around_each_other_and_of_both_versions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def group(path: str, **files: str) -> None:
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / path / name.replace("__", ".")).write_text(text)

    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "MEMORY_LIMIT", tmp_path)
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("0::/a/b\n4:hugetlb,memory:/jobs/7\n3:cpu:/a\n")
    group("a/b", memory__max="max\n", memory__current="1000\n")
    assert available_memory() is None
    stat = "anon 1\ninactive_file 200\nactive_file 300\n"
    group("a", memory__max="5000\n", memory__current="1000\n", memory__stat=stat)
    assert available_memory() == 4500  # files give way
    group("memory/jobs/7", memory__limit_in_bytes="3000\n", memory__usage_in_bytes="2500\n")
    assert available_memory() == 500
    group("memory/jobs/7", memory__stat="inactive_file 9\ntotal_inactive_file 100\n")
    assert available_memory() == 600


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    monkeypatch.setattr(machine, "LIMIT", tmp_path / "cpu.max")
    assert [threads_each(workers) for workers in (1, 2, 5, 12, 30)] == [12, 6, 2, 1, 1]
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert available_cores() == 12
    (tmp_path / "cpu.max").write_text("350000 100000\n")
    assert available_cores() == 4


def test_a_step_that_does_not_fit_into_memory_is_a_note_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr("reborn_nas.study.setup.processes.estimate_epoch", full)
    for workers in (1, "auto"):
        plan = plan_search(StudyConfig(run=tmp_path / "run", workers=workers))
        assert plan.seconds is None
        assert [
            note for note in plan.notes if note.startswith("no time is estimated: a step of the parent with")
        ]


def test_another_error_while_measuring_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr("reborn_nas.study.setup.processes.estimate_epoch", broken)
    with pytest.raises(RuntimeError, match="shapes cannot"):
        plan_search(StudyConfig(run=tmp_path / "run", workers=1))


def test_a_gpu_is_surveyed_and_measured_where_it_will_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process: here, and the plan names the card. Several: by children, with nothing of CUDA called here."""
    card = Survey("cuda", "", "fp16", "Tesla T4 (sm_75), driver 560.35.03, trains in fp16")
    asked: list[str] = []

    def here(name: str, precision: str) -> Survey:
        asked.append("survey here")
        return card

    def child(function: Callable[..., Any], *arguments: Any) -> Any:
        asked.append(f"{function.__name__} in a child")
        return Estimate(2.0, 1234.5, "cuda-graph") if "measure" in function.__name__ else card

    def epoch(*_: object, **__: object) -> Estimate:
        asked.append("measure here")
        return Estimate(2.0, 1234.5, "eager (no CUDA graph: why)")

    monkeypatch.setattr("reborn_nas.study.setup.resolve.survey", here)
    monkeypatch.setattr("reborn_nas.study.setup.resolve.call_in_child", child)
    monkeypatch.setattr("reborn_nas.study.setup.processes.call_in_child", child)
    monkeypatch.setattr("reborn_nas.study.setup.processes.estimate_epoch", epoch)
    here.__name__ = "survey"
    for cards, expected, form in (
        (1, ["survey here", "measure here"], "eager (no CUDA graph: why)"),
        (4, ["survey in a child", "_measure in a child"], "cuda-graph"),
    ):
        asked.clear()
        monkeypatch.setattr("torch.cuda.device_count", lambda cards=cards: cards)
        plan = plan_search(StudyConfig(run=tmp_path / "run", epochs=10))
        assert asked == expected
        assert (
            f"Tesla T4 (sm_75), driver 560.35.03, trains in fp16, 1,234 images a second, {form}" in plan.notes
        )
        assert plan.context.recipe.precision == "fp16"
        assert plan.config.processes == cards


def _refuse(text: str) -> None:
    raise ConfigError(text)


def _die() -> None:
    os._exit(9)


def test_a_child_answers() -> None:
    ours, theirs = Pipe(duplex=False)
    _answer(divmod, (85, 2), theirs)
    assert ours.recv() == (True, (42, 1))


def test_a_child_refuses_or_dies() -> None:
    with pytest.raises(StudyError, match="no such thing"):
        call_in_child(_refuse, "no such thing")
    with pytest.raises(StudyError, match="ended with exit code 9; --device cpu does without it"):
        call_in_child(_die)
