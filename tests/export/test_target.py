"""The folder of an export is complete at every moment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from reborn_nas.export import folder as target
from reborn_nas.export.folder import new_folder


def write(folder: Path, words: str) -> None:
    with new_folder(folder) as work:
        (work / "file").write_text(words)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_is_replaced_and_nothing_is_left_over(
    at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:
        monkeypatch.setattr(target, "_exchange", lambda one, other: False)
    out = tmp_path / "out"
    for words in ("one", "two", "three"):
        write(out, words)
        (out / "stray").touch()
        assert (out / "file").read_text() == words
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    write(out, "four")
    assert [path.name for path in out.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take two steps")
def test_no_moment_has_neither_the_old_nor_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write(out, "old")
    monkeypatch.setattr(os, "replace", lambda *paths: pytest.fail("the old one was moved away first"))
    write(out, "new")
    assert (out / "file").read_text() == "new"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    write(real, "old")
    link.symlink_to(real)
    write(link, "new")
    assert link.is_symlink()
    assert (real / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_failure_leaves_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(TypeError):
        write(out, None)  # type: ignore[arg-type]
    assert (out / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
