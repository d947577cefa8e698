"""The Python files of a user's own network: its file, and those of its folder or package that it imports.

Found from the import statements, without running anything. Installed packages (torch, timm, …) are not included.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from reborn_nas.files import sha256_of

INIT = "__init__.py"


@dataclass(frozen=True)
class OwnFiles:
    """A network's source.

    Args:
        main: the file with the factory.
        base: the folder to which the names of its modules are relative.
        files: path relative to `base` → path, for all needed files including `main`.
        folders: the folders in which absolute imports are searched, in this order.
    """

    main: Path
    base: Path
    files: Mapping[str, Path]
    folders: tuple[Path, ...]

    @property
    def flat(self) -> bool:
        """Whether the main file is imported as a top-level module, not as a member of a package."""
        return self.base == self.main.parent and self.main.name != INIT

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, or of all files and their places if there are several; empty files do not count."""
        digests = {place: sha256_of(path) for place, path in self.files.items() if path.stat().st_size}
        if self.flat and set(digests) <= {self.main.name}:
            return sha256_of(self.main)
        text = "\n".join(f"{place} {digest}" for place, digest in sorted(digests.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    def dotted(self, path: Path) -> str:
        """The module name of a file, relative to `base`."""
        parts = path.relative_to(self.base).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def local(self, top: str) -> Path | None:
        """The file or folder that `import top` means, if it is one of the user's."""
        return next(iter(_found(top, self.folders)), None)


def own_files(main: Path, here: Path) -> OwnFiles:
    """Collect the files that `main` needs; `here` is the working directory."""
    main = main.resolve()
    folders = tuple(_folders(main, here.resolve()))
    anchors, needed = {_anchor_of(main)}, {main}
    while True:
        found, anchored = _closure(needed, folders)
        anchors |= anchored
        base = Path(os.path.commonpath([str(anchor) for anchor in anchors]))
        inits = {init for path in found for init in _inits(path, base)}
        if found | inits == needed:
            break
        needed = found | inits
    files = {path.relative_to(base).as_posix(): path for path in sorted(needed)}
    return OwnFiles(main, base, files, folders)


def module_file(dotted: str) -> Path | None:
    """The file of the module `dotted`, in the working directory or on Python's path; None if it does not exist.

    Nothing is imported.
    """
    top, *rest = dotted.split(".")
    places = [Path.cwd(), *(Path(entry or ".") for entry in sys.path)]
    for start in _found(top, places):
        path = start
        for part in rest:
            path = path.parent if path.name == INIT else path
            path = _module(path, part) or path / part
        if path.is_file():
            return path.resolve()
    return None


def compiled_beside(dotted: str) -> Path | None:
    """A compiled extension of that name, which has no source to read."""
    relative = Path(*dotted.split("."))
    places = [Path.cwd(), *(Path(entry or ".") for entry in sys.path)]
    found = (place / f"{relative}{suffix}" for place in places for suffix in EXTENSION_SUFFIXES)
    return next((path for path in found if path.is_file()), None)


def _folders(main: Path, here: Path) -> Iterator[Path]:
    """The folders of the file, up to that of its package and, if it contains the file, to the working directory."""
    top = _package_root(main.parent)
    if here in main.parents and here in top.parents:
        top = here
    folder = main.parent
    yield folder
    while folder != top and folder != folder.parent:
        folder = folder.parent
        yield folder


def _package_root(folder: Path) -> Path:
    """The folder that contains the package of `folder`; `folder` itself if it is not a package."""
    while (folder / INIT).is_file():
        folder = folder.parent
    return folder


def _anchor_of(main: Path) -> Path:
    return main.parent.parent if main.name == INIT else main.parent


def _closure(start: Iterable[Path], folders: Sequence[Path]) -> tuple[set[Path], set[Path]]:
    """All files that the given ones import, including these, and the folders to which their names are relative."""
    todo, found, anchors = list(start), set(start), set[Path]()
    while todo:
        file = todo.pop()
        for level, module, names in _imports(file):
            for path, anchor in _targets(file, level, module, names, folders):
                anchors.add(anchor)
                if path not in found:
                    found.add(path)
                    todo.append(path)
    return found, anchors


def _imports(file: Path) -> Iterator[tuple[int, tuple[str, ...], tuple[str, ...]]]:
    """(dots, module, names) of each import statement in a file."""
    try:
        with tokenize.open(file) as stream:
            tree = ast.parse(stream.read())
    except (SyntaxError, ValueError, OSError):
        return  # the import will report the error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, tuple(alias.name.split(".")), ()
        elif isinstance(node, ast.ImportFrom):
            parts = tuple(node.module.split(".")) if node.module else ()
            yield node.level, parts, tuple(alias.name for alias in node.names)


def _targets(
    file: Path, level: int, module: tuple[str, ...], names: tuple[str, ...], folders: Sequence[Path]
) -> Iterator[tuple[Path, Path]]:
    """The user's files that an import runs, each with the folder to which its name is relative."""
    if level:
        start = file.parent
        for _ in range(level - 1):
            start = start.parent
        root = _package_root(start)
        anchor, path = root if root != start else start.parent, start
    else:
        local = next(iter(_found(module[0], folders)), None)
        if local is None:
            return
        package = local.name == INIT or local.is_dir()
        anchor = (local.parent if local.name == INIT else local).parent if package else local.parent
        path, module = (local.parent if local.name == INIT else local), module[1:]
        if local.is_file():
            yield local, anchor
    for part in module:
        found = _module(path, part)
        if found is not None:
            yield found, anchor
        path = path / part
    for name in names:
        found = _module(path, name) if path.is_dir() else None
        if found is not None:
            yield found, anchor


def _module(folder: Path, name: str) -> Path | None:
    """The file that `name` in a package means."""
    return next((p for p in (folder / name / INIT, folder / f"{name}.py") if p.is_file()), None)


def _found(top: str, folders: Sequence[Path]) -> Iterator[Path]:
    """The files that a name refers to: files and packages first, plain folders if nothing else has the name."""
    if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
        return
    for folder in folders:
        found = _module(folder, top)
        if found is not None:
            yield found
    for folder in folders:
        if (folder / top).is_dir() and any((folder / top).glob("*.py")) and not _is_installed(top):
            yield folder / top


def _is_installed(top: str) -> bool:
    return any(_module(Path(entry or "."), top) is not None for entry in sys.path)


def _inits(path: Path, base: Path) -> Iterator[Path]:
    """The `__init__` files that Python runs before a file of their packages."""
    for folder in path.parents:
        if folder == base:
            return
        if (folder / INIT).is_file():
            yield folder / INIT
