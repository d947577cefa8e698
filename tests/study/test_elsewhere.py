"""A study that goes on elsewhere: its images moved, mounted or changed, its folder copied to another machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reborn_nas.api import run_view
from reborn_nas.errors import StudyError
from reborn_nas.study import SilentProgress, StudyConfig, load_records, plan_search, run_search, status
from tests.study.test_readers import fingerprint
from tests.study.test_run import Signals, tiny


def results(run: Path) -> dict[str, tuple[str, float | None]]:
    return {record.key: (record.state, record.accuracy) for record in load_records(run)}


# -- images ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of noise around two brightnesses, 8 × 8 pixels."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    noise = np.random.default_rng(0)
    for name, middle in (("dark", 90), ("light", 160)):
        (folder / name).mkdir(parents=True)
        for number in range(60):
            pixels = noise.normal(middle, 40, (8, 8)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def on(pictures: Path, run: Path, **changes: Any) -> StudyConfig:
    return tiny(
        run, dataset=f"folder:{pictures}", batch_size=16, name="pictures", trials=4, candidate=0, **changes
    )


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("undisturbed")
    assert run_search(on(pictures, run / "run")).complete
    return results(run / "run")


@pytest.fixture
def stopped(pictures: Path, tmp_path: Path) -> Path:
    """A run that was stopped in the middle, beside its images."""
    run = tmp_path / "run"
    shutil.copytree(pictures, tmp_path / "pictures")
    assert run_search(on(tmp_path / "pictures", run), progress=Signals(2)).interrupted
    assert 0 < len(load_records(run)) < 4
    return run


@pytest.mark.parametrize("mounted", [False, True], ids=["moved", "on another mount"])
def test_images_at_another_place_are_the_same_images(
    mounted: bool, stopped: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    mount = shutil.which("mount")
    if mounted and (
        not mount or subprocess.run([mount, "-t", "tmpfs", "none", place], check=False).returncode
    ):
        pytest.skip("a disk can be mounted by root only")
    try:
        shutil.move(tmp_path / "pictures", place / "moved")
        assert run_search(on(place / "moved", stopped)).complete
    finally:
        if mounted:
            subprocess.run(["umount", "-l", place], check=True)
    assert results(stopped) == undisturbed


def test_one_byte_of_one_image_is_other_data(stopped: Path, tmp_path: Path) -> None:
    changed = tmp_path / "pictures"
    picture = changed / "dark" / "7.png"
    pixels = np.asarray(Image.open(picture)).copy()
    pixels[3, 3] ^= 1
    Image.fromarray(pixels).save(picture)
    before = results(stopped)
    with pytest.raises(StudyError, match=r"with --adopt:\n  data\.fingerprint: .*$"):
        run_search(on(changed, stopped))
    changed = changed.rename(tmp_path / "moved")
    with pytest.raises(StudyError, match=r"not even with --adopt(.|\n)*data\.fingerprint"):
        run_search(on(changed, stopped, adopt=True))
    assert results(stopped) == before


# -- machines -------------------------------------------------------------------------------------------------

CUDA = {"device": "cuda:0 (NVIDIA H100 80GB HBM3)", "host": "gpu-node-7", "driver": "560.35.03"}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which three of six trainings are done."""
    run = tmp_path_factory.mktemp("begun") / "run"
    assert run_search(tiny(run), progress=Signals(2)).interrupted
    return run


def from_a_gpu(run: Path) -> None:
    """Make the run one that was begun on a GPU of another machine."""
    lines = []
    for line in (run / "study.journal").read_text().splitlines():
        log = json.loads(line)
        kept = log.get("user_attr", {})
        if "reborn_nas:settings" in kept:
            kept["reborn_nas:settings"]["device"] = "cuda"
        if "reborn_nas:digest" in kept:
            kept["reborn_nas:digest"] = "0123456789abcdef"
        if "record" in kept:
            kept["record"].update(device="cuda:0")
            kept["record"]["environment"].update(CUDA)
        lines.append(json.dumps(log, separators=(",", ":")))
    (run / "study.journal").write_text("\n".join(lines) + "\n")


ELSEWHERE = """
import contextlib, io, json, os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from reborn_nas.cli.main import main
found = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    found.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(found))
"""


def elsewhere(folder: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Code, stdout and stderr of commands on one core without a GPU, of a user with another home who never searched."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    kept = {
        key: value for key, value in os.environ.items() if key not in ("XDG_STATE_HOME", "REBORN_NAS_STORAGE")
    }
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, json.dumps(commands)], cwd=folder, capture_output=True, text=True,
        env={**kept, "HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[tuple[int, str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_copied_run_is_read_and_gone_with_on_another_machine(begun: Path, tmp_path: Path) -> None:
    """Another path, another home, one core, and no GPU although the run had one; its first folder is still there."""
    run = tmp_path / "copied"
    shutil.copytree(begun, run)
    from_a_gpu(run)
    before = [fingerprint(one) for one in (begun, run)]
    read = elsewhere(
        tmp_path, ["status", "copied"], ["report", "copied", "--out", "page"],
        ["export", "copied", "--out", "model", "--trial", "best"],
    )  # fmt: skip
    assert [code for code, _, _ in read] == [0, 0, 0], read
    assert "3 of 6 trainings done" in read[0][1]
    assert "outside of its folder" not in read[0][2]
    assert "NVIDIA H100" in (tmp_path / "page" / "index.html").read_text()
    assert [fingerprint(one) for one in (begun, run)] == before
    line = next(line for line in read[0][1].splitlines() if "reborn-nas search" in line)
    words = shlex.split(line.partition("reborn-nas ")[2])
    refused, done = elsewhere(tmp_path, words, [*words, "--adopt"])
    assert refused[0] == 2
    assert 'device: "cuda" in the study, "cpu" now' in refused[2]
    assert done[0] == 0, done
    assert len(results(run)) == 6
    assert {state for state, _ in results(run).values()} == {"complete"}
    assert fingerprint(begun) == before[0]


def test_a_database_in_a_run_folder_comes_with_it(begun: Path, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    url = f"sqlite:///{before}/study.db"
    assert run_search(tiny(before, storage=url), progress=Signals(2)).interrupted
    shutil.copytree(before, after)
    kept = fingerprint(before)
    assert run_search(tiny(after, storage=f"sqlite:///{after}/study.db")).complete
    assert fingerprint(before) == kept
    assert status(after).complete
    assert not status(before).complete
    shutil.rmtree(before)
    assert status(after).complete
    assert str(before) not in run_view(after, look=False).command


def test_a_second_search_with_other_settings_leaves_the_first_alone(tmp_path: Path) -> None:
    """While the first goes on."""
    refused = []

    class Second(SilentProgress):
        def trial_finished(self, record: Any, done: int, total: int) -> None:
            for change in ({"seed": 1}, {"epochs": 2}, {"space": "paper"}) if done == 2 else ():
                with pytest.raises(StudyError, match="was begun with other settings"):
                    run_search(tiny(tmp_path / "run", **change))
                refused.append(change)

    alone = run_search(tiny(tmp_path / "alone"))
    first = run_search(tiny(tmp_path / "run"), progress=Second())
    assert first.complete
    assert len(refused) == 3
    assert results(tmp_path / "run") == results(tmp_path / "alone")
    assert alone.complete
    assert plan_search(tiny(tmp_path / "run"), measure=False).done == 6
