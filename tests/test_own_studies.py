"""The studies with a training of their own, tried and run small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import reborn_nas as rn
from reborn_nas.backbone.load.factory import files_of

STUDIES = Path(__file__).parents[1] / "studies"
METRICS = {
    "segmentation": "miou:higher,label=mIoU,unit=points,scale=100,worst=0",
    "regression": "rmse:lower,label=RMSE,unit=degrees,worst=26",
    "detection": "map:higher,label=mAP,unit=points,scale=100,worst=0,low=0,high=1",
}


def asked(name: str, **more: Any) -> rn.StudyConfig:
    file = STUDIES / f"{name}.py"
    names = {"train": "train", "evaluate": "evaluate", "example_inputs": "example", "backbone": "make"}
    given = {setting: f"{file}:{function}" for setting, function in names.items()}
    return rn.StudyConfig(**{**given, "metric": METRICS[name], "device": "cpu", "workers": 1, **more})


@pytest.mark.parametrize("name", METRICS)
def test_each_is_short(name: str) -> None:
    text = (STUDIES / f"{name}.py").read_text()
    assert text.count("\n") < 150
    assert METRICS[name] in text, "the command that runs it"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sites", "better"), [("segmentation", 10, 0.22), ("regression", 5, -0.2)])
def test_each_holds_its_promises_and_learns(name: str, sites: int, better: float, tmp_path: Path) -> None:
    found = rn.check_training(asked(name, epochs=3))
    assert found.ok, str(found)
    counts = {
        "baseline": 2,
        "screen": 0,
        "exploration": 0,
        "candidate": 0,
        "retest": 0,
        "control": 0,
        "checks": 0,
    }
    run = rn.search(asked(name, epochs=3, run=tmp_path / "run", **counts), progress=None)
    assert run.plan.n_sites == sites
    assert [record.state for record in run.records] == ["complete"] * 2
    assert max(record.accuracy or -1.0 for record in run.records) > better
    assert rn.report(run).is_file()


@pytest.mark.slow
def test_a_detector_with_its_targets_learns(tmp_path: Path) -> None:
    """Only the backbone's sites; the rehearsal would take another half minute."""
    pytest.importorskip("torchmetrics")
    pytest.importorskip("pycocotools")
    nothing = dict.fromkeys(("screen", "exploration", "candidate", "retest", "control", "checks"), 0)
    config = asked(
        "detection", epochs=3, sites=["backbone.*"], run=tmp_path / "run", baseline=2, threads=1, **nothing
    )
    run = rn.search(config, progress=None)
    assert run.plan.n_sites == 8
    assert {len(record.levels) for record in run.records} == {5}
    assert [record.state for record in run.records] == ["complete"] * 2
    assert max(record.accuracy or 0.0 for record in run.records) > 0.02, "an untrained one has 0"
    assert rn.report(run).is_file()


@pytest.mark.parametrize("name", METRICS)
def test_the_package_is_none_of_their_own_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that imports `reborn_nas` does not carry it, also where the working directory is a checkout of it."""
    monkeypatch.chdir(STUDIES.parent)
    assert list(files_of(STUDIES / f"{name}.py").files) == [f"{name}.py"]
