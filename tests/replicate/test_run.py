"""The verb from end to end on scikit-learn's digits: plan, run, resume, figures, missing data, bad arguments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import reborn_nas.data.standard
from reborn_nas.cli.main import main
from reborn_nas.study import load_records
from reborn_nas.study.store.opening import open_store

STUDY = """kind: replication
description: Two activations on digits.
recipe: fast
training: {epochs: 2, learning_rate: 0.02}
networks:
  tiny: {backbone: convnet5, arguments: {width: 0.125}}
datasets: [digits, svhn]
rows:
  relu: {title: ReLU, activation: relu}
  reborn: {title: Reborn Mechanism, activation: reborn, where: maps}
comparisons:
  - {rows: [reborn], against: [relu], says: above}
expected:
  tiny:
    relu: [90, 80]
    reborn: [91, null]
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reborn_nas.data.standard, "reachable", lambda url: False)
    Path("mine.yaml").write_text(STUDY, encoding="utf-8")
    return tmp_path


def replicate(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = main(["replicate", *words])
    except SystemExit as stop:  # argparse
        code = stop.code if isinstance(stop.code, int) else 1
    said = capsys.readouterr()
    return code, said.out, said.err


def folder_of(folder: str) -> Path:
    (run,) = [path for path in Path(folder).iterdir() if path.is_dir()]
    return run


def trained() -> dict[str, Any]:
    return {record.key: record for record in load_records(folder_of("runs/replicate"))}


def attempts() -> int:
    """Trials of every kind, failed and interrupted ones too."""
    return sum(len(study.trials) for study in open_store(folder_of("runs/replicate")).studies())


def test_run_again_and_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("mine.yaml", "--only", "digits", "--seeds", "1", "--threads", "1")
    code, out, _ = replicate(capsys, *words, "--dry-run")
    assert code == 0
    assert "2 of 2 trainings to do, about" in out
    assert not Path("runs").exists()
    assert replicate(capsys, *words)[0] == 0
    first = trained()
    assert len(first) == 2
    assert {(record.test_n, record.accuracy_part, record.epochs) for record in first.values()} == {
        (360, "test", 2)
    }
    before = attempts()
    code, out, _ = replicate(capsys, *words)
    assert code == 0
    assert "0 of 2 trainings to do" in out
    assert trained() == first
    assert attempts() == before == 2
    assert replicate(capsys, "mine.yaml", "--only", "digits", "--seeds", "2", "--threads", "1")[0] == 0
    second = trained()
    assert len(second) == 4
    assert all(second[key] == record for key, record in first.items())
    cells = pd.read_csv("runs/replicate/mine-cells.csv")
    assert list(cells["n"]) == [2, 2]
    mean = 100 * sum(r.test_accuracy for r in second.values() if r.arm == "relu") / 2
    assert cells["mean"][0] == pytest.approx(mean, rel=1e-5)
    assert cells["difference"][0] == pytest.approx(mean - 90, rel=1e-4)
    rows = pd.read_csv("runs/replicate/mine-trainings.csv")
    assert len(rows) == 4
    assert rows["torch"].notna().all()
    assert "host" not in rows
    assert rows["driver"].isna().all()  # only of an accelerator
    text = Path("runs/replicate/mine.md").read_text(encoding="utf-8")
    assert "| tiny | digits | ReLU | 90.00 |" in text
    assert main(["status", str(folder_of("runs/replicate"))]) == 0


def test_counts_need_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    """ConvNet-8 of one channel by hand: Σ 9ab + b over 1, 32, 32, …, 256, then 1024 → 512 → 256 → 10."""
    code, out, _ = replicate(capsys, "table4", "--counts", "--json")
    assert code == 0
    counts = json.loads(out)
    assert len(counts) == 3 * 3 * 3  # networks, rows; 3×32×32 with 10 and 100 classes, 1×28×28
    (relu,) = [
        one["params"] for one in counts
        if (one["network"], one["row"], one["input_size"]) == ("convnet8", "relu", [1, 28, 28])
    ]  # fmt: skip
    widths = [1, 32, 32, 64, 64, 128, 128, 256, 256]
    linear = [1024, 512, 256, 10]
    assert relu == sum(9 * a * b + b for a, b in pairwise(widths)) + sum(
        a * b + b for a, b in pairwise(linear)
    )
    assert "1,830,378" in replicate(capsys, "table4", "--counts")[1]


def test_scale_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = replicate(
        capsys,
        "mine.yaml",
        "--only",
        "digits,relu",
        "--seeds",
        "1",
        "--scale",
        "0.5",
        "--json",
        "--threads",
        "1",
    )
    assert code == 0
    (cell,) = json.loads(out)["cells"]
    assert (cell["epochs"], cell["training_images"], cell["scale"], cell["n"]) == (1, 718 - 10, 0.5, 1)
    (record,) = trained().values()
    assert record.epochs == 1
    assert Path("runs/replicate/mine-scale0.5.md").read_text(encoding="utf-8").count("Scale 0.5") == 1


def test_absent_data_is_left_out_and_the_rest_runs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--only", "relu", "--seeds", "1", "--data-dir", "none", "--threads", "1")
    code, _, err = replicate(capsys, "mine.yaml", *words)
    assert code == 1
    assert "left out: every row on svhn" in err
    assert len(trained()) == 1
    code, _, err = replicate(capsys, "mine.yaml", "--only", "svhn", "--data-dir", "none")
    assert code == 2
    assert "no data set is there" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--only", "resnet34"), "matches nothing in mine"),
        (("--seeds", "0"), "--seeds"),
        (("--scale", "2"), "--scale"),
        (("--replace", "mnist=digits"), "unknown data set 'mnist'"),
        (("--images", "photos"), "has no figure"),
        (("--recipe", "slow"), "recipe"),
        (("--learning-rate", "0"), "learning_rate"),
        (("--init", "he"), "init is one of default, xavier, kaiming"),
    ],
)
def test_bad_words(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], part: str) -> None:
    code, _, err = replicate(capsys, "mine.yaml", *words)
    assert code == 2, err
    assert part in err
    assert "Traceback" not in err
    assert not Path("runs").exists()


