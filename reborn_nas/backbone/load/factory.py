"""A user's own network: `path/to/file.py:factory` or `package.module:factory`.

Its modules are imported under private names, which depend on their content: `reborn_nas_file_<digest>` for the file,
`reborn_nas_file_<digest>.layers` for what it imports of its folder or package. Two files of the same name thus never
clash, nor do two exports with different `layers.py`, and a changed file is a different module. A finder on
`sys.meta_path` imports them again by these names, in this process and in those it starts (an environment variable
holds the table of paths), so that such a network can be pickled.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from reborn_nas.backbone.load.own_files import INIT, OwnFiles, compiled_beside, module_file, own_files
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.files import sha256_of
from reborn_nas.seeds import kept_generators

PREFIX = "reborn_nas_file_"
_TABLE = "REBORN_NAS_FILES"
_FORMS = "path/to/file.py:factory or package.module:factory"


def load_factory(source: str, *, digest: str | None = None) -> Callable[..., Any]:
    """The callable that a source names.

    Args:
        source: a Python file or the dotted name of a module, a colon, and the name of a callable in it that returns a
            network.
        digest: expected SHA-256 of the source, or None.

    Raises:
        ConfigError: the file is missing, changed or broken, or its attribute is not callable.
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
    """Import the module of a Python file or of a dotted name, once per content."""
    own = files_of(file)
    found = own.digest
    if digest is not None and digest not in (
        found,
        sha256_of(own.main),
    ):  # earlier versions recorded that of the file only
        raise ConfigError(
            f"backbone file {str(file)!r} has changed: its SHA-256 is {found[:12]}…, not {digest[:12]}…; "
            f"restore {_all_of(own)}, or start a new run with the changed one"
        )
    root = PREFIX + (digest or found)[:16]
    table, entry = _table(), [str(own.main), str(Path.cwd())]
    if table.get(root) != entry:
        os.environ[_TABLE] = json.dumps({**table, root: entry})
    if _is_homeless(root):
        _forget(root)
    name = root if own.flat else f"{root}.{own.dotted(own.main)}"
    if name not in sys.modules:
        _gathered.cache_clear()
    try:
        with kept_generators():  # many files set seeds
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        _forget(root)
        reason = f"{type(error).__name__}: {error}".replace(f"{root}.", "")
        raise ConfigError(f"backbone file {str(file)!r} cannot be imported: {reason}") from error


def _is_homeless(root: str) -> bool:
    """Whether a file from which a module of this name was imported has been deleted."""
    places = [getattr(sys.modules[key], "__file__", None) for key in sys.modules if _is_of(key, root)]
    return any(place is not None and not Path(place).is_file() for place in places)


def _is_of(name: str, root: str) -> bool:
    return name == root or name.startswith(f"{root}.")


def _forget(root: str) -> None:
    for name in [key for key in sys.modules if _is_of(key, root)]:
        del sys.modules[name]
    _builtins.cache_clear()


def files_of(file: str | Path) -> OwnFiles:
    """The files behind a path or a dotted name. Raises ConfigError if there are none."""
    text = str(file)
    if _is_path(text):
        path = Path(file).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"backbone file {text!r} does not exist (looked at {path.absolute()}); "
                "write path/to/file.py:factory, relative to the working directory"
            )
        return own_files(path, Path.cwd())
    found = module_file(text)
    if found is not None:
        return own_files(found, Path.cwd())
    compiled = compiled_beside(text)
    if compiled is not None:
        raise ConfigError(f"backbone module {text!r} is compiled ({compiled}), so its source cannot be read")
    raise ConfigError(
        f"no Python file is found for the module {text!r}, neither in {Path.cwd()} nor on Python's path; "
        f"a backbone is NAME (timm's), torchvision:NAME, {_FORMS}"
    )


def split_source(source: str) -> tuple[str, str]:
    """`path/to/file.py:factory` → (path, factory). Raises ConfigError if it is of neither form."""
    file, _, name = source.rpartition(":")
    dotted = all(part.isidentifier() for part in file.split("."))
    if not file or not name.isidentifier() or not (_is_path(file) or dotted):
        raise ConfigError(f"backbone {source!r}: a network of your own is {_FORMS}")
    return file, name


