"""Studies on Datasets that are given: workers, resuming and exports open what was read once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Subset

import reborn_nas as rn
from reborn_nas.data.cache import list_caches
from reborn_nas.errors import ConfigError, DataError, RebornError, StudyError
from reborn_nas.known import remember_code
from reborn_nas.study import StudyConfig, load_run
from reborn_nas.study.config.flags import resume_command
from reborn_nas.study.config.functions import is_factory
from tests.data import datasets as own

SMALL: dict[str, Any] = {"backbone": "convnet5", "backbone_arguments": {"width": 0.125}, "epochs": 1, "trials": 8,
                         "device": "cpu", "threads": 1}  # fmt: skip
FILE = str(Path(own.__file__).resolve())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REBORN_NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "cache"


def searched(tmp_path: Path, **settings: Any) -> Any:
    return rn.search(progress=None, run=tmp_path / "run", **{**SMALL, **settings})


def test_a_study_on_datasets_is_resumed_exported_and_retrained(tmp_path: Path) -> None:
    first = searched(tmp_path, dataset=own.shapes(), trials=6, workers=1)
    assert first.name == "convnet5-Shapes"
    again = searched(tmp_path, dataset=own.shapes(), workers=1)
    assert again.complete
    assert {record.key for record in first.records} < {record.key for record in again.records}
    assert len(list_caches()) == 1
    settings = load_run(tmp_path / "run").settings
    assert settings["data"]["name"] == "Shapes"
    (entry,) = list_caches()
    assert f"--dataset cached:{entry.path.name} " in f"{again.resume_command} "
    rn.export(again, tmp_path / "net", trial="best")
    kept = json.loads((tmp_path / "net" / "config.json").read_text())
    assert kept["label_names"] == ["dark", "middle", "bright"]
    rn.train(
        tmp_path / "run",
        tmp_path / "trained",
        trial="best",
        seeds=1,
        run=tmp_path / "trainings",
        device="cpu",
    )
    assert (
        json.loads((tmp_path / "trained" / "config.json").read_text())["label_names"] == kept["label_names"]
    )
    page = rn.report(again)
    assert "Shapes" in Path(page).read_text(encoding="utf-8")


def test_other_datasets_are_not_taken_for_the_same(tmp_path: Path) -> None:
    searched(tmp_path, dataset=own.shapes(), trials=6, workers=1)
    with pytest.raises(StudyError, match=r"data.fingerprint"):
        searched(tmp_path, dataset=own.shapes() | {"test": own.Shapes(90, 2)}, trials=6, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["live", "file", "divided"])
def test_workers_open_what_was_read(given: str, tmp_path: Path) -> None:
    """Also of a factory that divides at random: every process divides alike."""
    dataset = own.shapes() if given == "live" else f"{FILE}:{'shapes' if given == 'file' else 'divided'}"
    result = searched(tmp_path, dataset=dataset, workers=2)
    assert result.complete
    assert {record.state for record in result.records} == {"complete"}
    assert len(list_caches()) == 1
    alone = rn.search(progress=None, run=tmp_path / "alone", **{**SMALL, "dataset": dataset, "workers": 1})
    assert {r.key: r.accuracy for r in alone.records} == {r.key: r.accuracy for r in result.records}


def test_a_factory_by_name(tmp_path: Path) -> None:
    config = StudyConfig(dataset=f"{FILE}:shapes")
    assert config.study_name == "convnet5-shapes"
    assert f"--dataset {FILE}:shapes" in resume_command(config)
    for name in ("folder:photos", "cached:Shapes-0123456789abcdef", "digits", "hfds/user/set", "wds/"):
        assert not is_factory(name)
    assert is_factory("my.package:make")


BROKEN = """
import torch
from torch.utils.data import TensorDataset
def nothing(): pass
def fails(): return open("/no/such/file")
def needs(root): return root
def words(): return "folder:photos"
def small(): return TensorDataset(torch.arange(32).view(2, 1, 4, 4), torch.tensor([0, 1]))
thing = 5
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", r"its function returned None, not torch Datasets"),
        ("words", r"its function returned 'folder:photos', not torch Datasets"),
        ("fails", r"its function failed: FileNotFoundError: .*/no/such/file"),
        (
            "needs",
            r"its function failed: TypeError: needs\(\) missing 1 required positional argument: 'root'",
        ),
        ("thing", r"dataset: .*:thing is int, not a function$"),
        ("other", r"dataset: unknown function in .*broken.py 'other'"),
        ("small", r"the training part needs at least 4 images of each class"),
    ],
)
def test_faulty_factories(function: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    with pytest.raises(RebornError, match=message):
        searched(tmp_path, dataset=f"{file}:{function}")
    assert not (tmp_path / "run").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset: file '.*none.py' does not exist"):
        searched(tmp_path, dataset=f"{tmp_path}/none.py:make")


def test_faults_of_datasets_are_faults_of_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset: .*the train part is empty: len\(Subset\) is 0$"):
        StudyConfig(dataset=Subset(own.Shapes(9, 0), []))


def test_data_of_a_third_partys_run_are_not_run_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched(tmp_path, dataset=f"{FILE}:shapes", trials=6, workers=1)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr("reborn_nas.known._marked", set())
    how: dict[str, Any] = {"trial": "best", "seeds": 1, "run": tmp_path / "trainings", "device": "cpu"}
    with pytest.raises(
        ConfigError, match=r"its data come from source code, .*:shapes, that no search of yours"
    ):
        rn.train(tmp_path / "run", tmp_path / "trained", **how)
    remember_code(rn.BackboneSpec(f"{FILE}:shapes"))
    rn.train(tmp_path / "run", tmp_path / "trained", **how)


def test_a_cache_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"was made of Datasets given from Python: give them again there"):
        searched(tmp_path, dataset="cached:Shapes-0123456789abcdef")
