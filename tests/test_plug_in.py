"""The product inside third-party code: an objective and training loop, activation, backbone file and sampler.

The third party's distribution lies on the path with entry points of its own: they are found as they are in life.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ENTRY_POINTS = """\
[reborn_nas.activations]
sine = thirdparty:Sine

[reborn_nas.samplers]
lucky = thirdparty:Lucky
"""

THIRD_PARTY = """
import torch
from optuna.samplers import RandomSampler
from torch import nn


class SineModule(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels = self.out_channels = channels

    def forward(self, x):
        return torch.sin(x)


class Sine:
    name, aliases, summary, options = "sine", (), "sin(x)", {}

    def channel_factor(self, **options):
        return 1

    def layouts(self, **options):
        return frozenset({"nchw"})

    def build(self, channels, **options):
        return SineModule(channels)


class Lucky(RandomSampler):
    pass
"""

NET = """
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_chans=1):
        super().__init__()
        self.a, self.b = nn.Conv2d(in_chans, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.relu(self.a(x))
        x = F.relu(self.b(x))
        return self.fc(x.mean((2, 3)))


def make(num_classes=10, in_chans=1):
    return Net(num_classes, in_chans)
"""

SPACE = "choices: [original, sine, reborn]\n"

OBJECTIVE = """
import json, sys
import optuna, torch
import reborn_nas as rn
from net import make

model = make()
sites = rn.find_sites(model, input_size=(1, 8, 8))
images, labels = torch.randn(64, 1, 8, 8), torch.arange(64) % 10


def my_training_loop(network):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return -float(loss.detach())


README_LINES
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(direction="maximize", sampler=rn.AdditiveSampler(seed=0))
study.optimize(objective, n_trials=12)

run = rn.search(
    backbone="net.py:make", dataset="digits", space="space.yaml", sampler="lucky", epochs=1, fraction=0.3, threads=1,
    trials=6, baseline=0, screen=0, candidate=0, confirm=0, control=0, run="run",
)
print(json.dumps({
    "sites": [site.name for site in sites],
    "own": [trial.params for trial in study.trials],
    "values": [trial.value for trial in study.trials],
    "ours": [[record.state, record.parameters, record.reason] for record in run.records],
}))
"""


def readme_objective() -> str:
    """The objective of three lines as the README prints it, for a network of one channel and a space of one's own."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def objective" in block
    ]
    assert len(blocks) == 1
    lines = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(lines) == 4  # the space, and a function of three lines
    return "\n".join(lines).replace('"paper"', '"space.yaml"').replace("(3, 32, 32)", "(1, 8, 8)")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The third party's folder: a distribution, a network's file, a search space."""
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "thirdparty.py").write_text(THIRD_PARTY)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "objective.py").write_text(OBJECTIVE.replace("README_LINES", readme_objective()))
    return tmp_path


def test_everything_of_a_third_party_at_once(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "objective.py"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(ROOT)]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["sites"]) == 2
    assert all(set(params) == set(found["sites"]) for params in found["own"])
    assert {"sine", "original"} <= {label for params in found["own"] for label in params.values()}
    assert len(set(found["values"])) > 1
    assert [state for state, _, _ in found["ours"]] == ["complete"] * 6, found["ours"]
    assert "sine" in {label for _, params, _ in found["ours"] for label in params.values()}
