"""Opening a run to read it: its folder, its storage, whether that may be connected to, and what is damaged."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from reborn_nas.errors import RebornError, StudyError, blame_machine
from reborn_nas.files import write_atomic
from reborn_nas.known import is_known_storage
from reborn_nas.study.config.urls import (
    HIDDEN,
    JOURNAL,
    STORAGE_VARIABLE,
    journal_path,
    mask_url,
    opened_url,
    run_url,
    storage_file,
)
from reborn_nas.study.config.values import STORAGES
from reborn_nas.study.plan.phases import DESIGN, RETEST
from reborn_nas.study.store.soundness import damage

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from reborn_nas.study.store.storage import RunStore

__all__ = [
    "check_run_folder",
    "is_run_folder",
    "is_writable",
    "kept_in",
    "moved_url",
    "open_store",
    "read_json",
    "reads_run",
    "write_json",
]


def is_run_folder(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / JOURNAL).is_file() or (folder / "config.json").is_file()


def check_run_folder(folder: Path) -> None:
    """Raise StudyError if a run cannot be created or resumed in `folder`."""
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
    """Write `value` atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises StudyError if it holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise StudyError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


OTHER_SCHEME = r"([A-Za-z][\w+.\-]+):/+(.*)"
STORAGE_SCHEME = rf"((?:{'|'.join(STORAGES)})(?:\+\w+)?):"

_log = logging.getLogger("reborn_nas.study")

OURS = "the run's data are as a search writes them: this is a fault of reborn-nas, please report it"

P = ParamSpec("P")
T = TypeVar("T")


def reads_run(read: Callable[P, T]) -> Callable[P, T]:
    """Decorator of functions that read a run, their first argument: a folder, a URL, a store, or what was read of it.

    Foreign data may raise any exception. If the run holds something that no search writes, that becomes one StudyError,
    which names it; otherwise the fault is ours, and the exception is raised unchanged.
    """

    @functools.wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except (RebornError, BrokenPipeError):
            raise
        except Exception as error:  # odd data may raise anything
            if OURS in getattr(error, "__notes__", ()):
                raise
            blame_machine(error, "the run")
            found = _damage_of(next(iter((*args, *kwargs.values()))))
            if found is None:
                error.add_note(OURS)
                raise
            raise StudyError(f"the run is damaged, or another program wrote it: {found}") from error

    return reading


def _damage_of(run: Any) -> str | None:
    """The first thing in the run that no search writes, or the reason why the run cannot be opened."""
    try:
        if hasattr(run, "plan") and hasattr(run, "settings"):  # what was read of a run
            candidate = run.decisions.get("candidate")
            kept = {
                "config": run.config,
                "settings": run.settings,
                "plan": run.plan or None,
                "candidate": candidate,
            }
            return damage(kept, [record.to_dict() for record in run.records])
        for name in ("run_path", "folder"):  # attributes of a command's arguments and of a search's result
            run = getattr(run, name, run)
        return damage(*kept_in(run if not isinstance(run, str | Path) else _store(run, results_only=True)))
    except Exception as error:  # it cannot be opened
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@reads_run
def open_store(
    run: str | Path, name: str | None = None, *, read_only: bool = True, results_only: bool = False
) -> RunStore:
    """The store of a run folder, or of the study `name` at a storage URL.

    Args:
        read_only, results_only: as in `connect`.

    Raises:
        StudyError: there is no such run.
    """
    return _store(run, name, read_only=read_only, results_only=results_only)


def _store(
    run: str | Path, name: str | None = None, *, read_only: bool = True, results_only: bool = False
) -> RunStore:
    from reborn_nas.study.store.storage import (  # imports Optuna, which `--help` does not need
        connect,
        open_run,
    )

    if "://" in str(run):
        storage = connect(str(run), read_only=read_only, results_only=results_only)
        return open_run(storage, name or _only_study(storage))
    folder, url, study = _described(run)
    shown = mask_url(url)
    if not _lies_in(folder, url) and not is_known_storage(shown):
        _log.warning("%s: the run's storage lies outside of its folder: %s", folder, shown)
        _refuse_server(folder, url, shown)
    storage = connect(_with_password(folder, url), read_only=read_only, results_only=results_only)
    return open_run(storage, name or study or _only_study(storage))


