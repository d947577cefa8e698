"""The files of a report: complete, self-contained, safe."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from reborn_nas.errors import StudyError
from reborn_nas.records import TrialRecord
from reborn_nas.report import RunView, build_report
from reborn_nas.report.figures import painting
from tests.report import fabricate

EVIL = "<script>alert(1)</script>"


class _Page(HTMLParser):
    """Tags with their attributes, and text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete report of an invented run of five sites."""
    return build_report(fabricate.view(5), tmp_path_factory.mktemp("report")).parent


def test_the_page_is_self_contained_and_small(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert len(text.encode()) <= 5_000_000
    assert not re.findall(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in page.tags}
    links = [attrs.get("href", "") or "" for _, attrs in page.tags if "href" in attrs]
    assert all(link.startswith(("#", "data:image/png")) or (folder / link).is_file() for link in links)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_every_figure_has_an_alternative_text_and_every_table_a_caption(folder: Path) -> None:
    page = _Page((folder / "index.html").read_text(encoding="utf-8"))
    figures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(figures) >= 16
    assert all(len(attrs.get("aria-label") or "") > 20 and attrs.get("role") == "img" for attrs in figures)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") >= 3
    assert tags.count("h1") == 1
    assert dict(page.tags)["html"]["lang"] == "en"


def test_the_answer_stands_before_everything_else_and_limits_are_said(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert 0 < text.index('class="lead"') < text.index("<svg")
    assert "What this report does not claim" in text
    assert "the best observed accuracy as the one to expect" in text


def test_light_dark_phone_and_print_have_their_rules(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    for rule in ("prefers-color-scheme:dark", "max-width:640px", "@media print", "width=device-width"):
        assert rule in text


def test_figures_lie_beside_it_as_png_and_svg(folder: Path) -> None:
    names = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert {"network", "effects", "candidate", "architecture", "accuracy_params", "curves_accuracy"} <= names
    assert names == {path.stem for path in (folder / "figures").glob("*.png")}
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_tables_lie_beside_it_as_csv_in_full(folder: Path) -> None:
    trials = pd.read_csv(folder / "trials.csv")
    made = fabricate.view(5).records
    assert list(trials["key"]) == [record.label for record in made]
    assert list(trials["seed"]) == [record.seed for record in made]
    sites = pd.read_csv(folder / "sites.csv")
    assert {"site", "effect", "ci_low", "ci_high", "q_value", "shrunk", "p_top5", "verdict", "confirmed", "control",
            "added_params", "runs_with"} <= set(sites.columns)  # fmt: skip
    phases = pd.read_csv(folder / "phases.csv")
    assert list(phases["complete"]) == [16, 32, 16, 16, 32, 48]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PNGs, which take most of the time and have their own tests."""
    monkeypatch.setattr(painting, "png", lambda drawing: b"png")


@pytest.mark.usefixtures("quick")
def test_how_the_search_went_is_on_the_page(tmp_path: Path) -> None:
    shares = pd.DataFrame(
        {
            "choice": ["crelu", "original"],
            "runs": [10, 30],
            "pruned": [6, 6],
            "share": [0.6, 0.2],
            "all": [0.3, 0.3],
        }
    )
    front = {
        "trials": [0, 1, 2],
        "hypervolume": [0.1, 0.2, 0.2],
        "reference": {"accuracy": 0.5, "params": 2e6},
    }
    view = replace(fabricate.view(5), front=front, pruned=shares)
    text = build_report(view, tmp_path).read_text(encoding="utf-8")
    assert "counted from accuracy 50.0 %, params 2.0 M" in text
    assert "over all 30 %" in text
    assert (
        '<th scope="row">crelu</th><td class="n">10</td><td class="n">6</td><td class="n">60 %</td>' in text
    )
    assert pd.read_csv(tmp_path / "pruned.csv")["choice"].tolist() == ["crelu", "original"]
    assert (tmp_path / "figures" / "hypervolume.svg").is_file()


@pytest.mark.usefixtures("quick")
def test_page_and_tables_name_both_activations(tmp_path: Path) -> None:
    arms = {"parent": "silu"}
    made = [replace(r, arm=arms.get(r.arm, r.arm)) for r in fabricate.records(5)]
    view = replace(fabricate.view(5), records=made, arms=("reborn", "silu"))
    text = build_report(view, tmp_path).read_text(encoding="utf-8")
    for words in ("Where does reborn help instead of silu?", "Is the candidate better than the all-silu network?",
                  "Reborn instead of silu", "reborn − silu, percentage points", "Candidate − all-silu"):  # fmt: skip
        assert words in text
    for name, reference in (("sites", "silu"), ("confirmation", "silu"), ("control", "positive_twin")):
        table = pd.read_csv(tmp_path / f"{name}.csv")
        assert set(zip(table["tested"], table["reference"])) == {("reborn", reference)}


