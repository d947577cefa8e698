"""The folder of an export, which is replaced atomically, and the source code that it contains."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import reborn_nas
from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.backbone.load.factory import files_in_use, files_of, source_beside, split_source
from reborn_nas.errors import ExportError

__all__ = ["carry_source", "check_target", "new_folder"]


def check_target(out: str | os.PathLike[str], force: bool) -> Path:
    """Check and return the folder to write.

    Raises:
        ExportError: timm cannot load from it, it is a file, or it is not empty and `force` is not set.
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
    """Yield a folder that replaces `target` if the context succeeds, and is removed if it fails."""
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
    """Replace `target` by `work`; the old folder is removed only after that."""
    work.chmod(0o755)
    if not target.exists():
        os.replace(work, target)
        return
    if _exchange(work, target):
        return  # the old one is now at the temporary path, and removed with it
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
    """Exchange two folders in one step, so that one always exists; False if the system cannot (not Linux)."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of linux/fs.h
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


_INIT = "__init__.py"
_TIMEOUT = 600.0  # seconds

_CHECK = """
import json, sys
given = json.loads(sys.stdin.read())
sys.path[:] = given["path"]
try:
    from reborn_nas.architecture import BackboneSpec
    from reborn_nas.backbone import build
    from reborn_nas.errors import RebornError
    build(BackboneSpec.from_dict(given["spec"]), device="meta")
except RebornError as error:
    print(str(error), file=sys.stderr)
    sys.exit(3)
"""


def carry_source(folder: Path, architecture: Architecture) -> Architecture:
    """Copy the files of the network's source into an export; returns the architecture with their new paths.

    Raises:
        ExportError: the network cannot be built from the copied files only.
    """
    spec = architecture.backbone
    file, factory = split_source(spec.source)
    own, files = files_of(file), files_in_use(file)
    main = own.main.relative_to(own.base).as_posix()
    for place, path in files.items():
        target = folder / place
        if target.exists():
            raise ExportError(
                f"the network's source file {place!r} has the name of a file of the export; rename it"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for inner in {parent for place in files for parent in Path(place).parents if parent != Path(".")}:
        (folder / inner / _INIT).touch()  # a plain folder becomes a package, whose files find each other
    if len(files) > 1 or "import_module" in own.main.read_text(encoding="utf-8", errors="replace"):
        _check(
            folder, replace(spec, source=source_beside(folder, f"{main}:{factory}")), sorted(files), own.base
        )
    return architecture.with_backbone(replace(spec, source=f"{main}:{factory}"))


def _check(folder: Path, spec: BackboneSpec, files: Sequence[str], base: Path) -> None:
    """Build the network in a process that has no access to the original folder of its source."""
    home = str(Path(reborn_nas.__file__).resolve().parents[1])
    hidden = {Path.cwd().resolve(), base}
    path = [entry for entry in sys.path if entry and Path(entry).resolve() not in hidden]
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-c", _CHECK],
            input=json.dumps({"spec": spec.to_dict(), "path": [*path, home]}),
            capture_output=True,
            text=True,
            cwd=elsewhere,
            env={**environment, "CUDA_VISIBLE_DEVICES": "", "REBORN_NAS_FILES": "{}"},
            timeout=_TIMEOUT,
            check=False,
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ExportError(
            f"the network cannot be built from the files that an export would carry ({', '.join(files)}): "
            f"{reason.replace(str(folder), '.')}; import what it needs with import statements at the top, read no "
            "files next to the source, or put the network into one file"
        )
