"""A worker from elsewhere joins a study by its storage alone; the dashboard's notes."""

from __future__ import annotations

from pathlib import Path

import pytest

from reborn_nas.cli.main import main
from reborn_nas.errors import StudyError
from reborn_nas.study import join, load_records, load_run, run_search, status
from reborn_nas.study.result.dashboard import Shown, describe_studies
from reborn_nas.study.store.opening import open_store
from tests.study.test_run import tiny


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "begun"
    assert run_search(tiny(folder, name="shared", timeout=0.001)).timed_out
    return folder


def test_the_notes_say_how_far_it_is(begun: Path) -> None:
    store = open_store(begun, read_only=False)
    describe_studies(store, status(begun))
    notes = [
        str(value)
        for summary in store.storage.get_all_studies()
        for key, value in summary.system_attrs.items()
        if "note" in key
    ]
    assert sum("| candidate | 0 | 2 |" in note for note in notes) == 3


def test_a_worker_that_knows_the_storage_finishes_the_study(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also takes the proof of the backbone from there."""
    monkeypatch.setattr("reborn_nas.backbone.find.prove", lambda *_: pytest.fail("proved once more"))
    assert join(
        f"journal://{begun.resolve()}/study.journal", "shared", device="cpu", run=tmp_path / "elsewhere"
    )
    assert status(begun).complete
    assert len(load_records(begun)) == 6


def test_the_verb_joins_with_nothing_but_a_name_and_a_storage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "begun"
    assert run_search(tiny(folder, name="mine", timeout=0.001)).timed_out
    monkeypatch.chdir(tmp_path)
    assert main(["worker", "--study", "mine", "--storage", f"journal://{folder}/study.journal"]) == 0
    assert "study 'mine' is complete" in capsys.readouterr().out
    assert status(folder).complete


def test_there_is_no_such_study(begun: Path) -> None:
    with pytest.raises(StudyError, match="no study 'other'"):
        join(f"journal://{begun.resolve()}/study.journal", "other")


@pytest.mark.parametrize("scheme", ["journal://", "sqlite:///"])
def test_a_storage_that_is_not_there_is_not_made(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(StudyError, match="there is no such file"):
        join(f"{scheme}{tmp_path}/absent", "shared", run=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_the_dashboard_gets_the_answer_the_graphs_and_the_report(begun: Path, tmp_path: Path) -> None:
    from optuna.artifacts import get_all_artifact_meta
    from optuna_dashboard import get_note

    page = tmp_path / "index.html"
    page.write_text("<p>one</p>")
    graph = {"data": [{"type": "scatter", "x": [1.0]}], "layout": {}}
    shown = Shown("the *answer*", {"effects": graph, "control": graph}, page)
    for text in ("<p>one</p>", "<p>two</p>"):  # a second report takes the first one's place
        page.write_text(text)
        store = open_store(begun, read_only=False)
        describe_studies(store, status(begun), shown, tmp_path / "artifacts")
    drawn = {}
    for study in open_store(begun).studies():
        (meta,) = get_all_artifact_meta(study)
        assert (tmp_path / "artifacts" / meta.artifact_id).read_text() == "<p>two</p>"
        note = get_note(study)
        assert note.startswith("the *answer*")
        assert f"(/artifacts/{study._study_id}/{meta.artifact_id})" in note
        attributes = study._storage.get_study_system_attrs(study._study_id)
        drawn[study.study_name] = sorted({key.split(":")[2] for key in attributes if "plot_data" in key})
    assert drawn == {
        "shared": ["control", "effects"], "shared/design": ["effects"], "shared/confirm": ["control"],
    }  # fmt: skip


def test_every_trial_has_a_note_and_copies_say_so(begun: Path, tmp_path: Path) -> None:
    import optuna
    from optuna_dashboard import get_note

    folder = tmp_path / "with a screen"
    assert run_search(tiny(folder, screen=16, baseline=2, trials=22, space="paper")).complete
    store = open_store(folder, read_only=False)
    describe_studies(store, status(folder), Shown("answer"), folder / "artifacts")
    describe_studies(store, status(folder), Shown("answer"), folder / "artifacts")  # changes nothing
    notes: dict[str, list[str]] = {}
    for study in store.studies():
        handles = [optuna.trial.Trial(study, trial._trial_id) for trial in study.get_trials()]
        notes[study.study_name] = [get_note(handle) for handle in handles]
        assert "1. baseline and screen" in get_note(study)
    assert all(note for found in notes.values() for note in found)
    everything = store.studies()[0]
    copies = [trial.number for trial in everything.get_trials() if "copy_of" in trial.user_attrs]
    assert len(copies) == 16
    marked = [n for n, note in enumerate(notes[everything.study_name]) if "*A copy*" in note]
    assert marked == copies
    command = f"reborn-nas export '{folder}' --trial screen/"
    assert sum(command in note for note in notes[everything.study_name]) == 16
    values = [trial.value for study in store.studies() for trial in study.get_trials()]
    assert all(value == round(value or 0.0, 4) for value in values)
    best = status(folder).best
    assert best is not None
    assert load_run(folder).numbers[everything.best_trial.number] == best.key, "the dashboard's best trial"
