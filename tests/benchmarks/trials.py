"""One whole training, as a worker does it: build, convert, capture, train, judge. Shared by two benchmarks."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch

from reborn_nas.data import ImageSet, split
from reborn_nas.training import Recipe, train
from tests.benchmarks.networks import network


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


def worker() -> None:
    """One slot: for each line on standard input train again, and print how long it took."""
    from tests.benchmarks.networks import pictures

    backbone, form, count, epochs, batch, trials, device, threads = sys.argv[1:9]
    torch.set_num_threads(int(threads))
    images = pictures(int(count))
    run_trial(backbone, form, images, 1, int(batch), device)  # imports, data, context, kernels
    print("ready", flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        start = time.perf_counter()
        for _ in range(int(trials)):
            run_trial(backbone, form, images, int(epochs), int(batch), device)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    worker()
