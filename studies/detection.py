"""Detection: where do reborn blocks help in the backbone of a Faster R-CNN? Boxes around drawn shapes, mAP.

reborn-nas search --backbone studies/detection.py:make --train studies/detection.py:train
    --evaluate studies/detection.py:evaluate --example-inputs studies/detection.py:example --sites "backbone.*"
    --metric map:higher,label=mAP,unit=points,scale=100,worst=0,low=0,high=1 --epochs 12 --trials 96

Needs torchmetrics and pycocotools.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import reborn_nas as rn

PICTURES, SIDE, CLASSES, BATCH = 300, 48, 4, 8
"""Classes: background, circle, square, triangle."""

Target = dict[str, Tensor]


@cache
def pictures() -> tuple[list[Tensor], list[Target]]:
    """(3, H, W) pictures, each with boxes (K, 4) and labels (K,), the same on every machine."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    images, targets = [], []
    for _ in range(PICTURES):
        image = rng.normal(0.5, 0.08, (3, SIDE, SIDE)).astype(np.float32)
        image += rng.normal(0, 0.1, (3, 1, 1)).astype(np.float32)
        boxes, kinds = [], rng.permutation([1, 2, 3])[: rng.integers(1, 4)]
        for kind in kinds:
            cy, cx, r = [*rng.uniform(9, SIDE - 9, 2).tolist(), rng.uniform(5, 8)]
            dy, dx = y - cy, x - cx
            inside = {
                1: dy**2 + dx**2 < r**2,
                2: np.maximum(abs(dy), abs(dx)) < 0.85 * r,
                3: (dy < 0.8 * r) & (dy > -r + 1.8 * abs(dx)),
            }[int(kind)]
            image[:, inside] += rng.normal(0, 0.35, (3, 1)).astype(np.float32)
            rows, columns = np.nonzero(inside)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        images.append(torch.from_numpy(image.clip(0, 1)))
        box = torch.tensor(np.array(boxes), dtype=torch.float32)
        targets.append({"boxes": box, "labels": torch.from_numpy(kinds.astype(np.int64))})
    return images, targets


def make() -> nn.Module:
    """Faster R-CNN over five convolutions, with one map of a quarter of the picture's size."""
    layers: list[nn.Module] = []
    for channels, out, stride in ((3, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = 32  # type: ignore[assignment]  # asked for by FasterRCNN
    return FasterRCNN(
        backbone,
        CLASSES,
        min_size=SIDE,
        max_size=SIDE,
        rpn_anchor_generator=AnchorGenerator(((8, 12, 16),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
        rpn_pre_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=50,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=30,
        box_batch_size_per_image=32,
        box_detections_per_img=10,
    )


def example() -> tuple[list[Tensor], list[Target]]:
    """What it takes: pictures, and the boxes that it learns from."""
    images, targets = pictures()
    return images[:2], targets[:2]


def mean_average_precision(model: nn.Module, job: rn.Job, part: str) -> float:
    """COCO's mAP, over thresholds from .5 to .95, on one part of the pictures."""
    images, targets = pictures()
    rows = job.indices(PICTURES)[part].tolist()
    metric = MeanAveragePrecision()
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), 50):
            batch = rows[start : start + 50]
            found = model([images[row].to(job.device) for row in batch])
            metric.update(
                [{key: value.cpu() for key, value in one.items()} for one in found],
                [targets[row] for row in batch],
            )
    return max(0.0, float(metric.compute()["map"]))  # torchmetrics: -1 where there is nothing to find


def train(model: nn.Module, job: rn.Job) -> None:
    """Adam with a one-cycle rate."""
    images, targets = pictures()
    rows = job.indices(PICTURES).train
    steps = len(rows) // BATCH
    optimiser = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.004 * job.rate, total_steps=steps * job.epochs
    )
    for epoch in range(1, job.epochs + 1):
        model.train()
        for batch in torch.randperm(len(rows))[: BATCH * steps].split(BATCH):
            chosen = [int(rows[place]) for place in batch]
            losses = model(
                [images[row].to(job.device) for row in chosen],
                [{key: value.to(job.device) for key, value in targets[row].items()} for row in chosen],
            )
            loss = sum(losses.values())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        job.report(epoch=epoch, loss=loss)


def evaluate(model: nn.Module, job: rn.Job) -> dict[str, float]:
    """The value by which a training is judged."""
    return {"map": mean_average_precision(model, job, job.part), "n": len(job.indices(PICTURES)[job.part])}
