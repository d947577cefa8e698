"""The package read as a graph: its modules, and who imports whom, also for typing and inside of functions.

`python -m tests.house` prints what `tests/test_house.py` limits, and how many files a reader enters from the command
line to the first finished training. `python -m tests.house --coverage backbone export` runs the quick tests of these
rooms and prints which share of the lines of each of their folders these run (`pip install coverage`).
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "reborn_nas"

FOREIGN = {
    r"told": "reported, logged, printed",
    r"(?:said|says)(?!:)": "states, reports, logs, prints",
    r"heard": "received",
    r"anew|afresh": "again, from scratch",
    r"(?:go|goes|went) on": "continue, resume",
    r"(?<!there )(?:is|are) no (?!longer|more)": "is not a",
    r"of (?:its|their|his|one's) own": "its own …, separate",
    r"by (?:itself|themselves)": "alone, automatically",
    r"besides?": "next to, in addition to",
    r"to be had": "available",
    r"strangers?": "third-party",
    r"census|ledger": "table, list",
}
"""Words in which neither Optuna nor timm would write, as regular expressions → what they would write."""


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


@cache
def measured() -> dict[str, tuple[int, str]]:
    """Measure → its value, and where it is."""
    lines = {name: file.read_text(encoding="utf-8").count("\n") for name, file in sources().items()}
    folders = Counter(str(file.parent.relative_to(PACKAGE.parent)) for file in sources().values())
    folder = max(folders, key=lambda name: folders[name])
    longest = max(lines, key=lambda name: lines[name])
    module, function = max(functions(), key=lambda one: (one[1].end_lineno or 0) - one[1].lineno)
    late = late_imports()
    places = Counter(module.split(".")[1] for module, _ in late)
    length = (function.end_lineno or 0) - function.lineno + 1
    return {
        "lines": (sum(lines.values()), ""),
        "modules": (len(lines), ""),
        "modules in one folder": (folders[folder], folder),
        "lines of the longest module": (lines[longest], longest),
        "lines of the longest function": (length, f"{module}.{function.name}"),
        "imports inside of functions": (
            len(late),
            ", ".join(f"{room} {n}" for room, n in places.most_common()),
        ),
    }


def prose(module: str) -> Iterator[tuple[int, str]]:
    """First line and text of each docstring and each comment of a module."""
    for node in ast.walk(tree(module)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, " ".join(node.value.value.split())
    with io.StringIO(sources()[module].read_text(encoding="utf-8")) as stream:
        for token in tokenize.generate_tokens(stream.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def foreign_words(module: str, allowed: Iterable[str] = ()) -> list[str]:
    """The words of `FOREIGN` in the docstrings and comments of a module, each with its line and replacement."""
    words = {word: better for word, better in FOREIGN.items() if word not in allowed}
    return [
        f"{module}:{line}: {found[0]!r}: write {better}"
        for line, text in prose(module)
        for word, better in words.items()
        for found in re.finditer(rf"\b(?:{word})(?!\w)", text, re.IGNORECASE)
    ]


def entered() -> dict[str, Any]:
    """The functions that run until the first training of a small search is finished (`tests/entered.py`)."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "XDG_STATE_HOME": folder}
        script = [sys.executable, str(Path(__file__).with_name("entered.py"))]
        done = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def covered(rooms: list[str]) -> None:
    """Run the quick tests of the rooms, and print each folder's share of lines that they run."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"COVERAGE_FILE": str(Path(folder) / "lines")}
        command = [sys.executable, "-m", "coverage"]
        inside = ",".join(f"reborn_nas/{room}/*" for room in rooms)
        run = [
            *command,
            "run",
            f"--include={inside}",
            "-m",
            "pytest",
            "-q",
            *(f"tests/{room}" for room in rooms),
        ]
        subprocess.run(run, cwd=PACKAGE.parent, env=environment, check=False)
        text = subprocess.run(
            [*command, "json", "-q", "-o", "-"],
            cwd=PACKAGE.parent,
            env=environment,
            capture_output=True,
            check=True,
        ).stdout
    ran, lines = Counter[str](), Counter[str]()
    for name, file in json.loads(text)["files"].items():
        ran[str(Path(name).parent)] += file["summary"]["covered_lines"]
        lines[str(Path(name).parent)] += file["summary"]["num_statements"]
    for name in sorted(lines):
        print(f"{name:32} {ran[name] / max(lines[name], 1):6.1%} of {lines[name]} lines")


def main() -> None:
    """Print the measures, or the coverage of some rooms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tested = sorted(file.parent.name for file in Path(__file__).parent.glob("*/__init__.py"))
    rooms = [room for room in tested if (PACKAGE / room).is_dir()]
    parser.add_argument("--coverage", nargs="+", metavar="ROOM", choices=rooms, help=", ".join(rooms))
    args = parser.parse_args()
    if args.coverage:
        covered(args.coverage)
        return
    for measure, (value, where) in measured().items():
        print(f"{measure}: {value} {where}".rstrip())
    for room in sorted({name.split(".")[1] for name in graph()}):
        if (length := len(chain(room))) > 1:
            print(f"longest chain of imports in {room}: {length}")
    foreign = Counter(".".join(name.split(".")[1:3]) for name in sources() for _ in foreign_words(name))
    print("words foreign to the field:", ", ".join(f"{room} {n}" for room, n in foreign.most_common()))
    found = entered()
    files, path = ({name for name, _ in found[key]} for key in ("entered", "path"))
    print(
        f"from the command line to the first finished training: {len(files)} files entered, {len(found['entered'])} "
        f"functions; {len(path)} files on the path to the training itself"
    )


if __name__ == "__main__":
    main()
