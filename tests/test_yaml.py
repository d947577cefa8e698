"""Every YAML file that is shipped is valid, however deep it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from reborn_nas.replicate import load_replication, shipped_replications
from reborn_nas.space import list_spaces, load_space
from reborn_nas.study import load_config, shipped_studies

ROOT = Path(__file__).parents[1]
SPACES = sorted((ROOT / "search_spaces").rglob("*.yaml"))
FILES = sorted((ROOT / "studies").rglob("*.yaml"))
REPLICATIONS = [path for path in FILES if path.read_text(encoding="utf-8").startswith("kind: replication")]
STUDIES = [path for path in FILES if path not in REPLICATIONS]


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_space(path: Path) -> None:
    assert load_space(path).description


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study(path: Path) -> None:
    config = load_config(path)
    load_space(config.space)


@pytest.mark.parametrize("path", REPLICATIONS, ids=lambda path: path.stem)
def test_replication(path: Path) -> None:
    assert load_replication(path).description


def test_all_are_shipped() -> None:
    assert {path.stem for path in SPACES} == set(list_spaces())
    named = {path.stem for path in STUDIES if path.parent.name == "studies"}
    assert named == set(shipped_studies()), "those in results/ reproduce a result"
    assert {path.stem for path in REPLICATIONS} == set(shipped_replications())
    assert {"table2", "table3", "table4", "section33", "figure4"} <= set(shipped_replications())
    assert len(SPACES) >= 5
    assert STUDIES
