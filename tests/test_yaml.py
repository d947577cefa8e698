"""Every YAML file that is shipped is valid, however deep it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from reborn_nas.space import list_spaces, load_space
from reborn_nas.study import load_config
from reborn_nas.study.config import shipped_studies

ROOT = Path(__file__).parents[1]
SPACES = sorted((ROOT / "search_spaces").rglob("*.yaml"))
STUDIES = sorted((ROOT / "studies").rglob("*.yaml"))


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_space(path: Path) -> None:
    assert load_space(path).description


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study(path: Path) -> None:
    config = load_config(path)
    load_space(config.space)


def test_all_are_shipped() -> None:
    assert {path.stem for path in SPACES} == set(list_spaces())
    assert {path.stem for path in STUDIES} == set(shipped_studies())
    assert len(SPACES) >= 5
    assert STUDIES
