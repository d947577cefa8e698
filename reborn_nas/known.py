"""The code and storages that this user's searches on this machine have used: a run folder may be third-party.

`search` and `worker` leave a mark in `$XDG_STATE_HOME/reborn-nas` (`~/.local/state/reborn-nas`) for the source code of
their networks, by path, SHA-256 and factory name, and for a storage outside of the run's folder. A run whose code or
storage has a mark is trusted. What the run itself claims is not evidence.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from reborn_nas.architecture import BackboneSpec
from reborn_nas.errors import RebornError
from reborn_nas.files import sha256_of, write_atomic

__all__ = ["foreign_code", "is_known_storage", "remember_code", "remember_storage"]

CODE, STORAGE = "code", "storage"

LOADING = (
    "architecture", "cache_dir", "checkpoint_path", "folded", "plan", "pretrained", "pretrained_cfg",
    "pretrained_cfg_overlay", "trust_source", "weights",
)  # fmt: skip
"""Arguments of a library's model by which it loads files or runs code from outside of the library."""

_marked: set[str] = set()
"""The marks that this process has made or found, also without a folder."""

_log = logging.getLogger("reborn_nas.study")


def foreign_code(specs: Iterable[BackboneSpec]) -> str | None:
    """The first source among `specs` whose code no search of this user has run on this machine, or None."""
    for spec in specs:
        identity = _code(spec)
        if identity is not None and not _is_marked(CODE, identity):
            return spec.source
    return None


def remember_code(spec: BackboneSpec) -> None:
    """Mark the code that builds `spec`, if there is any in addition to the libraries."""
    identity = _code(spec)
    if identity is not None:
        _mark(CODE, identity)


def is_known_storage(shown: str) -> bool:
    """Whether a search of this user has used the storage on this machine; `shown` is its URL without secrets."""
    return _is_marked(STORAGE, shown)


def remember_storage(shown: str) -> None:
    """Mark a storage as used."""
    _mark(STORAGE, shown)


def _code(spec: BackboneSpec) -> list[Any] | None:
    """The identity of the code that builds `spec`; None if it is only a library's."""
    if spec.library in ("timm", "torchvision"):
        loading = {key: value for key, value in spec.arguments.items() if key in LOADING}
        return [spec.source, json.dumps(loading, sort_keys=True, default=str)] if loading else None
    place, _, factory = spec.source.rpartition(":")
    file = Path(place).expanduser()
    found = file if file.is_file() else _module_file(place)
    return [spec.source, factory] if found is None else [str(found.resolve()), factory, sha256_of(found)]


def _module_file(name: str) -> Path | None:
    """The file of the importable module `name`, without importing anything; None if there is none."""
    places, spec = None, None
    for depth in range(1, name.count(".") + 2):
        spec = PathFinder.find_spec(".".join(name.split(".")[:depth]), places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "reborn-nas"


def _name(kind: str, identity: Any) -> str:
    return hashlib.sha256(json.dumps([kind, identity]).encode()).hexdigest() + ".json"


def _is_marked(kind: str, identity: Any) -> bool:
    name = _name(kind, identity)
    try:
        return name in _marked or (_folder() / name).is_file()
    except (OSError, RuntimeError):  # no home
        return False


def _mark(kind: str, identity: Any) -> None:
    name = _name(kind, identity)
    _marked.add(name)
    try:
        path = _folder() / name
        if not path.is_file():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(path, json.dumps({kind: identity}) + "\n")
    except (OSError, RuntimeError, RebornError) as error:
        _log.warning("what this search uses cannot be marked as this user's own (%s)", error)
