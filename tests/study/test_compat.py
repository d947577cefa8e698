"""What has no public form in Optuna does what its public API does."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.storages import InMemoryStorage, RDBStorage

from reborn_nas.study.store import compat

META = ArtifactMeta(artifact_id="abc", filename="curve.svg", mimetype="image/svg+xml", encoding=None)


def test_ids_are_those_that_the_storage_uses() -> None:
    storage = InMemoryStorage()
    optuna.create_study(storage=storage)
    study = optuna.create_study(storage=storage)
    study.add_trial(optuna.create_trial(value=0.5))
    trial = study.get_trials()[0]
    assert compat.study_id(study) == storage.get_study_id_from_name(study.study_name) != 0
    found = storage.get_trial_id_from_study_id_trial_number(compat.study_id(study), trial.number)
    assert compat.trial_id(trial) == found


def test_a_database_is_kept_in_memory_as_by_create_study(tmp_path: Path) -> None:
    database = RDBStorage(f"sqlite:///{tmp_path / 'a.db'}")
    study = optuna.create_study(storage=database)
    assert type(compat.cached(database)) is type(study._storage) is not RDBStorage


def test_artifacts_are_described_as_by_upload_artifact(tmp_path: Path) -> None:
    study = optuna.create_study()
    file = tmp_path / "curve.svg"
    file.write_text("<svg/>")
    trial = study.ask()
    upload_artifact(
        artifact_store=FileSystemArtifactStore(tmp_path), file_path=str(file), study_or_trial=trial,
        mimetype=META.mimetype,
    )  # fmt: skip
    (uploaded,) = get_all_artifact_meta(trial)
    study.tell(trial, 0.5)
    frozen = study.get_trials()[0]
    assert compat.artifacts_of(frozen) == dict([compat.artifact_attribute(uploaded)])

    compat.keep_artifact(study, META)
    compat.keep_artifact(study, META)
    assert get_all_artifact_meta(study) == [META]
    assert json.loads(compat.artifact_attribute(META)[1])["filename"] == "curve.svg"


def test_calls_to_a_proxy_get_a_deadline() -> None:
    grpc = pytest.importorskip("grpc")
    from optuna.storages import GrpcStorageProxy

    proxy = GrpcStorageProxy(host="localhost", port=1)
    compat.set_deadline(proxy, 0.5)
    assert [call.keywords for call in vars(proxy._stub).values()] == [{"timeout": 0.5}] * len(
        vars(proxy._stub)
    )
    with pytest.raises(grpc.RpcError):
        proxy.get_all_studies()
