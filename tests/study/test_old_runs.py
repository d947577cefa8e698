"""Runs that earlier versions left are read, shown in today's words, and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from reborn_nas.api import networks, recommend, report, run_view
from reborn_nas.cli.main import main
from reborn_nas.errors import StudyError
from reborn_nas.records import public_name, stored_name
from reborn_nas.study import StudyConfig, load_config, load_run, run_search, status
from reborn_nas.study.setup.context import check_same
from reborn_nas.study.setup.resolve import make_context
from tests.study.test_run import tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run of six trainings whose phases are stored as "search" and "confirm"."""
    return Path(shutil.copytree(GOLDEN / "phases-named-search-and-confirm", tmp_path / "old"))


def test_names_there_and_back() -> None:
    assert public_name("search/3") == "exploration/3"
    assert public_name("confirm/conv1/0") == "retest/conv1/0"
    assert public_name("screen/1") == "screen/1"
    for name in ("search", "confirm/a/1", "candidate/parent/0", "elsewhere"):
        assert stored_name(public_name(name)) == name == stored_name(name)


def test_it_is_read_in_todays_words(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = load_run(old)
    assert info.complete
    assert status(old).best is not None
    assert main(["status", str(old)]) == 0
    said = capsys.readouterr().out
    assert "exploration" in said
    assert "best observed: exploration/" in said
    assert "\nretest " in said
    page = report(old).read_text(encoding="utf-8")
    assert "exploration/0" in page
    assert "search/0" not in page
    assert "exploration/0" in (old / "report" / "trials.csv").read_text()
    best = networks(old).best
    assert best is not None
    assert best.label.startswith("exploration/")
    with pytest.raises(Exception, match=r"too few|at least"):
        recommend(old)


def test_the_command_that_repeats_it_has_todays_flags(old: Path) -> None:
    command = run_view(old, look=False).command
    assert "--exploration 2" in command
    assert "--model-arg width=0.0625" in command


def test_a_larger_total_goes_on_with_what_is_there(old: Path) -> None:
    kept = json.loads((old / "config.json").read_text())
    assert kept["search"] == 2
    same = {name: kept[name] for name in ("backbone", "backbone_arguments", "epochs", "threads", "space")}
    counts = {name: kept[name] for name in ("baseline", "screen", "search", "candidate")}
    config = StudyConfig(
        **same, **counts, run=old, name="old", trials=6, workers=1, adopt=True
    )  # torch is another
    assert config.exploration == 2
    before = load_run(old).records
    result = run_search(config.replace(exploration=3, trials=7))
    assert result.complete
    assert len(result.records) == 7
    assert {record.key for record in before} < {record.key for record in result.records}
    assert "search/2" in {record.key for record in result.records}, "stored as before"


def test_files_and_flags_with_the_old_names_hold(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("search: 4\nconfirm: 16\n")
    config = load_config(path)
    assert (config.exploration, config.retest) == (4, 16)
    assert config.counts == {"search": 4, "confirm": 16}
    assert load_config(path, exploration=5).exploration == 5
    assert load_config(path, search=6).exploration == 6
    path.write_text("exploration: 4\n")
    assert load_config(path, search=6).exploration == 6


@pytest.mark.parametrize(
    ("seed", "fraction", "before"),
    [
        (0, 1.0, "44cb47c642bebfd763829883ea5bd5939de76811825b72e7ce13c332828ece8e"),
        (3, 0.5, "890d55779849ab4287db98693f11ed606a0e0ee546601dcf5ae7778b1fb3fb94"),
    ],
)
def test_a_study_keeps_its_images_across_ways_to_compute_their_fingerprint(
    tmp_path: Path, seed: int, fraction: float, before: str
) -> None:
    """`before` is what the version wrote that hashed all pixels."""
    context = make_context(tiny(tmp_path, seed=seed, fraction=fraction))
    kept = {**context.settings, "data": {**context.settings["data"], "fingerprint": before}}
    store = SimpleNamespace(name="old", attribute=lambda key: kept)
    assert check_same(store, context) == ()  # type: ignore[arg-type]
    kept["data"]["fingerprint"] = before[::-1]
    with pytest.raises(StudyError, match=r"data\.fingerprint"):
        check_same(store, context)  # type: ignore[arg-type]
