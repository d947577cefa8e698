"""Regression: where do reborn blocks help a network that reads the angle of a digit? RMSE in degrees, lower is better.

reborn-nas search --backbone studies/regression.py:make --train studies/regression.py:train
    --evaluate studies/regression.py:evaluate --example-inputs studies/regression.py:example
    --metric rmse:lower,label=RMSE,unit=degrees,worst=26 --epochs 8 --trials 96

The digits are scikit-learn's. With REBORN_NAS_MNIST=FOLDER they are the first 4,000 of MNIST, which lie in that folder
as torchvision keeps them; give that study --version mnist, so that it is not continued with other digits.
"""

from __future__ import annotations

import os
from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.datasets import MNIST

import reborn_nas as rn

SIDE, MOST, MOST_DIGITS = 16, 45.0, 4000
"""Pixels; degrees to either side: whoever always says 0 is off by 26 (the standard deviation); digits of MNIST."""


def digits() -> tuple[Tensor, Tensor]:
    """(N, 1, h, w) pictures in [0, 1] and (N,) digits."""
    folder = os.environ.get("REBORN_NAS_MNIST")
    if folder is None:
        raw = load_digits()
        return torch.tensor(raw.images, dtype=torch.float32)[:, None] / 16, torch.tensor(raw.target)
    mnist = MNIST(folder, train=True, download=False)
    return mnist.data[:MOST_DIGITS, None] / 255, mnist.targets[:MOST_DIGITS]


@cache
def turned() -> tuple[Tensor, Tensor, Tensor]:
    """(N, 1, H, W) pictures, (N,) degrees by which each was turned, (N,) the digits."""
    images, labels = digits()
    degrees = MOST * (2 * torch.rand(len(images), generator=torch.Generator().manual_seed(0)) - 1)
    turn = torch.deg2rad(degrees)
    matrix = torch.stack(
        [torch.stack([turn.cos(), -turn.sin()], 1), torch.stack([turn.sin(), turn.cos()], 1)], 1
    )
    grid = F.affine_grid(F.pad(matrix, (0, 1)), [len(images), 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False), degrees, labels


def make() -> nn.Module:
    """Five convolutions and a mean."""
    layers: list[nn.Module] = []
    for channels, out, stride in ((1, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 1))


def example() -> Tensor:
    """What it takes."""
    return torch.zeros(2, 1, SIDE, SIDE)


def rmse(model: nn.Module, job: rn.Job, part: str) -> float:
    """Root mean square error in degrees; each part has the digits in proportion."""
    images, degrees, digit = turned()
    rows = job.indices(len(images), strata=digit)[part]
    model.eval()
    with torch.no_grad():
        found = model(images[rows].to(job.device))[:, 0].cpu() * MOST
    return float((found - degrees[rows]).square().mean().sqrt())


def train(model: nn.Module, job: rn.Job) -> None:
    """Adam with a one-cycle rate, batches of 64."""
    images, degrees, digit = turned()
    rows = job.indices(len(images), strata=digit).train
    inputs, targets = images[rows].to(job.device), (degrees[rows] / MOST).to(job.device)
    steps = len(rows) // 64
    optimiser = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01 * job.rate, total_steps=steps * job.epochs)
    for epoch in range(1, job.epochs + 1):
        model.train()
        for batch in torch.randperm(len(rows))[: 64 * steps].split(64):
            loss = F.mse_loss(model(inputs[batch])[:, 0], targets[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        job.report(epoch=epoch, rmse=rmse(model, job, "validation"))


def evaluate(model: nn.Module, job: rn.Job) -> dict[str, float]:
    """The value by which a training is judged."""
    images, _, digit = turned()
    return {"rmse": rmse(model, job, job.part), "n": len(job.indices(len(images), strata=digit)[job.part])}
