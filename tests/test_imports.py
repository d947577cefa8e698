"""What importing the package and asking for help must not import: everything that only some commands need."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.test_rooms import ROWS

HEAVY = {
    "IPython", "graphviz", "jinja2", "matplotlib", "onnx", "optuna", "optuna_dashboard", "pandas", "plotly",
    "rich", "scipy", "sklearn", "sqlalchemy", "statsmodels", "triton",
}  # fmt: skip

HEAVIEST = {"numpy", "timm", "torch", "torchvision"}

HELP = """
from reborn_nas.cli.main import main
sys.stdout, sys.stderr, out = open("/dev/null", "w"), open("/dev/null", "w"), sys.stdout
try:
    main({argv})
except SystemExit as end:
    assert end.code == {code}
sys.stdout = out
"""


def added_by(code: str, before: str = "") -> set[str]:
    """Top-level modules that a fresh interpreter has after `code` and did not have after `before`."""
    script = f"import json, sys\n{before}\nbefore = set(sys.modules)\n{code}\n"
    script += "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], 0),
        (["serach"], 2),
        (["search", "--epoch", "3"], 2),
        (["search", "--help"], 0),
        (["export", "--help"], 0),
    ],
)
def test_what_trains_nothing_imports_nothing_heavy(argv: list[str], code: int) -> None:
    added = added_by(HELP.format(argv=argv, code=code))
    assert "reborn_nas" in added
    assert not added & HEAVIEST
    if "search" not in argv:  # its flags are made from the settings, which need pydantic
        assert not added & HEAVY


def test_importing_the_package_imports_little() -> None:
    added = added_by("import reborn_nas")
    assert "reborn_nas" in added
    assert not added & (HEAVY | HEAVIEST)


def test_converting_imports_little_more_than_torch_and_timm() -> None:
    added = added_by(
        "import reborn_nas as rn; rn.convert, rn.find_sites, rn.models", before="import torch, timm"
    )
    assert "reborn_nas" in added
    assert not added & HEAVY


@pytest.mark.parametrize(
    "order",
    [
        "import reborn_nas, timm",
        "import timm, reborn_nas",
        "import gc, reborn_nas.heavy as heavy; heavy.import_networks(); assert gc.isenabled(); import timm",
    ],
)
def test_the_models_are_registered_whichever_is_imported_first(order: str) -> None:
    assert "timm" in added_by(f"{order}; assert timm.is_model('convnet8')")


def test_functions_keep_their_names_when_rooms_of_these_names_are_imported() -> None:
    code = (
        "import reborn_nas as rn, reborn_nas.report.page.page, reborn_nas.export.folder\n"
        "assert callable(rn.report) and callable(rn.export)\n"
        "import reborn_nas.report, importlib; importlib.import_module('reborn_nas.export')\n"
        "from reborn_nas import report, export\n"
        "assert callable(report) and callable(export)\n"
        "from reborn_nas import *"
    )
    assert "reborn_nas" in added_by(code)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_room_can_be_imported_first() -> None:
    # what is not ours is imported once, except timm, whose import registers our models
    rooms = sorted({room for row in ROWS for room in row})
    forks = f"""
import gc, os
gc.disable()
import jinja2, matplotlib, optuna, pandas, plotly, pydantic, scipy.stats, torch, torchvision, yaml
for room in {rooms}:
    if not (child := os.fork()):
        __import__(f"reborn_nas.{{room}}")
        import timm
        os._exit(0 if timm.is_model("convnet8") else 1)
    assert os.waitpid(child, 0)[1] == 0, room
"""
    added_by(forks)