def test_the_command_breaks_between_words_only(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert (
        "<code><span>reborn-nas</span> <span>search</span> <span>--backbone</span> <span>resnet34</span>"
        in text
    )
    assert "pre span{white-space:nowrap}" in text


@pytest.mark.usefixtures("quick")
def test_third_party_strings_are_shown_and_never_run(tmp_path: Path) -> None:
    names = [EVIL, "=HYPERLINK(1)", 'x" onload="alert(1)', "${x}{{ 7*7 }}\x00", "act5"]
    view = fabricate.view(5, title=EVIL, names=names)
    hostile = RunView(
        title=EVIL, records=view.records, sites=view.sites, phases=[{"phase": "screen", "planned": 1, "note": EVIL}],
        config={EVIL: EVIL, "dataset": EVIL}, environment={"host": EVIL}, notes=(EVIL,), command=EVIL,
        curves=view.curves, arms=("</title><script>", "original"),
    )  # fmt: skip
    index = build_report(hostile, tmp_path / "out")
    text = index.read_text(encoding="utf-8")
    page = _Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert any(EVIL in data for data in page.text)
    assert "{{ 7*7 }}" in text
    assert "\x00" not in text
    for path in (tmp_path / "out" / "figures").glob("*.svg"):
        assert "<script" not in path.read_text(encoding="utf-8")
    with open(tmp_path / "out" / "sites.csv", encoding="utf-8", newline="") as stream:
        cells = [row["site"] for row in csv.DictReader(stream)]
    assert "'=HYPERLINK(1)" in cells


@pytest.mark.usefixtures("quick")
def test_a_second_report_leaves_foreign_files_and_removes_its_own_stale_ones(tmp_path: Path) -> None:
    build_report(fabricate.view(5), tmp_path)
    (tmp_path / "mine.csv").write_text("keep")
    (tmp_path / "files.json").write_text(
        (tmp_path / "files.json").read_text().replace("[", '["../precious.csv", ', 1)
    )
    (tmp_path.parent / "precious.csv").write_text("keep")
    search_only = [record for record in fabricate.records(5) if record.phase == "search"]
    build_report(RunView("t", search_only, sites=fabricate.sites(5)), tmp_path)
    assert (tmp_path / "mine.csv").exists()
    assert (tmp_path.parent / "precious.csv").exists()
    assert not (tmp_path / "sites.csv").exists()
    assert not (tmp_path / "figures" / "effects.svg").exists()
    assert (tmp_path / "figures" / "accuracy_params.svg").exists()


def test_a_study_without_a_finished_training_is_refused(tmp_path: Path) -> None:
    running = TrialRecord("screen/0", "screen", "design", 0, "running", {})
    for records in ([], [running]):
        with pytest.raises(StudyError, match="no finished training"):
            build_report(RunView("empty", records), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick")
def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"cannot be written.*--out"):
        build_report(fabricate.view(5), tmp_path / "file" / "out")


@pytest.mark.usefixtures("quick")
def test_odd_records_make_a_page_too(tmp_path: Path) -> None:
    """Only failures, no accuracy, no sites, no curves."""
    records = [
        TrialRecord(f"search/{k}", "search", "sampled", k, state, {}, reason="a reason")
        for k, state in enumerate(("failed", "rejected", "diverged", "pruned"))
    ]
    text = build_report(RunView("odd", records), tmp_path).read_text(encoding="utf-8")
    assert "ran no screen" in text
    assert "a reason" in text


@pytest.mark.usefixtures("quick")
def test_one_candidate_training_an_arm_is_no_comparison(tmp_path: Path) -> None:
    made = [r for r in fabricate.records(5) if r.phase == "candidate"][:2]
    text = build_report(RunView("t", made, sites=fabricate.sites(5)), tmp_path).read_text(encoding="utf-8")
    assert "beats its parent" not in text


@pytest.mark.slow
def test_ten_thousand_trials_fit_memory_and_page(tmp_path: Path) -> None:
    import resource

    view = fabricate.view(33, search=9600)
    assert len(view.records) >= 9900
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = build_report(view, tmp_path)
    assert index.stat().st_size <= 5_000_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 <= 1 << 30
    text = index.read_text(encoding="utf-8")
    assert "The CSV has all of them" in text
    assert len((tmp_path / "trials.csv").read_text(encoding="utf-8").splitlines()) == len(view.records) + 1


def test_shapes_of_the_parent_are_not_shown_beside_another_width(folder: Path, tmp_path: Path) -> None:
    shape = str(fabricate.view(5).sites["shape"][0])
    assert shape in (folder / "figures" / "architecture.svg").read_text(encoding="utf-8")
    view = fabricate.view(5)
    narrow = {"source": "timm:convnet5", "arguments": {"width": 0.125}}
    records = [
        replace(record, architecture={**record.architecture, "backbone": narrow})
        if record.phase == "search"
        else record
        for record in view.records
    ]
    other = build_report(replace(view, records=records), tmp_path).parent
    assert shape not in (other / "figures" / "architecture.svg").read_text(encoding="utf-8")
