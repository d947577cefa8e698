"""A user's own network: `path/to/file.py:factory`, imported under a name that its content decides.

The module is called `reborn_nas_file_<digest>`, so two files of the same name do not clash and a changed file is
another module. A finder on `sys.meta_path` imports it again by that name, in this process and in those it
starts (the table of paths travels in an environment variable), so that such a network can be pickled.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.files import sha256_of

PREFIX = "reborn_nas_file_"
_TABLE = "REBORN_NAS_FILES"


def load_factory(source: str, *, digest: str | None = None) -> Callable[..., Any]:
    """The callable that `path/to/file.py:factory` names.

    Args:
        source: the file's path, a colon, and the name of a callable in it that returns a network.
        digest: SHA-256 that the file must have, or None.

    Raises:
        ConfigError: the file is absent, changed, broken, or its attribute is not callable.
        UnknownNameError: the file has no such name.
    """
    file, name = split_source(source)
    module = load_file(file, digest=digest)
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown_name(f"factory in {file}", name, known)
    factory = getattr(module, name)
    if not callable(factory):
        raise ConfigError(
            f"backbone {source!r}: {name} is {type(factory).__name__}, not a function that returns a network"
        )
    return factory  # type: ignore[no-any-return]


def load_file(file: str | Path, *, digest: str | None = None) -> ModuleType:
    """The module of a Python file, imported once per content."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"backbone file {str(file)!r} does not exist (looked at {path.absolute()}); "
            "write path/to/file.py:factory, relative to the working directory"
        )
    found = sha256_of(path)
    if digest is not None and found != digest:
        raise ConfigError(
            f"backbone file {str(file)!r} has changed: its SHA-256 is {found[:12]}…, recorded was {digest[:12]}…; "
            "restore the file, or start anew with the changed one"
        )
    table = _table()
    name = PREFIX + found[:16]
    if table.get(name) != str(path.resolve()):
        os.environ[_TABLE] = json.dumps({**table, name: str(path.resolve())})
    try:
        return importlib.import_module(name)
    except Exception as error:
        sys.modules.pop(name, None)
        raise ConfigError(
            f"backbone file {str(file)!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def split_source(source: str) -> tuple[str, str]:
    """`path/to/file.py:factory` → (path, factory). Raises ConfigError where it is not of that form."""
    file, _, name = source.rpartition(":")
    if not file or not name.isidentifier():
        raise ConfigError(f"backbone {source!r}: a network of your own is path/to/file.py:factory")
    return file, name


class _Finder:
    """Finds `reborn_nas_file_*` modules by the table of paths."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(PREFIX):
            return None
        file = _table().get(name)
        if file is None or not Path(file).is_file() or not sha256_of(file).startswith(name[len(PREFIX) :]):
            return None
        folder = str(Path(file).parent)
        if folder not in sys.path:  # the file may import its neighbours
            sys.path.append(folder)
        return importlib.util.spec_from_file_location(name, file)


def _table() -> dict[str, str]:
    try:
        table = json.loads(os.environ.get(_TABLE, "{}"))
    except ValueError:
        return {}
    return table if isinstance(table, dict) else {}


if not any(getattr(finder, "__name__", "") == "_Finder" for finder in sys.meta_path):
    sys.meta_path.append(_Finder)
