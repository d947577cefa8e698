"""The newcomer's way through the verbs, on digits with one epoch: search, resume, status, report, export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from reborn_nas.cli.main import main
from reborn_nas.study import load_records

RUN = "runs/convnet5-digits"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one search has run."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["search", "--epochs", "1", "--yes"]) == 0
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def test_every_planned_training_has_one_result() -> None:
    records = load_records(RUN)
    assert len(records) == len({record.key for record in records}) == 64
    phases = {name: sum(record.phase == name for record in records) for name in {r.phase for r in records}}
    assert phases == {"baseline": 8, "screen": 32, "search": 8, "candidate": 16}
    assert all(record.accuracy is not None and record.params > 0 and record.macs > 0 for record in records)
    tested = {record.phase for record in records if record.test_accuracy is not None}
    assert tested == {"candidate"}, "only candidate against parent reads the test set"


def test_the_same_command_trains_nothing_again(capsys: pytest.CaptureFixture[str]) -> None:
    before = load_records(RUN)
    assert main(["search", "--epochs", "1", "--yes"]) == 0
    assert "64 of 64 trainings are done already" in capsys.readouterr().out
    assert load_records(RUN) == before


def test_other_settings_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--epochs", "2", "--batch-size", "64", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "recipe.epochs: 1 in the study, 2 now" in said
    assert "recipe.batch_size" in said
    assert "--adopt" in said


def test_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", RUN, "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["done"], state["total"], state["complete"]) == (64, 64, True)
    assert [row["site"] for row in state["estimates"]] == [f"features.conv{n}.act" for n in range(1, 6)]
    assert all(row["ci_low"] < row["effect"] < row["ci_high"] for row in state["estimates"])


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", RUN, "--out", "page"]) == 0
    page = Path(capsys.readouterr().out.strip())
    text = page.read_text()
    assert "features.conv3.act" in text
    assert len(list(Path("page").glob("*.csv"))) >= 3


def test_export_and_what_stands_in_its_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", RUN, "--out", "model"]) == 0
    model = timm.create_model("local-dir:model", pretrained=True).eval()
    example = load_file("model/example.safetensors")
    with torch.no_grad():
        assert torch.equal(model(example["input"]), example["logits"])
    capsys.readouterr()
    assert main(["export", RUN, "--out", "model"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", RUN, "--out", "other", "--trial", "search/99"]) == 2
    assert "search/99" in capsys.readouterr().err
    assert not Path("other").exists()
    assert main(["export", RUN, "--out", "model", "--trial", "best", "--force"]) == 0


def test_the_front_is_exported_as_a_folder_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", RUN, "--out", "front", "--trial", "pareto"]) == 0
    text = Path("front/README.md").read_text()
    found = [path.parent.name for path in Path("front").glob("*/config.json")]
    assert found
    assert all(f"| {name} |" in text for name in found)
    assert '"local-dir:front/' in capsys.readouterr().out


def test_the_runs_candidate_is_trained_again(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--architecture", RUN, "--seeds", "1", "--run", "again", "--out", "trained"]
    assert main([*words, "--trial", "pareto"]) == 2
    assert "several networks" in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr()
    assert "(one training, seed 0; 360 images)" in said.out
    settings = json.loads(Path("again/train.json").read_text())
    assert settings["recipe"]["epochs"] == 1, "the run's own recipe"
    assert settings["architecture"]["backbone"]["arguments"] == {"width": 0.125, "norm": False}
    model = timm.create_model("local-dir:trained", pretrained=True).eval()
    example = load_file("trained/example.safetensors")
    with torch.no_grad():
        assert torch.equal(model(example["input"]), example["logits"])


def test_a_larger_total_adds_a_complete_design_and_repeats_nothing() -> None:
    before = {record.key: record for record in load_records(RUN)}
    assert main(["search", "--epochs", "1", "--trials", "96", "--yes"]) == 0
    after = {record.key: record for record in load_records(RUN)}
    assert len(after) == 96
    assert before.items() <= after.items()
    assert sum(record.phase == "screen" for record in after.values()) == 48
