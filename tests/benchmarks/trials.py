"""One whole training, as a worker does it: build, convert, capture, train, judge. Shared by two benchmarks."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch

from reborn_nas.data import ImageSet, split
from reborn_nas.training import Recipe, evaluate, train
from tests.benchmarks.loops import LoaderLoop
from tests.benchmarks.networks import literal, network


@dataclass(frozen=True)
class Trial:
    """Seconds of one training: all of it, and what is not the training itself."""

    backbone: str
    form: str
    seconds: float
    fixed: float
    how: str


def run_trial(backbone: str, form: str, images: ImageSet, epochs: int, batch: int, device: str) -> Trial:
    """Train once."""
    start = time.perf_counter()
    model = network(backbone, form, len(images.classes))
    parts = split(images, block=0, seed=0)
    built = time.perf_counter()
    ends: list[float] = []
    result = train(
        model,
        images,
        train_indices=parts.train,
        evaluate={"validation": parts.validation},
        recipe=Recipe(epochs=epochs, batch_size=batch),
        seed=0,
        device=device,
        on_epoch=lambda epoch, metrics: ends.append(metrics["seconds"]),
    )
    end = time.perf_counter()
    fixed = (built - start) + (end - built - sum(ends))
    return Trial(backbone, form, end - start, fixed, f"{result.form}, {result.precision}")


def run_plain_trial(
    backbone: str, form: str, images: ImageSet, epochs: int, batch: int, device: str, workers: int
) -> Trial:
    """The same as the scripts that people start from do it: a loader, fp32, Eq. 2 as it is written."""
    start = time.perf_counter()
    parts = split(images, block=0, seed=0)
    loop = LoaderLoop(
        literal(network(backbone, form, len(images.classes))), images, batch, torch.device(device), workers
    )
    steps = len(parts.train) // batch
    spent = 0.0
    try:
        for _ in range(epochs):
            began = time.perf_counter()
            loop(steps)
            evaluate(loop.model, images, parts.validation, device, "fp32")
            loop.model.train()
            spent += time.perf_counter() - began
    finally:
        loop.close()
    seconds = time.perf_counter() - start
    return Trial(backbone, form, seconds, seconds - spent, f"loader, {workers} workers, fp32")


def worker() -> None:
    """One slot: for each line on standard input, the number of CPU threads, train again and say when it is done."""
    from tests.benchmarks.networks import pictures

    backbone, form, count, epochs, batch, trials, device = sys.argv[1:8]
    torch.set_num_threads(1)
    images = pictures(int(count))
    run_trial(backbone, form, images, 1, int(batch), device)  # imports, data, context, kernels
    print("ready", flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        torch.set_num_threads(int(line))
        for _ in range(int(trials)):
            run_trial(backbone, form, images, int(epochs), int(batch), device)
        print("done", flush=True)


if __name__ == "__main__":
    worker()