def test_other_data_in_place_of_a_tables(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--only", "svhn,relu", "--replace", "svhn=digits", "--seeds", "1", "--threads", "1")
    code, out, _ = replicate(capsys, "mine.yaml", *words)
    assert code == 0
    assert "digits in place of the table's svhn: not the published data" in out
    cells = pd.read_csv("runs/replicate/mine-cells.csv")
    assert list(cells["data"]) == ["digits"]
    assert list(cells["published"]) == [80]


def test_settings_of_another_run_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--only", "digits,relu", "--seeds", "1", "--threads", "1")
    assert replicate(capsys, "mine.yaml", *words)[0] == 0
    Path("mine.yaml").write_text(STUDY.replace("kind: replication", "kind: replication\nvalidation: 0.1"))
    code, _, err = replicate(capsys, "mine.yaml", *words, "--seeds", "2")
    assert code == 2
    assert "choose another --out" in err
    assert "data.fingerprint" in err


FIGURE = STUDY.replace("datasets: [digits, svhn]", "datasets: [digits]").split("expected:")[0] + (
    "figure: {before: relu, after: reborn, site: features.conv1.act, images: 2, channels: 3}\n"
)


def test_figure_of_the_first_layer_and_of_any_site(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("figure.yaml").write_text(FIGURE, encoding="utf-8")
    words = ("figure.yaml", "--seeds", "1", "--threads", "1")
    assert replicate(capsys, *words)[0] == 0
    folder = folder_of("runs/replicate")
    svg = (folder / "maps-features.conv1.act.svg").read_text(encoding="utf-8")
    # of two images: the image, and three maps of each of: after ReLU, discarded, after reborn, its negative path
    assert svg.count("<image") == 2 * (1 + 4 * 3)
    features = pd.read_csv(folder / "features.csv")
    assert list(features["site"]) == [f"features.conv{n}.act" for n in range(1, 6)]
    assert features["negative_share"].between(0, 1).all()
    photos = tmp_path / "photos" / "deep"
    photos.mkdir(parents=True)
    for number, mode in enumerate(("RGB", "L", "RGB")):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(photos / f"{number}.png")
    code, _, err = replicate(capsys, *words, "--images", "photos", "--site", "features.conv4.act")
    assert code == 0, err
    svg = (folder / "maps-features.conv4.act.svg").read_text(encoding="utf-8")
    assert svg.count("<image") == 2 * (1 + 4 * 3)
    assert set(pd.read_csv(folder / "features.csv")["images"]) == {3}
    code, _, err = replicate(capsys, *words, "--site", "features.conv9.act")
    assert code == 2
    assert "no site features.conv9.act" in err
    code, _, err = replicate(capsys, *words, "--images", "nowhere")
    assert code == 2
    assert "there is no folder nowhere" in err


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    Path("mine.yaml").write_text(STUDY.replace("epochs: 2", "epochs: 6"), encoding="utf-8")
    command = [sys.executable, "-m", "reborn_nas.cli.main", "replicate", "mine.yaml", "--only", "digits"]
    command += ["--seeds", "3", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        before = len(_records())
        while process.poll() is None and len(_records()) == before:
            time.sleep(0.2)
        time.sleep(0.3)  # into the next training
        if process.poll() is None and kills < 3:
            kills += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
            continue
        if process.wait() == 0:
            break
    assert kills >= 1
    records = _records()
    assert len(records) == len({record.key for record in records}) == 6
    assert {record.state for record in records} == {"complete"}
    assert pd.read_csv("runs/replicate/mine-cells.csv")["n"].tolist() == [3, 3]


def _records() -> list[Any]:
    found = list(Path("runs/replicate").glob("*/study.journal"))
    return load_records(found[0].parent) if found and (found[0].parent / "config.json").is_file() else []
