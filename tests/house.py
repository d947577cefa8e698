"""The package read as a graph: its modules, and who imports whom, also for typing and inside of functions."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "reborn_nas"


@cache
def sources() -> dict[str, Path]:
    """Module → file; a package's name stands for its `__init__`."""
    files = sorted(PACKAGE.rglob("*.py"))
    names = (".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


@cache
def tree(module: str) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(sources()[module].read_text(encoding="utf-8"))


def is_package(module: str) -> bool:
    """Whether the module is an `__init__`, which only exports what others define."""
    return sources()[module].name == "__init__.py"


def imports(module: str) -> set[str]:
    """The modules of the package that a module imports; a name of a package counts as the module behind it."""
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(_behind(node.module or "", alias.name) for alias in node.names)
    return {one for one in found if one in sources() and not is_package(one) and one != module}


@cache
def graph() -> dict[str, set[str]]:
    """Every module but the packages' `__init__` → those that it imports."""
    return {name: imports(name) for name in sources() if not is_package(name)}


def _behind(module: str, name: str) -> str:
    """The module that defines `name`, which is imported from `module`."""
    if f"{module}.{name}" in sources():
        return f"{module}.{name}"
    if module in sources() and is_package(module):
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ImportFrom) and name in (one.asname or one.name for one in node.names):
                return _behind(node.module or "", name)
    return module


@cache
def functions() -> tuple[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef], ...]:
    """Every function of the package, with its module."""
    return tuple(
        (module, node)
        for module in sources()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def late_imports() -> set[tuple[str, int]]:
    """(module, line) of each import inside of a function."""
    return {
        (module, node.lineno)
        for module, function in functions()
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }


def chain(room: str) -> list[str]:
    """The longest chain of imports inside of a room, each module importing the next. The graph has no circle."""
    inside = {name for name in graph() if name.startswith(f"reborn_nas.{room}.")}
    longest: dict[str, list[str]] = {}

    def follow(name: str) -> list[str]:
        if name not in longest:
            ways = (follow(other) for other in sorted(graph()[name] & inside))
            longest[name] = [name, *max(ways, key=len, default=[])]
        return longest[name]

    return max((follow(name) for name in sorted(inside)), key=len, default=[])
