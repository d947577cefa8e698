"""The README's "where do I change …": what it names is there, and what no other test does is done here, once each."""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from reborn_nas.cli.main import VERBS, main, parse
from reborn_nas.data import Augmentation, load_dataset, standard
from reborn_nas.report.figures import painting
from reborn_nas.report.page import contents
from reborn_nas.report.page.build import build_report
from reborn_nas.report.page.page import Section
from reborn_nas.report.results.findings import Findings
from reborn_nas.report.results.view import RunView
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.store.storage import connect
from reborn_nas.training import Recipe, get_recipe
from reborn_nas.training.recipe.presets import RECIPES
from tests.report import fabricate

ROOT = Path(__file__).parents[1]
CHANGES = {
    "activation", "layer rule", "sampler", "metric", "report section", "verb", "storage", "data set", "recipe",
    "backbone source",
}  # fmt: skip


def rows() -> dict[str, str]:
    """What is changed → the row's other cells."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("### Where do I change …")[1].split("\n\n")[1]
    cells = [line.strip("|").split("|", 1) for line in table.splitlines() if line.startswith("| ")]
    return {first.strip(): rest for first, rest in cells[1:]}


def test_the_map_is_complete() -> None:
    assert set(rows()) == CHANGES


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_the_map_names_what_is_there(change: str) -> None:
    named = re.findall(r"`((?:reborn_nas|tests)/[\w/.]*)(?:::(\w+))?`", rows()[change])
    assert any(path.startswith("reborn_nas") for path, _ in named)
    assert any(path.startswith("tests") for path, _ in named)
    for path, name in named:
        file = ROOT / path
        assert file.exists(), path
        if name:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            made = {getattr(node, "name", None) for node in ast.walk(tree)}
            made |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert name in made, f"{path}::{name}"


def test_a_section_of_the_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def weather(view: RunView, findings: Findings, table: pd.DataFrame) -> list[Section]:
        return [Section("weather", "The weather", [f"It rained on {len(table)} trainings."])]

    monkeypatch.setattr(contents, "SECTIONS", [*contents.SECTIONS, weather])
    monkeypatch.setattr(painting, "png", lambda drawing: b"png")
    view = fabricate.view(5)
    page = build_report(view, tmp_path).read_text(encoding="utf-8")
    assert f"It rained on {len(view.records)} trainings." in page
    assert 'href="#weather"' in page


def test_a_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name")

    def run(args: argparse.Namespace) -> int:
        print(f"hello {args.name}")
        return 0

    made = SimpleNamespace(EXAMPLES="  reborn-nas greet Ada\n", add=add, run=run)
    monkeypatch.setitem(sys.modules, "reborn_nas.cli.verbs.greet", made)
    monkeypatch.setitem(VERBS, "greet", "greet somebody")
    assert main(["greet", "Ada"]) == 0
    assert capsys.readouterr().out == "hello Ada\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "greet somebody" in capsys.readouterr().out


def test_a_storage_of_another_database(tmp_path: Path) -> None:
    place = connect(f"sqlite:///{tmp_path}/studies.db")
    number = place.create_new_study([], "mine")
    assert [one.study_name for one in place.get_all_studies()] == ["mine"]
    assert place.get_study_name_from_id(number) == "mine"


def test_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read(root: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(60 if train else 30) % 2
        return np.load(root / "dots.npy")[: len(labels)] * labels[:, None, None].astype(np.uint8), labels

    np.save(tmp_path / "dots.npy", np.full((60, 4, 4), 9, np.uint8))
    source = standard.Published(
        "Dots", "https://example.org", ("dots.npy",), read, Augmentation(), ("dark", "bright")
    )
    monkeypatch.setitem(standard.PUBLISHED, "dots", source)
    images = load_dataset("dots", data_dir=tmp_path)
    assert images.input_size == (1, 4, 4)
    assert len(images.test) == 30
    assert StudyConfig(dataset="dots").dataset == "dots"


def test_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "short", {"epochs": 2})
    assert get_recipe("short", batch_size=7) == Recipe(name="short", epochs=2, batch_size=7)
    assert StudyConfig(recipe="short").recipe == "short"
    args = parse(["search", "--recipe", "short"])
    assert args.setting_recipe == "short"
