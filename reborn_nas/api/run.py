"""A run as an argument: its folder, its stored information, and the command that continues it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from reborn_nas.architecture import Architecture
from reborn_nas.commands import command_line
from reborn_nas.known import foreign_code
from reborn_nas.study import RunInfo, StudyConfig, load_run
from reborn_nas.study.config.config import known_settings
from reborn_nas.study.config.flags import SETTINGS_FILE, resume_command
from reborn_nas.study.config.urls import HIDDEN, STORAGE_VARIABLE
from reborn_nas.study.store.opening import moved_url, reads_run

if TYPE_CHECKING:
    from reborn_nas.records import TrialRecord
    from reborn_nas.study.search import RunResult

Run = str | os.PathLike[str]
"""A run folder."""

MANY = 2000
"""Trainings above which costly computations are done only on request."""


def folder_of(study_or_path: RunResult | Run) -> Path:
    """The run folder."""
    if isinstance(study_or_path, str | os.PathLike):
        return Path(study_or_path)
    return Path(study_or_path.folder)


def info_of(study_or_path: RunResult | RunInfo | Run) -> RunInfo:
    """The stored information of the run, read at most once."""
    if isinstance(study_or_path, RunInfo):
        return study_or_path
    return load_run(folder_of(study_or_path))


def parent_arm(info: RunInfo) -> str:
    """The arm of the trainings with the reference at every site."""
    return "parent" if info.arms[1] == "original" else info.arms[1]


def unknown_code(records: Iterable[TrialRecord]) -> str | None:
    """The source code behind `records` that is not known to be from this user; None if there is none."""
    return foreign_code(Architecture.from_dict(record.architecture).backbone for record in records)


def network_of_code(code: str) -> str:
    """The beginning of an error message about source code that is not known to be from this user."""
    return (
        f"its network is source code, {code}, that no search of yours has run on this machine; read it, then"
    )


@reads_run
def resume_line(info: RunInfo) -> str:
    """The command that continues a run; for a large one by the file of its settings, without importing PyTorch."""
    file = None if info.folder is None else info.folder / SETTINGS_FILE
    if file is None or len(info.records) <= MANY or not file.is_file():
        return resume_command_of(info)
    line = command_line("reborn-nas", "search", "--config", file, "--run", file.parent)
    secret = HIDDEN in str(info.config.get("storage"))
    return f'{line} --storage "${STORAGE_VARIABLE}"' if secret else line


def resume_command_of(info: RunInfo) -> str:
    """The command that continues a run, with every setting that differs from its default."""
    settings = known_settings(info.config)
    if info.folder is not None:  # it may have been copied
        settings |= {"run": info.folder, "storage": moved_url(info.config, info.folder)}
    return resume_command(StudyConfig(**settings))
