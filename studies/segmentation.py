"""Segmentation: where do reborn blocks help in a small U-Net? Circles, squares and triangles over noisy pictures, mIoU.

reborn-nas search --backbone studies/segmentation.py:make --train studies/segmentation.py:train
    --evaluate studies/segmentation.py:evaluate --example-inputs studies/segmentation.py:example
    --metric miou:higher,label=mIoU,unit=points,scale=100,worst=0 --epochs 12 --trials 96
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import reborn_nas as rn

PICTURES, SIDE, CLASSES = 1000, 24, 4
"""Classes: background, circle, square, triangle."""


@cache
def pictures() -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) pictures and (N, H, W) classes, the same on every machine."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    images = np.empty((PICTURES, 3, SIDE, SIDE), dtype=np.float32)
    labels = np.zeros((PICTURES, SIDE, SIDE), dtype=np.int64)
    for number in range(PICTURES):
        slope = rng.normal(0, 0.04, (3, 2))
        images[number] = slope[:, :1, None] * (x - SIDE / 2) + slope[:, 1:, None] * (y - SIDE / 2)
        for kind in rng.permutation([1, 2, 3])[: rng.integers(1, 4)]:
            cy, cx, r = [*rng.uniform(5, SIDE - 5, 2).tolist(), rng.uniform(3, 5.5)]
            dy, dx = y - cy, x - cx
            inside = {
                1: dy**2 + dx**2 < r**2,
                2: np.maximum(abs(dy), abs(dx)) < 0.85 * r,
                3: (dy < 0.8 * r) & (dy > -r + 1.8 * abs(dx)),
            }[int(kind)]
            images[number][:, inside] += rng.normal(0, 0.7, (3, 1))
            labels[number][inside] = kind
    images += rng.normal(0, 0.35, images.shape).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(labels)


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)


class UNet(nn.Module):
    """Two resolutions down, two up, two convolutions each: ten activations."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        self.enc1a, self.act1a, self.enc1b, self.act1b = _conv(3, w), nn.ReLU(), _conv(w, w), nn.ReLU()
        self.enc2a, self.act2a, self.enc2b, self.act2b = (
            _conv(w, 2 * w),
            nn.ReLU(),
            _conv(2 * w, 2 * w),
            nn.ReLU(),
        )
        self.mid_a, self.mid_act_a = _conv(2 * w, 4 * w), nn.ReLU()
        self.mid_b, self.mid_act_b = _conv(4 * w, 4 * w), nn.ReLU()
        self.dec2a, self.dec2_act_a = _conv(6 * w, 2 * w), nn.ReLU()
        self.dec2b, self.dec2_act_b = _conv(2 * w, 2 * w), nn.ReLU()
        self.dec1a, self.dec1_act_a = _conv(3 * w, w), nn.ReLU()
        self.dec1b, self.dec1_act_b = _conv(w, w), nn.ReLU()
        self.head = nn.Conv2d(w, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, classes, H, W)."""
        one = self.act1b(self.enc1b(self.act1a(self.enc1a(x))))
        two = self.act2b(self.enc2b(self.act2a(self.enc2a(F.max_pool2d(one, 2)))))
        low = self.mid_act_b(self.mid_b(self.mid_act_a(self.mid_a(F.max_pool2d(two, 2)))))
        up = torch.cat([F.interpolate(low, scale_factor=2.0), two], 1)
        up = self.dec2_act_b(self.dec2b(self.dec2_act_a(self.dec2a(up))))
        up = torch.cat([F.interpolate(up, scale_factor=2.0), one], 1)
        return self.head(self.dec1_act_b(self.dec1b(self.dec1_act_a(self.dec1a(up)))))


def make() -> nn.Module:
    """The backbone."""
    return UNet()


def example() -> Tensor:
    """What it takes."""
    return torch.zeros(2, 3, SIDE, SIDE)


def miou(model: nn.Module, job: rn.Job, part: str) -> float:
    """Mean over the classes of intersection by union, on one part of the pictures."""
    images, labels = (item[job.indices(PICTURES)[part]].to(job.device) for item in pictures())
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(batch).argmax(1) for batch in images.split(200)])
    hits = [
        ((found == k) & (labels == k)).sum() / ((found == k) | (labels == k)).sum() for k in range(CLASSES)
    ]
    return float(torch.stack(hits).mean())


def train(model: nn.Module, job: rn.Job) -> None:
    """Adam with a one-cycle rate, batches of 32."""
    rows = job.indices(PICTURES).train
    images, labels = (item[rows].to(job.device) for item in pictures())
    steps = len(rows) // 32
    optimiser = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01 * job.rate, total_steps=steps * job.epochs)
    state = job.load() or {"epoch": 0}
    if state["epoch"]:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
    for epoch in range(state["epoch"] + 1, job.epochs + 1):
        model.train()
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(job.seed % 2**31 + epoch))
        for batch in order[: 32 * steps].split(32):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        job.save(
            model=model.state_dict(),
            optimiser=optimiser.state_dict(),
            schedule=schedule.state_dict(),
            epoch=epoch,
        )
        job.report(epoch=epoch, miou=miou(model, job, "validation"), loss=loss)


def evaluate(model: nn.Module, job: rn.Job) -> dict[str, float]:
    """The value by which a training is judged."""
    return {"miou": miou(model, job, job.part), "n": len(job.indices(PICTURES)[job.part])}
