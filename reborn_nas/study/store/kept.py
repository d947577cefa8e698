"""A finished run exported to two text files, which are read without its storage: `run.json` and `records.csv`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from reborn_nas.errors import StudyError
from reborn_nas.files import safe_join, write_atomic
from reborn_nas.records import STORED, TrialRecord, field_names
from reborn_nas.study.config.urls import JOURNAL
from reborn_nas.study.store.opening import read_json, write_json

__all__ = ["is_kept", "read_kept", "write_kept"]

RUN, RECORDS = "run.json", "records.csv"

PLACES = ("run", "storage", "artifacts", "data_dir", "devices")
"""Settings that name places of one machine."""

FILES = ("curve", "checkpoint")
"""Fields of a record that name files, which are not exported."""


def is_kept(folder: Path) -> bool:
    """Whether `write_kept` wrote this folderand it holds no run."""
    return all((folder / name).is_file() for name in (RUN, RECORDS)) and not (folder / JOURNAL).exists()


def write_kept(info: Any, folder: Path) -> None:
    """Export `info`, a `RunInfo`, into an existing folder."""
    kept = {
        "name": info.name,
        "config": {key: value for key, value in info.config.items() if key not in PLACES},
        "settings": info.settings,
        "plan": info.plan,
        "decisions": info.decisions,
        "complete": info.complete,
    }
    write_json(safe_join(folder, RUN), kept)
    text = io.StringIO()
    names = [STORED.get(item.name, item.name) for item in fields(TrialRecord)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for record in info.records:
        row = {**record.to_dict(), **dict.fromkeys(FILES, "")}
        writer.writerow(
            {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
        )
    write_atomic(safe_join(folder, RECORDS), text.getvalue())


def read_kept(folder: Path) -> dict[str, Any]:
    """The arguments of a `RunInfo`, without its candidate's network.

    Raises:
        StudyError: the files are damaged.
    """
    kept = read_json(folder / RUN)
    try:
        with open(folder / RECORDS, encoding="utf-8", newline="") as file:
            records = tuple(TrialRecord(**field_names(_values(row))) for row in csv.DictReader(file))
        found = {name: kept[name] for name in ("name", "config", "settings", "plan", "decisions", "complete")}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StudyError(f"{folder} holds a damaged {RUN} or {RECORDS}: {error!r}") from error
    if not isinstance(found["decisions"], Mapping):
        raise StudyError(f"{folder / RUN} holds damaged decisions")
    return {**found, "records": records}


def _values(row: Mapping[str, str]) -> dict[str, Any]:
    types = {item.name: item.type for item in fields(TrialRecord)}
    types |= {stored: types[name] for name, stored in STORED.items()}
    return {name: text if types[name] == "str" else json.loads(text) for name, text in row.items()}
