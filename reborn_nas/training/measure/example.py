"""A trained network's own answer to a few images, by which users of its export can check it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from reborn_nas.data import ImageSet, Resident
from reborn_nas.files import write_atomic
from reborn_nas.training.device.cpu import cpu_threads

__all__ = ["COUNTS", "example_of", "save_example", "steady_logits"]

COUNTS = (8, 16, 4, 2, 1)
THREADS = (1, 2, 4, 8)


def save_example(model: nn.Module, images: ImageSet, path: Path) -> None:
    """Write what `example_of` gives as a safetensors file."""
    write_atomic(path, save(example_of(model, images)))


def example_of(model: nn.Module, images: ImageSet) -> dict[str, torch.Tensor]:
    """A batch of normalised images (`input`) and the network's `logits`, on the CPU in float32 and eval mode.

    CPU kernels share the work out by the number of threads, and for some batch sizes the order of a sum changes with
    it. The batch is the first of `COUNTS` whose logits are the same bits with each of `THREADS`, so that the export
    can be checked for equality on a machine with other cores; a single image where none is.
    """
    network = copy.deepcopy(model).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
    for count in COUNTS:
        batch = _batch(images, count)
        logits, steady = steady_logits(network, batch)
        if steady:
            break
    return {"input": batch.contiguous(), "logits": logits.float().clone()}


def _batch(images: ImageSet, count: int) -> torch.Tensor:
    indices = images.reserve if len(images.reserve) else images.pool
    batch, _ = next(Resident(images, indices[:count], streamed=True).ordered(count))
    return batch  # (count, C, H, W)


@torch.no_grad()
def steady_logits(network: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """The logits (B, classes) with the threads at hand, and whether they are the same bits with each of `THREADS`."""
    logits = network(batch)
    for threads in THREADS:
        with cpu_threads(threads):
            if not torch.equal(network(batch), logits):
                return logits, False
    return logits, True
