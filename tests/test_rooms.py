"""Who may import whom: a row of rooms imports only rows below it, never sideways; so do the rooms inside a room.

Optuna is imported in `samplers/` and `study/` alone.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import house

PACKAGE = Path(__file__).parents[1] / "reborn_nas"
ROWS = (
    (
        "architecture",
        "commands",
        "documents",
        "known",
        "machine",
        "metric",
        "records",
        "seeds",
        "files",
        "errors",
        "heavy",
    ),
    ("activations",),
    ("backbone", "data"),
    ("models", "space", "training", "analysis"),
    ("samplers",),
    ("study", "report", "export"),
    ("replicate",),
    ("api",),
    ("cli", "run"),
)
INSIDE = {
    "api": ("run", "view", "dashboards", "exports", "trainings", "searches"),
    "metric": ("metric", "classification"),
    "analysis": ("shares", "student", "columns", "designs", "effects", "phases", "model", "simulated"),
    "backbone": (
        "load",
        "trace",
        "layers",
        "forward",
        "sites",
        "widen",
        "replace",
        "proof",
        "find",
        "convert",
        "cost",
    ),
    "cli": ("streams", "arguments", "settings", "show", "consent", "verbs", "main"),
    "report": ("probe", "results", "figures", "page"),
    "training": (
        "device",
        "losses",
        "optimisers",
        "recipe",
        "weights",
        "result",
        "checkpoint",
        "suits",
        "mixing",
        "step",
        "scores",
        "evaluation",
        "loop",
        "measure",
    ),
    "study": ("config", "plan", "store", "setup", "trainer", "worker", "result", "search"),
}
"""A room → the rooms inside of it, from the bottom up. Imports for typing and inside of functions count."""

ROW = {room: number for number, rooms in enumerate(ROWS) for room in rooms}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            found.add(node.module or "")
            if node.module == "reborn_nas":
                found.update(f"reborn_nas.{alias.name}" for alias in node.names if alias.name in ROW)
    return found


def test_rows() -> None:
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        room = parts[0]
        if room == "__init__":
            continue
        assert room in ROW, f"{path}: a room that the plan does not name"
        for name in imports(path):
            if name.split(".")[0] == "optuna" and room not in ("samplers", "study"):
                faults.append(f"{path}: only samplers/ and study/ import Optuna")
            if not name.startswith("reborn_nas."):
                continue
            other = name.split(".")[1]
            if other != room and (ROW[other] > ROW[room] or ROW[other] == ROW[room] > 0):
                faults.append(f"{path}: {room} may not import {other}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("room", INSIDE)
def test_rows_inside(room: str) -> None:
    row = {f"reborn_nas.{room}.{name}": number for number, name in enumerate(INSIDE[room])}

    def number(module: str) -> int:
        return row[".".join(module.split(".")[:3])]

    inside = [module for module in house.graph() if module.startswith(f"reborn_nas.{room}.")]
    faults = [
        f"{module} may not import {other}"
        for module in inside
        for other in sorted(house.graph()[module].intersection(inside))
        if number(other) > number(module)
    ]
    assert not faults, "\n".join(faults)


def test_no_circle() -> None:
    """Nowhere, imports for typing and inside of functions included."""
    try:
        TopologicalSorter(house.graph()).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_every_room_is_packaged() -> None:
    import tomllib

    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(settings["tool"]["setuptools"]["packages"])
    folders = {
        p.parent.relative_to(PACKAGE.parent).as_posix().replace("/", ".")
        for p in PACKAGE.rglob("__init__.py")
    }
    assert folders <= listed