@reads_run
def is_writable(run: str | Path) -> bool:
    """Whether a reader of the run may also change it: its storage is in its folder or known, and writable."""
    folder, url, _ = _described(run)
    return (_lies_in(folder, url) or is_known_storage(mask_url(url))) and all(
        os.access(path, os.W_OK) for path in (folder, storage_file(url)) if path is not None
    )


def _described(run: str | Path) -> tuple[Path, str, str | None]:
    """The folder of a run, the URL of its storage and its study's name from config.json."""
    collapsed = re.match(STORAGE_SCHEME + "/*(.*)", str(run)) or re.match(OTHER_SCHEME, str(run))
    if collapsed and not Path(run).is_dir():  # a URL, which loses a slash in a `Path`
        shown = mask_url("://".join(collapsed.groups()))
        raise StudyError(f"{shown} is a storage; give the run's folder, whose config.json names its storage")
    folder = Path(run)
    if not folder.is_dir() or not is_run_folder(folder):
        what = "is not a folder" if not folder.is_dir() else f"holds no {JOURNAL} and no config.json"
        raise StudyError(f"{folder} is not a run folder: it {what}; `reborn-nas search` makes one")
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    name, url = config.get("study"), config.get("storage")
    if not isinstance(name, str | None) or not (url is None or (isinstance(url, str) and "://" in url)):
        raise StudyError(
            f"{folder / 'config.json'} names no study and storage: it is not a run's, or damaged"
        )
    if url is None and not journal_path(folder).is_file():
        raise StudyError(f"{folder} is not a run folder: its {JOURNAL} is missing")
    return folder, run_url(folder, moved_url(config, folder)), name


def moved_url(config: Mapping[str, Any], folder: Path) -> str | None:
    """The storage URL of a run's config, adapted if the storage was a file in the run folder, which is `folder` now."""
    url: str | None = config.get("storage")
    file = None if url is None else storage_file(url)
    before = config.get("run")
    if url is None or file is None or not isinstance(before, str) or not file.is_relative_to(before):
        return url
    there = folder.resolve() / file.relative_to(before)
    return url.replace(str(file), str(there), 1) if there.is_file() else url


def _only_study(storage: BaseStorage) -> str:
    found = [one.study_name for one in storage.get_all_studies() if not _is_part(one.study_name)]
    if len(found) != 1:
        raise StudyError(f"the storage holds {len(found)} studies ({', '.join(sorted(found))}); name one")
    return found[0]


def _lies_in(folder: Path, url: str) -> bool:
    """Whether the storage is a file in the folder and not a link to one elsewhere."""
    file = storage_file(url)
    return file is not None and file.resolve().is_relative_to(folder.resolve())


def _refuse_server(folder: Path, url: str, shown: str) -> None:
    """Refuse to connect to a server that a run folder from elsewhere names, unless the user agreed to it."""
    given = os.environ.get(STORAGE_VARIABLE, "")
    named = bool(given) and (HIDDEN in url or mask_url(given) == shown)
    if storage_file(url) is None and not named and opened_url(shown) is None:
        raise StudyError(
            f"{folder}: its config.json names the server {shown}, which no search of yours has used on this machine; "
            f"set {STORAGE_VARIABLE} to the full URL to read the study there"
        )


def _with_password(folder: Path, url: str) -> str:
    """`url` with its password, which is not stored in a run folder."""
    if HIDDEN not in url:
        return url
    full = opened_url(url) or os.environ.get(STORAGE_VARIABLE, "")
    if not full:
        raise StudyError(
            f"{folder}: the study lies in {url}, whose password is not kept; set {STORAGE_VARIABLE} to the full URL"
        )
    return full


def _is_part(name: str) -> bool:
    return name.endswith((DESIGN, RETEST))


def kept_in(store: RunStore) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """The arguments of `damage`, from a store."""
    prefix = "reborn_nas:"
    attributes = {
        key.removeprefix(prefix): value
        for key, value in store.study("search").user_attrs.items()
        if key.startswith(prefix)
    }
    records: list[Mapping[str, Any]] = []
    for study in store.studies():
        for trial in study.get_trials(deepcopy=False):
            for name in ("phase", "copy_of"):
                if not isinstance(trial.user_attrs.get(name, ""), str):
                    raise TypeError(
                        f"trial {trial.number} of {study.study_name!r}: its {name} is not a string"
                    )
            if trial.state.is_finished() and "record" in trial.user_attrs:
                records.append({**trial.user_attrs["record"], "number": trial.number})
    return attributes, records
