"""Several trainings on a GPU: the count of workers, the rule that suggests it, and the service that lets them share."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from reborn_nas.errors import StudyError
from reborn_nas.study import StudyConfig, mps
from reborn_nas.study.planning import require_device_free
from reborn_nas.study.processes import fastest, processes_here
from reborn_nas.training import (
    Gpu,
    available_cores,
    available_memory,
    cores,
    filled,
    suggest_slots,
    threads_each,
)

H200 = Gpu(threads=132 * 2048, free_bytes=140 * 2**30, shared=True)
RESNET34 = [65536] * 7 + [32768] * 8 + [16384] * 12 + [8192] * 6  # 33 sites at 32×32 with the small stem
ROOM = 132 * 2048 * 8  # elements of a map that fills it: 2,162,688


def test_slots_make_workers() -> None:
    assert StudyConfig(slots_per_device=2, devices="0,1").workers == 4
    assert StudyConfig(devices="0,1").workers == 2
    assert StudyConfig().workers == "auto" == StudyConfig(slots_per_device=3).workers
    assert processes_here("cpu", StudyConfig(slots_per_device=3)) == 3
    require_device_free(StudyConfig(slots_per_device=2, devices="0,1"))
    with pytest.raises(StudyError, match="2 slots on 2 devices are not 3 workers"):
        require_device_free(StudyConfig(slots_per_device=2, devices="0,1", workers=3))
    with pytest.raises(StudyError, match="name one, or one a worker"):
        require_device_free(StudyConfig(devices="0,1", workers=3))


def test_every_visible_gpu_has_a_worker_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert processes_here("cuda", StudyConfig()) == 4
    assert processes_here("cuda", StudyConfig(slots_per_device=3)) == 12
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
    assert (few.count, few.note) == (1, "")
    assert fastest(100, 1, lambda count: 1.0).count == 1


def test_what_cannot_end_sooner_is_not_measured() -> None:
    measured = []

    def training(count: int) -> float:
        measured.append(count)
        return 1.0

    assert fastest(5, 64, training).count == 1  # 5 s; 16 processes would need 5 to start and 1 to train
    assert measured == [1]


def test_memory_bounds_the_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cores, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(cores, "MEMORY_LIMIT", tmp_path)
    assert available_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    8000000 kB\n")
    assert available_memory() == 8_192_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() == 8_192_000_000
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_memory() == 2000


def test_how_much_of_a_gpu_a_training_fills() -> None:
    assert filled([ROOM, ROOM // 2, 2 * ROOM], 1, H200) == pytest.approx(2.5 / 3)
    # batch 128: stages 1 and 2 fill it, 16384 · 128 is 0.970 and 8192 · 128 is 0.485 of it
    assert filled(RESNET34, 128, H200) == pytest.approx((15 + 12 * 0.9697 + 6 * 0.4848) / 33, rel=1e-3)


def test_the_rule_never_promises_what_it_cannot_keep() -> None:
    tiny = [16 * 64, 32 * 16]
    assert suggest_slots(RESNET34, 21_300_000, 128, H200, 64) == 1  # fills it
    assert suggest_slots(tiny, 10_000, 128, H200, 64) == 8
    assert suggest_slots(tiny, 10_000, 128, H200, 3) == 3  # a core each
    assert suggest_slots([ROOM // 2] * 4, 1000, 1, H200, 64) == 2
    assert (
        suggest_slots(tiny, 10_000, 128, Gpu(H200.threads, H200.free_bytes, False), 64) == 1
    )  # taking turns
    # 2 · 7 · 1536 · 128 bytes of maps and 322,000 of weights are 3 MiB, a process 700: 0.8 · 1757 MiB = 1405.6 hold two
    for free, slots in ((1757, 1), (1758, 2)):
        assert suggest_slots(tiny, 10_000, 128, Gpu(H200.threads, free * 2**20, True), 64) == slots
    assert suggest_slots([], 0, 1, H200, 64) == 1


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    monkeypatch.setattr(cores, "LIMIT", tmp_path / "cpu.max")
    assert [threads_each(workers) for workers in (1, 2, 5, 12, 30)] == [12, 6, 2, 1, 1]
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert available_cores() == 12
    (tmp_path / "cpu.max").write_text("350000 100000\n")
    assert available_cores() == 4


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the control program, which writes down what it is told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / mps.PROGRAM
    log = tmp_path / "log"
    script.write_text(
        f'#!/bin/sh\necho "$* pipe=$CUDA_MPS_PIPE_DIRECTORY" >> {log}\ncase "$1" in -d) ;; *) cat >> {log};; esac\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(mps, "DEFAULT_PIPES", tmp_path / "none")
    monkeypatch.delenv(mps.PIPES, raising=False)
    return log


def test_the_service_runs_for_the_time_of_a_study(program: Path) -> None:
    assert mps.has_service()
    with mps.service(["cuda:0"], 3) as said:
        assert said == "3 trainings share a GPU, side by side by the Multi-Process Service"
        pipe = os.environ[mps.PIPES]
        assert Path(pipe).is_dir()
        assert program.read_text() == f"-d pipe={pipe}\n"
    assert program.read_text().splitlines()[1:] == [f" pipe={pipe}", "quit -t 10", "quit"]
    assert mps.PIPES not in os.environ
    assert not Path(pipe).exists()


def test_without_the_service_it_is_said(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mps.service(["cpu"], 4) as said:
        assert said == ""
    with mps.service(["cuda:0", "cuda:1"], 2) as said:
        assert said == ""
    assert not program.exists()
    with mps.service(["cuda:0", "cuda:1"], 4) as said:
        assert said.startswith("2 trainings share a GPU, side by side")
    (Path(os.environ["PATH"].split(os.pathsep)[0]) / mps.PROGRAM).write_text("#!/bin/sh\nexit 3\n")
    with mps.service(["cuda:0"], 2) as said:
        assert said.endswith("by taking turns: the Multi-Process Service does not start (exit code 3)")
        assert mps.PIPES not in os.environ
    monkeypatch.setenv("PATH", "/nowhere")
    assert not mps.has_service()
    with mps.service(["cuda:0"], 2) as said:
        assert "is not installed here" in said


def test_a_service_that_runs_is_used_and_left_alone(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "control").touch()
    monkeypatch.setenv(mps.PIPES, str(tmp_path))
    with mps.service(["cuda"], 2) as said:
        assert said.endswith("that runs here")
    assert not program.exists()
