"""A full, failing or vanished disk is the machine's fault: no architecture is called a failure for it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from reborn_nas import errors as faults
from reborn_nas.architecture import Architecture
from reborn_nas.cli.main import main
from reborn_nas.errors import PASSING, DataError, MachineError, StudyError, machine_fault, wait_out
from reborn_nas.records import TrialRecord
from reborn_nas.study import load_run, run_search, status
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.setup.context import StudyContext
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.trainer.checkpoints import SavedState
from reborn_nas.study.trainer.objective import Objective
from reborn_nas.training import FileCheckpoint, TrainingState
from tests.study.test_run import tiny

RUN = Run("search/3", "search", "sampled", seed=7)
FAULTS = sorted({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS})


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StudyContext:
    return make_context(tiny(tmp_path_factory.mktemp("context"), epochs=1))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses take no time; how long they would have been."""
    pauses: list[float] = []
    monkeypatch.setattr(faults, "pause", lambda seconds, *_: pauses.append(seconds))
    monkeypatch.setattr("reborn_nas.study.worker.loop.pause", lambda seconds, *_: pauses.append(seconds))
    return pauses


class Ill:
    """A call that fails for a while."""

    def __init__(self, times: int, error: Callable[[], BaseException], inner: Callable[..., Any]) -> None:
        self.left, self.error, self.inner, self.failed = times, error, inner, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            self.failed += 1
            raise self.error()
        return self.inner(*args, **kwargs)


def disk_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/disk/file")


def wrapped(number: int) -> Exception:
    try:
        try:
            raise disk_error(number)
        except OSError as error:
            raise ValueError("cannot be built") from error
    except ValueError as error:
        return error


def in_rust(number: int) -> Exception:
    return RuntimeError(f"Error while serializing: I/O error: something (os error {number})")


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("make", [disk_error, wrapped, in_rust])
def test_the_machine_s_faults_are_known_however_they_are_wrapped(
    make: Callable[[int], Exception], number: int
) -> None:
    assert number in PASSING
    found = machine_fault(make(number))
    assert found is not None
    assert os.strerror(number) in found


@pytest.mark.parametrize(
    "error",
    [ValueError("os errors 280"), FileNotFoundError(2, "No such file"), PermissionError(13, "no"), KeyError(28),
     RuntimeError("mat1 and mat2 (os error 2)"), OSError("plain"), ConnectionError()],
    ids=repr,
)  # fmt: skip
def test_other_faults_are_not_the_machine_s(error: Exception) -> None:
    assert machine_fault(error) is None


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("place", ["files.write_atomic", "objective.keep_weights"])
def test_a_result_waits_for_the_disk(
    number: int, place: str, context: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    no_waiting: list[float], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    import reborn_nas.study.trainer.objective as objective

    name = place.partition(".")[2]
    ill = Ill(3, lambda: disk_error(number), getattr(objective, name))
    monkeypatch.setattr(objective, name, ill)
    record = Objective(context, tmp_path)(RUN, Architecture(context.spec, {}))
    assert record.state == "complete", record.reason
    assert ill.failed == 3
    assert no_waiting == [0.5, 1.0, 2.0]
    assert caplog.text.count(os.strerror(number)) == 3
    assert (tmp_path / record.curve).is_file()
    assert (tmp_path / record.checkpoint).is_file()


@pytest.mark.parametrize("make", [disk_error, wrapped, in_rust])
def test_a_training_that_the_disk_ends_is_no_failure(
    make: Callable[[int], Exception], context: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "reborn_nas.study.trainer.classification.train", Ill(1, lambda: make(errno.EIO), None)
    )
    with pytest.raises(MachineError, match="Input/output error"):
        Objective(context, tmp_path)(RUN, Architecture(context.spec, {}))


def test_a_whole_search_over_an_ill_disk_ends_as_over_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    whole = run_search(tiny(tmp_path / "whole"))
    real = Objective.__call__
    ill = Ill(4, lambda: disk_error(errno.ESTALE), None)

    def call(self: Objective, run: Run, architecture: Architecture, on_epoch: Any = None) -> TrialRecord:
        if sum(no_waiting) < 7 and run.key == "search/1":  # its training ends in the middle, four times
            ill(run)
        return real(self, run, architecture, on_epoch)

    monkeypatch.setattr(Objective, "__call__", call)
    disturbed = run_search(tiny(tmp_path / "ill"))
    assert ill.failed == 4
    assert disturbed.complete
    results = [{r.key: (r.state, r.accuracy) for r in one.records} for one in (whole, disturbed)]
    assert results[0] == results[1]
    assert all(state == "complete" for state, _ in results[1].values())


def test_a_machine_that_stays_ill_ends_the_search_with_nothing_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reborn_nas.study.worker.loop.PATIENCE", 0.5)
    train = Ill(10**6, lambda: disk_error(errno.EIO), None)
    monkeypatch.setattr("reborn_nas.study.trainer.classification.train", train)
    with pytest.raises(MachineError, match=r"run the same command"):
        run_search(tiny(tmp_path / "run"))
    assert status(tmp_path / "run").done == 0
    monkeypatch.undo()
    again = run_search(tiny(tmp_path / "run"))
    assert again.complete
    assert all(record.state == "complete" for record in again.records)


def test_waiting_ends_where_nobody_wants_it_any_more() -> None:
    asked = []

    def stopping() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(MachineError, match="the curve cannot be written: No space left"):
        wait_out(Ill(9, lambda: disk_error(errno.ENOSPC), None), "the curve cannot be written", stopping=stopping,
                 sleep=lambda seconds: None, clock=lambda: 0.0)  # fmt: skip
    clock = [0.0]
    with pytest.raises(MachineError):
        wait_out(
            Ill(10**6, lambda: disk_error(errno.EIO), None), "it", clock=lambda: clock[0],
            sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds),
        )  # fmt: skip
    assert 500 < clock[0] <= 600


