"""What lies in a folder: its entries by name, without what programs leave behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reborn_nas.errors import DataError

__all__ = [
    "all_entries", "entries_of", "folders_of", "identity", "is_dangling", "is_file", "is_folder", "is_hidden", "shown",
    "some",
]  # fmt: skip

_LEFT_BEHIND = frozenset((
    "__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "system volume information", "lost+found",
    "__pycache__",
))  # fmt: skip
"""Folders of operating and storage systems, which hold copies, small copies or deleted files."""

_SHOWN = 5


def identity(path: str | Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return status.st_dev, status.st_ino


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in `folder` by name, without hidden entries."""
    return [entry for entry in all_entries(folder) if not is_hidden(entry.name)]


def is_hidden(name: str) -> bool:
    """Whether a name is hidden, or one that a system left behind."""
    return name.startswith(".") or name.casefold() in _LEFT_BEHIND


def all_entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read: {error.strerror or error}") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link to itself is nothing."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def is_dangling(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def folders_of(folder: Path) -> list[str]:
    return [entry.name for entry in entries_of(folder) if is_folder(entry)]


def some(names: Sequence[object]) -> str:
    """The first few names."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown(str(name)) for name in names[:_SHOWN]) + more


def shown(name: str) -> str:
    """A name that can be printed, whatever bytes the file system has."""
    return os.fsencode(name).decode("utf-8", "replace")
