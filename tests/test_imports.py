"""What importing the package and asking for help must not import: everything that only some commands need."""

from __future__ import annotations

import json
import os
import subprocess
import sys

HEAVY = {
    "IPython", "graphviz", "jinja2", "matplotlib", "onnx", "optuna", "optuna_dashboard", "pandas", "plotly",
    "rich", "scipy", "sklearn", "sqlalchemy", "statsmodels", "triton",
}  # fmt: skip

CODE = """
import json, sys
import torch, timm
before = set(sys.modules)
import reborn_nas
from reborn_nas.cli.main import main
sys.stdout, out = open("/dev/null", "w"), sys.stdout
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})), file=out)
"""


def test_importing_and_help_import_little_more_than_torch_and_timm() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    added = set(json.loads(done.stdout))
    assert "reborn_nas" in added
    assert not added & HEAVY
