"""The export of a network of the user's own training: rebuilt in a new process, bit-identical."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import reborn_nas as rn
from reborn_nas.cli.main import main
from reborn_nas.errors import ExportError
from reborn_nas.export.network import _example, read_example
from reborn_nas.study.search import RunResult, run_search
from tests.study.own_task import SOURCE, configured

pytestmark = pytest.mark.slow

WIDE = SOURCE.replace("def forward(self, x):", "def forward(self, x, scale=1.0):").replace(
    "return torch.zeros(2, 1, 8, 8)", "return {'x': torch.ones(2, 1, 8, 8), 'scale': 2.0}"
)
"""The same network with keyword arguments."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    counts = {
        "baseline": 0,
        "screen": 8,
        "exploration": 0,
        "candidate": 4,
        "retest": 0,
        "control": 0,
        "checks": 0,
    }
    return run_search(configured(tmp_path_factory.mktemp("exported"), WIDE, **counts))


def test_it_is_rebuilt_in_a_fresh_process_to_the_bit(run: RunResult, tmp_path: Path) -> None:
    said: list[str] = []
    folder = rn.export(run, tmp_path / "model", say=said.append)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "example.safetensors", "model.safetensors", "network.json", "plan.json", "task.py",
    ]  # fmt: skip
    assert "degrees" in said[0]
    code = (
        "import sys, torch, reborn_nas as rn; from pathlib import Path;"
        "from reborn_nas.export.network import _example, read_example;"
        "home = Path(sys.argv[1]); network = rn.load(home); kept = read_example(home / 'example.safetensors');"
        "assert torch.equal(network(**kept['inputs']), kept['outputs']), 'not the same';"
        "assert not network.training; print(type(network.act1).__name__)"
    )
    for threads in ("1", "2", "4"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )
        assert done.returncode == 0, done.stderr
    assert "Reborn" in done.stdout
    card = (folder / "README.md").read_text()
    assert "RMSE 14." in card
    assert "on the test part of 40 rows" in card
    assert "`act1`: reborn" in card


def test_the_line_that_is_printed_loads_it(
    run: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run.folder), "--out", str(tmp_path / "my export")]) == 0
    line = capsys.readouterr().out.split("load it: ")[1].splitlines()[0]
    subprocess.run(
        [sys.executable, "-c", line], check=True, cwd=tmp_path, env={**os.environ, "XDG_STATE_HOME": "none"}
    )


def test_the_weights_are_those_of_the_training(run: RunResult, tmp_path: Path) -> None:
    network = rn.load(rn.export(run, tmp_path / "best", trial="best"))
    best = max((r for r in run.records if r.phase == "screen"), key=lambda r: r.accuracy or -1.0)
    assert float(network.head.bias.detach()) == pytest.approx(best.extra["bias"])  # type: ignore[union-attr, operator]
    kept = read_example((run.folder / best.checkpoint).with_suffix(".example"))
    with torch.no_grad():
        assert torch.equal(network(**kept["inputs"]), kept["outputs"])


def test_source_from_elsewhere_is_run_only_where_it_is_trusted(run: RunResult, tmp_path: Path) -> None:
    folder = rn.export(run, tmp_path / "mine")
    theirs = shutil.copytree(folder, tmp_path / "theirs")
    with pytest.raises(ExportError, match="came from elsewhere; read it, then load with trust_source=True"):
        rn.load(theirs)
    assert rn.load(theirs, trust_source=True) is not None
    (theirs / "task.py").write_text("import os\n")
    with pytest.raises(rn.RebornError, match="has changed"):
        rn.load(theirs, trust_source=True)


def test_what_cannot_be_written_or_loaded_is_refused(run: RunResult, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="without --fold"):
        rn.export(run, tmp_path / "folded", fold=True)
    with pytest.raises(ExportError, match="no network of a training of your own"):
        rn.load(tmp_path)
    folder = rn.export(run, tmp_path / "cut")
    (folder / "model.safetensors").write_bytes(b"0123456789")
    with pytest.raises(ExportError, match="cannot be read"):
        rn.load(folder)
    with pytest.raises(rn.RebornError, match="not by the built-in training of classifiers"):
        rn.train(run.folder, dataset="digits", out=tmp_path / "t")


def test_outputs_that_depend_on_the_threads_are_those_of_one() -> None:
    class Threads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.get_num_threads()

    class ThreadsOfBatches(Threads):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if len(x) > 2 else 3 * x

    x = torch.ones(8, 3)
    for network, rows, steady, value in ((Threads(), 8, False, 1.0), (ThreadsOfBatches(), 2, True, 3.0)):
        inputs, outputs, found = _example(network, (x,))
        assert (len(inputs[0]), found) == (rows, steady)
        assert torch.equal(outputs, torch.full((rows, 3), value))
