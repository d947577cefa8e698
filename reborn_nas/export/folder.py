"""The source of a user's own network in an export: every file that it needs, proved to be enough."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import reborn_nas
from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.backbone.load.factory import files_in_use, files_of, source_beside, split_source
from reborn_nas.errors import ExportError

__all__ = ["carry_source"]

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
    """Copy the files of the network's source into an export; the architecture then names them there.

    Raises:
        ExportError: the network cannot be built from the copied files alone.
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
        (folder / inner / _INIT).touch()  # a plain folder becomes a package: its files find each other again
    if len(files) > 1 or "import_module" in own.main.read_text(encoding="utf-8", errors="replace"):
        _check(
            folder, replace(spec, source=source_beside(folder, f"{main}:{factory}")), sorted(files), own.base
        )
    return architecture.with_backbone(replace(spec, source=f"{main}:{factory}"))


def _check(folder: Path, spec: BackboneSpec, files: Sequence[str], base: Path) -> None:
    """Build the network in a process that knows nothing of the folder where its source lay."""
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
            "files beside the source, or put the network into one file"
        )
