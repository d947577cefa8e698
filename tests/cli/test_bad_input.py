"""What a user may get wrong: one message on stderr, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reborn_nas.cli.main import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REBORN_NAS_DATA", str(tmp_path / "no-data"))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command, which must be refused; what it says on stderr."""
    try:
        code = main(words)
    except SystemExit as stop:  # argparse
        code = stop.code if isinstance(stop.code, int) else 1
    said = capsys.readouterr().err
    assert code == 2, said
    assert "Traceback" not in said
    assert not Path("runs").exists(), "nothing is written for a study that cannot start"
    return said


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("search", "--backbone", "resnet35"), ["resnet35", "resnet34"]),
        (("search", "--backbone", "torchvision:resnet35"), ["resnet35", "resnet34"]),
        (("search", "--backbone", "nowhere.py:make"), ["nowhere.py"]),
        (("search", "--dataset", "cifar-10"), ["cifar-10", "cifar10"]),
        (("search", "--space", "papers"), ["papers", "paper"]),
        (("search", "--recipe", "slow"), ["slow", "fast", "paper"]),
        (("search", "--sampler", "tpee"), ["tpee", "tpe"]),
        (("search", "--trials", "0"), ["trials", "0"]),
        (("search", "--epochs", "-3"), ["epochs", "-3"]),
        (("search", "--batch-size", "100000"), ["100000", "717"]),
        (("search", "--device", "cuda:7"), ["cuda:7"]),
        (("search", "--config", "nowhere.yaml"), ["nowhere.yaml"]),
        (("sites", "--backbone", "resnet35"), ["resnet34"]),
        (("sites", "--input-size", "3x0x1"), ["3x0x1"]),
        (("spaces", "papers"), ["paper"]),
        (("report", "nowhere"), ["nowhere", "search"]),
        (("status", "nowhere"), ["nowhere"]),
        (("export", "nowhere", "--out", "x"), ["nowhere"]),
        (("dashboard", "nowhere"), ["nowhere"]),
    ],
)
def test_refusals_name_what_was_given_and_the_way_out(
    words: tuple[str, ...], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *words)
    for part in parts:
        assert part in said


def test_every_fault_of_a_config_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("backbne: resnet18\ntrials: -1\nepochs: many\nsampler: best\n")
    said = refused(capsys, "search", "--config", str(path))
    for part in ("backbne", "backbone", "trials", "epochs", "sampler"):
        assert part in said
    assert said.count("study.yaml") >= 3


def test_absent_data_set_says_where_it_looked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", no_network)
    said = refused(capsys, "search", "--dataset", "cifar10", "--data-dir", "here")
    assert "here" in said
    assert "--data-dir" in said


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(path)


def test_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in refused(capsys, "search", "--dataset", f"folder:{empty}")
    one = tmp_path / "one"
    for index in range(12):
        picture(one / "train" / "cat" / f"{index}.png", index)
    assert "cat" in refused(capsys, "search", "--dataset", f"folder:{one}")
    broken = tmp_path / "broken"
    for name in ("cat", "dog"):
        for index in range(12):
            picture(broken / "train" / name / f"{index}.png", index)
    (broken / "train" / "dog" / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    assert "bad.jpg" in refused(capsys, "search", "--dataset", f"folder:{broken}")
    missing = tmp_path / "missing"
    for name in ("cat", "dog"):
        for index in range(12):
            picture(missing / "train" / name / f"{index}.png", index)
    picture(missing / "test" / "cat" / "1.png", 3)
    assert "dog" in refused(capsys, "search", "--dataset", f"folder:{missing}")


def test_a_folder_that_is_not_a_run_is_not_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("words")
    said = refused(capsys, "search", "--run", "thesis", "--trials", "4", "--yes")
    assert "thesis" in said
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_dry_run_writes_nothing_and_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--dry-run", "--json", "--epochs", "1"]) == 0
    plan = json.loads(capsys.readouterr().out)
    counts = {phase["name"]: phase["count"] for phase in plan["phases"]}
    assert counts == {
        "baseline": 8,
        "screen": 32,
        "exploration": 8,
        "candidate": 16,
        "retest": 0,
        "control": 0,
        "checks": 0,
    }
    assert not Path("runs").exists()


def test_a_long_run_is_not_started_unasked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    said = refused(capsys, "search", "--epochs", "100000")
    assert "--yes" in said
    assert "--epochs" in said
