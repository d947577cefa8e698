"""How long an epoch will take, measured on a few steps."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from reborn_nas.data import ImageSet, Resident
from reborn_nas.training.device.cpu import kept_heap
from reborn_nas.training.device.precision import resolve_precision
from reborn_nas.training.device.selection import first_line
from reborn_nas.training.evaluation import BATCH, Tally
from reborn_nas.training.losses import class_weights
from reborn_nas.training.mixing import Mixing
from reborn_nas.training.recipe.recipe import Recipe, batch_sizes
from reborn_nas.training.step.graph import CudaRecorder, GraphStep, Recorder, Step
from reborn_nas.training.step.step import TrainingStep

PATIENCE = 10.0
"""Seconds after which no further step is measured."""


class Estimate(NamedTuple):
    """What a few steps show of an epoch.

    Args:
        seconds: of one epoch, the validation included.
        images_per_second: trained, without the validation.
        form: "cuda-graph", "eager", or "eager (no CUDA graph: REASON)".
    """

    seconds: float
    images_per_second: float
    form: str


def estimate_epoch(
    model: nn.Module,
    images: ImageSet,
    recipe: Recipe,
    device: torch.device | str = "cpu",
    steps: int = 3,
    recorder: Recorder | None = None,
) -> Estimate:
    """Measure the median of a few training steps, replayed on a GPU where they can be, and a warm pass of judging.

    A copy of the network is trained, after one step that is not counted; where that step alone takes longer than
    `PATIENCE`, it is what counts. Global generators are left as they are.

    Args:
        recorder: captures the step; CUDA's on a GPU.
    """
    place = torch.device(device)
    training = len(images.pool) - images.validation_size
    sizes = batch_sizes(max(1, training), recipe.batch_size)
    twin = copy.deepcopy(model).to(place).train()
    precision = resolve_precision(recipe.precision, place, twin)
    last = recipe.channels_last and place.type == "cuda"
    if last:
        twin.to(memory_format=torch.channels_last)
    recorder = recorder or (CudaRecorder(place) if place.type == "cuda" else None)
    with kept_heap(place), torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        classes = images.num_classes
        weights = class_weights(recipe.class_weights, images.labels[images.pool], classes)
        step = TrainingStep(twin, recipe, precision, place, class_weights=weights)
        augmentation = recipe.augmentation(images.augmentation)
        data = Resident(images, images.pool, place, augmentation=augmentation, channels_last=last)
        few = [sizes[0]] * (steps + 1)
        few = [size for k, size in enumerate(few) if size * (k + 1) <= len(data)] or [len(data)]
        batches = data.epoch(few, seed=0, epoch=0)
        start = time.perf_counter()
        ready = list(Mixing(recipe.augment, classes, 0).batches(batches, 0))
        made = (time.perf_counter() - start) / len(ready) if augmentation.by_image else 0.0
        work, form = _captured(step, ready, recorder)
        seconds = []
        for pictures, labels in ready:
            seconds.append(_seconds(partial(work, pictures, labels), place))
            if sum(seconds) > PATIENCE:
                break
        tally = Tally(twin, precision, place)
        seen = images.pool[:BATCH]
        judged = Resident(images, seen, place, channels_last=last)
        passes = [_seconds(lambda: tally.run(judged), place) for _ in range(2)]  # the first one is cold
        judging = min(passes) * images.validation_size / len(seen)
    each = statistics.median(seconds[1:] or seconds) + made
    return Estimate(each * sum(sizes) / sizes[0] + judging, sizes[0] / each, form)


def _captured(
    step: TrainingStep, batches: list[tuple[torch.Tensor, torch.Tensor]], recorder: Recorder | None
) -> tuple[Step, str]:
    if recorder is None:
        return step, "eager"
    try:
        return GraphStep(step, batches, recorder), "cuda-graph"
    except RuntimeError as error:
        return step, f"eager (no CUDA graph: {first_line(error)})"


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