def source_beside(folder: Path, source: str) -> str:
    """The source of an export, found in the export's folder."""
    file, factory = split_source(source)
    place = PurePosixPath(file)
    if place.is_absolute() or ".." in place.parts or not (folder / place).is_file():
        place = PurePosixPath(place.name)
    return f"{folder / place}:{factory}"


def files_in_use(file: str | Path) -> dict[str, Path]:
    """The files that a source needs, place → file: those of its import statements, and those imported at run time."""
    own = files_of(file)
    files = dict(own.files)
    roots = {PREFIX + digest[:16] for digest in (own.digest, sha256_of(own.main))}
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name.partition(".")[0] in roots and path is not None and own.base in Path(path).parents:
            files.setdefault(Path(path).relative_to(own.base).as_posix(), Path(path))
    return dict(sorted(files.items()))


def _is_path(text: str) -> bool:
    return text.endswith(".py") or "/" in text or os.sep in text


def _all_of(own: OwnFiles) -> str:
    names = list(own.files)
    return "the file" if len(names) == 1 else f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"


class _Finder:
    """Finds `reborn_nas_file_*` modules by the table of paths."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(PREFIX):
            return None
        root, _, rest = name.partition(".")
        own = _network_of(root)
        if own is None:
            return None
        place = own.base.joinpath(*rest.split(".")) if rest else own.base
        folders = [str(place)] if place.is_dir() else None
        options = (
            (place / INIT, place.parent / f"{place.name}.py") if rest else (own.main,) if own.flat else ()
        )
        file = next((str(path) for path in options if path.is_file()), None)
        if file is not None:
            loader = _Loader(name, file)
            return spec_from_file_location(name, file, loader=loader, submodule_search_locations=folders)
        if folders is None:
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = folders
        return spec


class _Loader(SourceFileLoader):
    """Runs a file of a network, whose absolute imports search the network's own files first."""

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = _builtins(module.__name__.partition(".")[0])
        super().exec_module(module)

    def set_data(self, *args: Any, **kwargs: Any) -> None:
        """Write no byte code next to a user's file."""


@lru_cache(maxsize=256)
def _builtins(root: str) -> Mapping[str, Any]:
    """Python's builtins with an `import` that maps the names of the network's own files to their private ones."""
    own = _network_of(root)
    assert own is not None

    def imported(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        top, dot, below = name.partition(".")
        local = None if level else own.local(top)
        if local is None or own.base not in local.parents:
            return builtins.__import__(name, globals, locals, fromlist, level)
        start = local.parent if local.name == INIT else local
        private = root if start == own.main and own.flat else f"{root}.{own.dotted(start)}"
        if fromlist:
            return builtins.__import__(private + dot + below, globals, locals, fromlist, 0)
        importlib.import_module(private + dot + below)
        return sys.modules[private]

    return {**vars(builtins), "__import__": imported}


def _network_of(root: str) -> OwnFiles | None:
    """The files behind a private name, if their content still has the digest in it."""
    main, here = _table().get(root, (None, None))
    if main is None or not Path(main).is_file():
        return None
    own = _gathered(main, here, Path(main).stat().st_mtime_ns)
    wanted = root[len(PREFIX) :]
    return own if own.digest.startswith(wanted) or sha256_of(own.main).startswith(wanted) else None


@lru_cache(maxsize=64)
def _gathered(main: str, here: str, changed: int) -> OwnFiles:
    return own_files(Path(main), Path(here))


def _table() -> dict[str, Any]:
    try:
        table = json.loads(os.environ.get(_TABLE, "{}"))
    except ValueError:
        return {}
    return table if isinstance(table, dict) else {}


if not any(getattr(finder, "__name__", "") == "_Finder" for finder in sys.meta_path):
    sys.meta_path.insert(
        0, _Finder
    )  # before Python's finders, which would find the files in a package's folder
