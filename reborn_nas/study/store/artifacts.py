"""A training's pictures as Optuna artifacts, which optuna-dashboard shows beside its trial."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.records import TrialRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["ARTIFACTS", "Illustrate", "artifacts_of", "picture_attributes", "save_pictures"]

ARTIFACTS = "artifacts"
"""Folder of the artifacts in the run folder."""

MOST_BYTES = 256 * 1024
"""A larger picture is left out: a study of ten thousand trainings must stay a folder that can be copied."""

ATTRIBUTE = "artifacts:"
"""Optuna's prefix of the system attributes that name a trial's artifacts."""

Illustrate = Callable[
    [TrialRecord, Sequence[Mapping[str, Any]], Sequence[Mapping[str, str]]], Mapping[str, str]
]
"""(record, one mapping a site, rows of the learning curve) → file name → SVG text."""


def picture_attributes(
    illustrate: Illustrate, record: TrialRecord, sites: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, str]:
    """Draw a finished training and keep the pictures; what its trial's system attributes must say.

    A picture that cannot be drawn or kept is left out: no training fails of it.
    """
    try:
        return save_pictures(folder, illustrate(record, sites, _curve(folder, record.curve)))
    except Exception:  # a stranger's picture may fail in any way, and a disk be full
        return {}


def save_pictures(folder: Path, pictures: Mapping[str, str]) -> dict[str, str]:
    """Write `pictures` into the run folder's artifact store; returns system attribute → value, one a picture.

    Equal pictures share one file. Optuna takes system attributes only while a trial runs, so that they belong to the
    write that tells the result.
    """
    from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore

    if not pictures:
        return {}
    (folder / ARTIFACTS).mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder / ARTIFACTS)
    attributes = {}
    for name, text in pictures.items():
        data = text.encode()
        if len(data) > MOST_BYTES:
            continue
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, name + text))
        store.write(key, io.BytesIO(data))
        meta = ArtifactMeta(artifact_id=key, filename=name, mimetype="image/svg+xml", encoding=None)
        attributes[ATTRIBUTE + key] = json.dumps(asdict(meta))
    return attributes


def artifacts_of(trial: FrozenTrial) -> dict[str, str]:
    """The system attributes that name the artifacts of a trial, for a copy of it."""
    return {key: value for key, value in trial.system_attrs.items() if key.startswith(ATTRIBUTE)}


def _curve(folder: Path, relative: str) -> list[dict[str, str]]:
    if not relative:
        return []
    try:
        with open(folder / relative, encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    except OSError:
        return []
