"""A training of one's own that takes a millisecond: a network of three sites, whose value is a formula of its sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reborn_nas.study.config.config import StudyConfig

SOURCE = '''
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.act2 = nn.ReLU()
        self.conv3 = nn.Conv2d(4, 4, 3, padding=1)
        self.dec = nn.ReLU()
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        x = self.act1(self.conv1(x))
        return self.head(self.dec(self.conv3(self.act2(self.conv2(x)))))


def make():
    return Net()


def example():
    return torch.zeros(2, 1, 8, 8)


def reborn(job, site):
    return float(job.architecture.choice(site).name == "reborn")


def formula(model, job):
    """Degrees of error: less with a reborn block at act1, more with one at dec."""
    noise = torch.Generator().manual_seed(job.seed % 2**31)
    shift = {"validation": 0.0, "reserve": 0.01, "test": 0.02}[job.part]
    return 20.0 - 6.0 * reborn(job, "act1") + 3.0 * reborn(job, "dec") + 0.1 * torch.randn((), generator=noise) + shift


def train(model, job):
    with torch.no_grad():
        model.head.bias += 1.0
    for epoch in range(1, job.epochs + 1):
        job.report(epoch=epoch, rmse=formula(model, job) + 5.0 / epoch)


def evaluate(model, job):
    rows = job.indices(200)[job.part]
    return {"rmse": formula(model, job), "n": len(rows), "bias": float(model.head.bias.detach())}
'''


def write(folder: Path, source: str = SOURCE) -> Path:
    """The file in a folder."""
    path = folder / "task.py"
    path.write_text(source)
    return path


def settings(folder: Path, source: str = SOURCE, **more: Any) -> dict[str, Any]:
    """Settings of a study of `source`."""
    path = write(folder, source)
    given = {
        "backbone": f"{path}:make",
        "train": f"{path}:train",
        "evaluate": f"{path}:evaluate",
        "example_inputs": f"{path}:example",
        "metric": "rmse:lower,label=RMSE,unit=degrees,worst=90",
        "space": "two_level",
        "epochs": 2,
        "run": folder / "run",
        "device": "cpu",
        "workers": 1,
    }
    return {**given, **more}


def configured(folder: Path, source: str = SOURCE, **more: Any) -> StudyConfig:
    """A configuration of the same."""
    return StudyConfig(**settings(folder, source, **more))
