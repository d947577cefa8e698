"""The studies whose records are kept in `studies/results/`: their reports are made again from these, equal to them."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pandas as pd
import pytest

import reborn_nas as rn
from reborn_nas.study import load_config, load_records

RESULTS = Path(__file__).parents[1] / "studies" / "results"
KEPT = sorted(path.parent for path in RESULTS.glob("*/run.json"))


def test_there_are_some() -> None:
    assert "segmentation" in [folder.name for folder in KEPT]


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_the_numbers_follow_from_the_records(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(RESULTS.parents[1])
    page = rn.report(folder, tmp_path / "report").read_text(encoding="utf-8")
    tables = sorted(path.name for path in folder.glob("*.csv") if path.name != "records.csv")
    assert tables == sorted(path.name for path in (tmp_path / "report").glob("*.csv"))
    for name in tables:
        kept, again = (pd.read_csv(place / name) for place in (folder, tmp_path / "report"))
        pd.testing.assert_frame_equal(kept, again, rtol=1e-6, atol=1e-9)
    text = re.sub(r"<style.*?</style>|<svg.*?</svg>|<[^>]+>", " ", page, flags=re.DOTALL)
    printed = " ".join(html.unescape(text).split())
    written = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    quoted = re.search(rf"results/{folder.name}/study\.yaml(?:.*\n)+?((?:> .*\n)+)", written)
    assert quoted is not None, "the page quotes the answer"
    for line in quoted[1].splitlines():
        assert line.removeprefix("> ") in printed


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_what_is_kept_is_small_and_as_it_was_planned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RESULTS.parents[1])
    assert all(path.stat().st_size <= 200 * 1024 for path in folder.rglob("*.png"))
    asked = load_config(folder / "study.yaml")
    assert 32 <= len(load_records(folder)) <= asked.total
    texts = [path.read_text(encoding="utf-8") for path in (folder / "run.json", folder / "records.csv")]
    assert not any(re.search(r"/(?:tmp|home|root|work)/", text) for text in texts), "no place of one machine"
