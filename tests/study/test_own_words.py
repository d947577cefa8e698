"""Everything that a study of one's own metric writes, shows and prints: no word of a classifier of images in it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reborn_nas as rn
from reborn_nas.api.dashboards import _shown
from reborn_nas.cli.main import main
from reborn_nas.metric import speaking
from reborn_nas.study.result.dashboard import describe_studies
from reborn_nas.study.search import RunResult
from reborn_nas.study.store.opening import open_store
from reborn_nas.study.store.reading import load_run, read_status
from tests.study.own_task import SOURCE, configured, settings

FOREIGN = re.compile(r"accurac|\bimages?\b|percentage point|\bpp\b|% of \d", re.IGNORECASE)

TEXTS = (".csv", ".json", ".yaml", ".log", ".html", ".svg", ".md", ".txt")

METRICS = {
    "rmse": "rmse:lower,label=RMSE,unit=degrees,worst=90",
    "map": "map:higher,label=mAP,unit=points,scale=100,worst=0,low=0,high=1",
}

COUNTS = {
    "baseline": 4,
    "screen": 16,
    "exploration": 3,
    "candidate": 4,
    "retest": 16,
    "control": 48,
    "checks": 16,
}


def source(name: str) -> str:
    """Of the map as of the error, the part that `formula` leaves of 30 degrees."""
    if name == "rmse":
        return SOURCE
    head = SOURCE.replace("def formula", "def degrees").split("def train")[0]
    formula = "def formula(model, job):\n    return 1 - degrees(model, job) / 30\n\n\n"
    return (
        head
        + formula
        + "def train"
        + SOURCE.split("def train")[1].replace("rmse", "map").replace("5.0 / epoch", "0.0")
    )


@pytest.fixture(scope="module", params=METRICS)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Every phase, and a training that fails and one that comes to nothing."""
    folder = tmp_path_factory.mktemp(request.param)
    faulty = "    if job.seed % 17 == 3: raise ValueError('broken')\n    if job.seed % 19 == 3: return float('nan')\n"
    text = source(request.param).replace(
        "    rows = job.indices(200)", f"{faulty}    rows = job.indices(200)"
    )
    found = rn.search(
        configured(folder, text, metric=METRICS[request.param], seed=2, **COUNTS), progress=None
    )
    assert {record.phase for record in found.records} >= {"control", "checks", "confirm"}
    return found


def words_of(value: Any) -> Iterator[str]:
    """Every key and text of JSON values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from words_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from words_of(inner)
    else:
        yield str(value)


def foreign(text: str) -> list[str]:
    """The places of foreign words, each with what stands around it."""
    plain = text.replace("image/svg", "").replace("image/png", "").replace("background-image", "")
    return [plain[max(0, found.start() - 60) : found.end() + 40] for found in FOREIGN.finditer(plain)]


@pytest.mark.parametrize("text", ["test_accuracy,7", "on 40 test images", "+3.1 pp", "87 % of 360"])
def test_the_pattern_finds_what_it_is_for(text: str) -> None:
    assert foreign(text)
    assert not foreign("RMSE 3.1 degrees on 40 test rows, 95 % interval")


def test_files_of_the_run_and_of_its_report(study: RunResult, tmp_path: Path) -> None:
    rn.report(study, tmp_path / "report", keep=True)
    seen = 0
    for folder in (study.folder, tmp_path / "report"):
        for path in folder.rglob("*"):
            assert not foreign(path.name), path
            if path.suffix in TEXTS and path.is_file():
                seen += 1
                assert not (found := foreign(path.read_text(errors="replace"))), (path, found[:9])
    assert seen > 20
    artifacts = [path for path in (study.folder / "artifacts").rglob("*") if path.is_file()]
    assert artifacts
    for path in artifacts:
        assert not (found := foreign(path.read_text(errors="replace"))), (path, found[:9])
    with open(tmp_path / "report" / "trials.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(study.records)


def test_what_optuna_and_its_dashboard_show(study: RunResult) -> None:
    store = open_store(study.folder, read_only=False)
    with speaking(load_run(study.folder).metric):
        describe_studies(store, read_status(store), _shown(study.folder), study.folder / "artifacts")
    for one in store.studies():
        system = store.storage.get_study_system_attrs(one._study_id)
        for text in [*words_of(one.user_attrs), *words_of(system), *(one.metric_names or [])]:
            assert not foreign(text)
        for trial in one.get_trials():
            for text in [*words_of(trial.user_attrs), *words_of(trial.system_attrs)]:
                assert not (found := foreign(text)), (trial.number, found[:9])


def test_what_the_verbs_print(study: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = study.name.partition("-")[2]
    given = settings(tmp_path, source(name), metric=METRICS[name])
    words = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    run = str(study.folder)
    calls = [
        ["search", *words, "--dry-run"],
        ["search", *words, "--dry-run", "--json"],
        ["search", *words, "--trials", "64", "--yes", "--verbose"],
        ["status", run],
        ["status", run, "--json"],
        ["report", run, "--out", str(tmp_path / "again")],
        ["export", run, "--out", str(tmp_path / "network")],
        ["sites", "--backbone", given["backbone"], "--example-inputs", given["example_inputs"]],
    ]
    for call in calls:
        code = main(call)
        told = capsys.readouterr()
        assert code == ("--dry-run" in call), (
            call,
            told.err,
        )  # whose check finds that splits do not matter here
        assert not (found := foreign(told.out + told.err)), (call, found)
    for path in (tmp_path / "network").rglob("*"):
        if path.suffix in TEXTS and path.is_file():
            assert not (found := foreign(path.read_text())), (path, found[:9])
    assert json.loads((tmp_path / "network" / "network.json").read_text())
