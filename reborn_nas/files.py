"""Files that are written completely or not at all, and paths that stay inside their folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from reborn_nas.errors import RebornError


class PathError(RebornError, ValueError):
    """A path that would leave its folder."""


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write `content` to `path` atomically: a reader sees the old file or the new one.

    The bytes are written to a temporary file in the same folder, fsynced and renamed; the folder is also fsynced.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)
    return target


def safe_join(root: str | os.PathLike[str], *parts: str) -> Path:
    """`root/parts`, refused if it is outside of `root` (absolute parts, `..`, links)."""
    try:
        base = Path(root).resolve()
        joined = base.joinpath(*parts).resolve()
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # a loop of links, a name too long or with a zero byte
        raise PathError(f"path {'/'.join(parts)!r} in {root} leads nowhere: {error}") from None
    if joined != base and base not in joined.parents:
        raise PathError(f"path {'/'.join(parts)!r} would leave its folder {base}; use a plain relative name")
    return joined


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # folders cannot be opened on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