def test_a_state_that_cannot_be_read_now_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    FileCheckpoint(path).save(TrainingState(2, {"a": torch.zeros(2)}, [], "x", 1.0))
    monkeypatch.setattr("reborn_nas.training.checkpoint.safe_open", Ill(1, lambda: in_rust(errno.EIO), None))
    assert SavedState(FileCheckpoint(path)).load() is None
    monkeypatch.undo()
    state = SavedState(FileCheckpoint(path)).load()
    assert state is not None
    assert state.epoch == 2


def test_an_image_on_an_ill_disk_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from reborn_nas.data.files.settle import decode

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", Ill(1, lambda: disk_error(errno.EIO), None))
    with pytest.raises(MachineError) as caught:
        decode([tmp_path / "a.png"], "folder", None, [])
    assert "repair" not in str(caught.value)
    assert not isinstance(caught.value, DataError)


def test_a_search_into_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "reborn_nas.study.store.opening.write_atomic", Ill(9, lambda: disk_error(errno.ENOSPC), None)
    )
    with pytest.raises(StudyError, match=r"cannot be written.*No space left"):
        run_search(tiny(tmp_path / "run"))


# -- real disks -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of three megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=3m", "none", place], capture_output=True
    )
    if not done or done.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", place], check=False)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):  # noqa: PT012
        while True:
            stream.write(bytes(1024))


@pytest.mark.parametrize("verb", ["report", pytest.param("export", marks=pytest.mark.slow)])
def test_a_verb_that_writes_to_a_full_disk_is_one_line(
    verb: str, small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run_search(tiny(run))
    fill(small_disk / "ballast")
    assert main([verb, str(run), "--out", str(small_disk / "out")]) == 2
    said = capfd.readouterr().err
    assert "No space left" in said
    assert "Traceback" not in said
    assert not list(small_disk.glob("*.tmp*"))
    assert main(["status", str(run)]) == 0


@pytest.mark.slow
def test_a_run_folder_on_a_full_disk_delays_its_search(small_disk: Path, tmp_path: Path) -> None:
    """The storage lies elsewhere: only curves, weights and pictures meet the full disk."""
    folder = small_disk / "run"
    words = [
        "--backbone",
        "convnet5",
        "--model-arg",
        "width=0.125",
        "--space",
        "two_level",
        "--epochs",
        "1",
        "--trials",
        "10",
        "--baseline",
        "2",
    ]
    words += ["--screen", "0", "--search", "4", "--candidate", "4", "--yes", "--run", str(folder)]
    words += ["--storage", f"journal://{tmp_path}/study.journal"]
    log = open(tmp_path / "log", "w+b")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", "reborn_nas.cli.main", "search", *words], stdout=log, stderr=log
    )
    until = time.monotonic() + 120
    while not (folder / "study.yaml").is_file():
        assert time.monotonic() < until
        time.sleep(0.01)
    fill(small_disk / "ballast")
    time.sleep(3)
    assert process.poll() is None, "it ended before the disk was full"
    (small_disk / "ballast").unlink()
    said = (tmp_path / "log").read_text() if process.wait(240) else ""
    assert not said
    records = load_run(folder).records
    assert len(records) == 10
    assert {record.state for record in records} == {"complete"}
    assert not list(folder.rglob("*.tmp"))
