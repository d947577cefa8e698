"""The folder that an export goes to: refused where something is in the way, replaced whole or not at all."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reborn_nas.errors import ExportError

__all__ = ["check_target", "new_folder"]


def check_target(out: str | os.PathLike[str], force: bool) -> Path:
    """The folder to write.

    Raises:
        ExportError: timm could not load from there, it is a file, or it is not empty and `force` is not set.
    """
    target = Path(out)
    if odd := sorted(set(os.fspath(out)) & set("#?\t\n\r")):
        raise ExportError(
            f"{os.fspath(out)!r} has {', '.join(map(repr, odd))} in it, and timm could not load local-dir:FOLDER; "
            "give another folder"
        )
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target} is a file; give a folder")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise ExportError(f"{target} is not empty; give another folder, or --force to replace it")
    return target


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when the block ends well, and is removed when it does not."""
    target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ExportError(f"{target} cannot be written: {error}") from error
    try:
        yield work
        _swap(work, target)
    except OSError as error:
        raise ExportError(f"{target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(work: Path, target: Path) -> None:
    """Put `work` where `target` is; the old folder goes only when the new one stands."""
    work.chmod(0o755)
    if not target.exists():
        os.replace(work, target)
        return
    if _exchange(work, target):
        return  # the old one lies where the new one was made, and goes with that
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.replace(target, old / "old")
    try:
        os.replace(work, target)
    except OSError:
        os.replace(old / "old", target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, so that no moment has neither; False where the system cannot (not Linux)."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of linux/fs.h
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)
