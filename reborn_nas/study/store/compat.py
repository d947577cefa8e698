"""Interfaces of Optuna that are not public, in one place; a test checks them against the public API.

Storages address trials by ids, which `FrozenTrial` and `Study` keep private; `upload_artifact` takes a file, draws a
name and writes at once; a database's cache is created only inside `create_study`; a call to a gRPC proxy takes no
deadline.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict

import optuna
from optuna.artifacts import ArtifactMeta
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

__all__ = [
    "artifact_attribute",
    "artifacts_of",
    "cached",
    "keep_artifact",
    "set_deadline",
    "study_id",
    "trial_id",
]

ARTIFACT = "artifacts:"
"""Prefix of the system attributes that describe artifacts."""


def trial_id(trial: FrozenTrial) -> int:
    """The id by which a storage addresses the trial: unlike its number, unique among all studies."""
    return trial._trial_id


def study_id(study: Study) -> int:
    """The id by which a storage addresses the study."""
    return study._study_id


def cached(storage: RDBStorage) -> BaseStorage:
    """The database with finished trials cached in memory, as `create_study` makes it."""
    return optuna.storages.get_storage(storage)


def artifact_attribute(meta: ArtifactMeta) -> tuple[str, str]:
    """Name and value of the system attribute that describes an artifact, as `upload_artifact` writes it."""
    return ARTIFACT + meta.artifact_id, json.dumps(asdict(meta))


def artifacts_of(trial: FrozenTrial) -> dict[str, str]:
    """The system attributes that describe the artifacts of a trial, for a copy of it."""
    return {name: value for name, value in trial.system_attrs.items() if name.startswith(ARTIFACT)}


def keep_artifact(study: Study, meta: ArtifactMeta) -> None:
    """Describe an artifact of a study, if it is not described yet."""
    name, value = artifact_attribute(meta)
    storage = study._storage
    if name not in storage.get_study_system_attrs(study._study_id):
        storage.set_study_system_attr(study._study_id, name, value)


def set_deadline(proxy: BaseStorage, seconds: float) -> None:
    """Let every call to a gRPC proxy (`GrpcStorageProxy`) fail after `seconds` without an answer."""
    stub = proxy._stub  # type: ignore[attr-defined]
    for name, call in vars(stub).items():
        setattr(stub, name, functools.partial(call, timeout=seconds))
