"""The run folder: which one it is, and the readable copies that lie in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reborn_nas.errors import StudyError
from reborn_nas.files import write_atomic
from reborn_nas.study.store.storage import JOURNAL

__all__ = ["check_run_folder", "is_run_folder", "read_json", "write_json"]


def is_run_folder(folder: Path) -> bool:
    """Whether a run lies there."""
    return (folder / JOURNAL).is_file() or (folder / "config.json").is_file()


def check_run_folder(folder: Path) -> None:
    """Raise StudyError where a run could not be created or resumed in `folder`."""
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"run folder {folder} is a file; choose another with --run")
    if folder.is_dir() and not is_run_folder(folder) and any(folder.iterdir()):
        raise StudyError(
            f"run folder {folder} is not empty and holds no {JOURNAL}; choose another with --run, or empty it"
        )
    if (folder / "config.json").is_file() and "study" not in read_json(folder / "config.json"):
        raise StudyError(
            f"run folder {folder} holds a config.json that is not a run's; choose another with --run"
        )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` so that a reader sees all of it or nothing."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises StudyError where it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise StudyError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value
