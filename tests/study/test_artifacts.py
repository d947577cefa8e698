"""Pictures of trainings: kept as Optuna artifacts of their trials, and never in a training's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.trial import FrozenTrial

from reborn_nas.records import TrialRecord
from reborn_nas.study.plan.phases import Phase
from reborn_nas.study.store.outcome import ARTIFACTS, MOST_BYTES, picture_attributes, save_pictures
from reborn_nas.study.worker.loop import Worker
from reborn_nas.study.worker.progress import SilentProgress
from reborn_nas.study.worker.stop import Stopper
from tests.study.conftest import FakeObjective, make_bench
from tests.study.test_engine import plan, store_of


def draw(
    record: TrialRecord, sites: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, str]]
) -> dict[str, str]:
    return {
        "architecture.svg": f"<svg>{record.digest} {len(sites)}</svg>",
        "curve.svg": f"<svg>{record.key}</svg>",
    }


def artifacts(folder: Path, trial: FrozenTrial, storage: Any) -> dict[str, str]:
    """File name → text of a trial's artifacts, as Optuna reads them."""
    store = FileSystemArtifactStore(folder / ARTIFACTS)
    found = {}
    for meta in get_all_artifact_meta(trial, storage=storage):
        assert meta.mimetype == "image/svg+xml"
        with store.open_reader(meta.artifact_id) as stream:
            found[meta.filename] = stream.read().decode()
    return found


def test_every_finished_trial_has_its_pictures_also_the_sampler_s_copies(folder: Path) -> None:
    context = make_bench(folder)
    phases: tuple[Phase, ...] = plan(context, 64)
    with Stopper() as stopper:
        objective = FakeObjective(state=lambda run: "failed" if run.key == "search/0" else "complete")
        engine = Worker(
            context, store_of(context), phases, objective, SilentProgress(), stopper, illustrate=draw
        )
        assert engine.work(lead=True)
    store = store_of(context)
    seen = copies = 0
    for study in store.studies():
        for trial in study.get_trials():
            found = artifacts(folder, trial, store.storage)
            key = trial.user_attrs.get("key") or trial.user_attrs["copy_of"]
            copies += "copy_of" in trial.user_attrs
            assert found["curve.svg"] == f"<svg>{key}</svg>"
            assert found["architecture.svg"] == f"<svg>{trial.user_attrs['digest']} 5</svg>"
            seen += 1
    assert (seen, copies) == (64 + 32, 32)
    architectures = {t.user_attrs["digest"] for s in store.studies() for t in s.get_trials()}
    assert len(list((folder / ARTIFACTS).iterdir())) == 64 + len(architectures), "equal pictures share a file"


@pytest.mark.parametrize("fault", ["drawing", "folder"])
def test_a_picture_that_cannot_be_made_fails_nothing(folder: Path, fault: str) -> None:
    def broken(*_: object) -> dict[str, str]:
        raise ZeroDivisionError

    record = TrialRecord("screen/0", "screen", "design", 0, "complete", {})
    if fault == "folder":
        (folder / ARTIFACTS).write_text("a file stands where the folder should")
    assert picture_attributes(broken if fault == "drawing" else draw, record, [], folder) == {}


def test_a_picture_without_bounds_is_left_out(folder: Path) -> None:
    assert (
        len(save_pictures(folder, {"large.svg": "x" * (MOST_BYTES + 1), "small.svg": "y" * MOST_BYTES})) == 1
    )
