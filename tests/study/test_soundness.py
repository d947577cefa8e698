"""Data that no search writes are named; where they are as a search writes them, a fault of ours shows as one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reborn_nas import api
from reborn_nas.cli.main import main
from reborn_nas.errors import ExportError
from reborn_nas.study.store.opening import kept_in, open_store
from reborn_nas.study.store.soundness import damage
from reborn_nas.study.store.storage import connect, open_run

OLD = Path(__file__).parents[1] / "golden" / "runs" / "phases-named-search-and-confirm"
"""A run that an earlier version left."""


@pytest.fixture(scope="module")
def kept() -> tuple[dict[str, Any], list[Any]]:
    return kept_in(open_store(OLD))


def test_what_a_search_wrote_is_sound(kept: tuple[dict[str, Any], list[Any]]) -> None:
    attributes, records = kept
    assert {"config", "settings", "plan", "candidate", "finished"} <= set(attributes)
    assert len(records) == 6
    assert damage(attributes, records) is None


SMALL: list[tuple[str, Callable[[dict[str, Any], list[Any]], object], str]] = [
    ("a text for a number", lambda kept, records: kept["plan"].update(total="6"), "plan.total"),
    ("a number for a list", lambda kept, records: kept["plan"].update(sites=3), "plan.sites"),
    ("a phase of nobody's", lambda kept, records: kept["plan"]["phases"][0].update(name="x"), "'x' is not a phase"),
    ("a site that is not there", lambda kept, records: kept["plan"]["factors"].update(a=["b"]), "'a' names sites"),
    ("settings", lambda kept, records: kept["config"].update(trials=-1), "config: .*trials"),
    ("a source", lambda kept, records: kept["settings"]["backbone"].update(source=3), "settings.backbone"),
    ("no source", lambda kept, records: kept["settings"].pop("backbone"), "settings.backbone"),
    ("no settings", lambda kept, records: kept.pop("settings"), "no settings"),
    ("no plan", lambda kept, records: kept.pop("plan"), "no plan or no settings"),
    ("a choice", lambda kept, records: kept["candidate"]["architecture"].update(choices={"a": "b("}), "candidate"),
    ("an accuracy", lambda kept, records: records[2].update(score=1.5), "score is 1.5"),
    ("no accuracy", lambda kept, records: records[2].update(score=None), "complete and has no score"),
    ("nan", lambda kept, records: records[2].update(score=float("nan")), "score is nan"),
    ("a mapping", lambda kept, records: records[2].update(environment=5), "environment"),
    ("a state", lambda kept, records: records[2].update(state="done"), "state 'done'"),
    ("a level", lambda kept, records: records[2].update(levels={"features.conv1.act": 2}), "levels"),
    ("a parameter", lambda kept, records: records[2].update(parameters={"z": "relu"}), "no 'z'"),
    ("no record at all", lambda kept, records: records.append({}), "the record of None"),
    ("nested too deeply", lambda kept, records: kept.update(top=json.loads("[" * 500 + "]" * 500)), "recursion"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "named"), [row[1:] for row in SMALL], ids=[row[0] for row in SMALL])
def test_what_no_search_writes_is_named(
    change: Callable[..., object], named: str, kept: tuple[dict[str, Any], list[Any]]
) -> None:
    attributes, records = json.loads(json.dumps(kept))
    change(attributes, records)
    found = damage(attributes, records)
    assert found is not None
    assert len(found) < 600
    assert re.search(named, found)


@pytest.mark.parametrize("verb", ["status", "report"])
def test_a_fault_of_ours_shows_as_one(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same exception, from a sound run and from a damaged one."""

    def broken(*_: object, **__: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr("reborn_nas.api.view.run_view", broken)
    monkeypatch.setattr(api, "run_view", broken)
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    words = [verb, str(run), *(["--out", str(tmp_path / "out")] if verb == "report" else [])]
    with pytest.raises(TypeError, match="ours") as caught:
        main(words)
    assert len(caught.value.__notes__) == 1
    assert "please report it" in caught.value.__notes__[0]
    journal = run / "study.journal"
    journal.write_text(journal.read_text().replace('"accuracy":', '"accuracy":1'))
    assert main(words) == 2


def test_a_run_that_has_just_begun_is_read(tmp_path: Path) -> None:
    """It was killed between making its studies and keeping its settings."""
    open_run(connect(f"journal://{tmp_path}/study.journal"), "mine", create=True)
    assert main(["status", str(tmp_path)]) == 0
    assert main(["status", str(tmp_path), "--json"]) == 0


def test_damaged_data_are_one_line_that_names_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    journal = run / "study.journal"
    journal.write_text(journal.read_text().replace('"environment":{', '"environment":5,"old":{'))
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) == 2
    said = capfd.readouterr().err
    assert "the run is damaged" in said
    assert "environment" in said
    assert "Traceback" not in said


def test_weights_that_are_damaged_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    weights = sorted(run.rglob("*.safetensors"))
    if not weights:
        pytest.skip("the run holds no weights")
    for path in weights:
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ExportError, match=r"safetensors is damaged .*--trial"):
        api.export(run, tmp_path / "out")
