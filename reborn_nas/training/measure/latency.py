"""How long a network takes for a batch: measured in deployment form, warmed up, as a median."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from reborn_nas.activations import fold
from reborn_nas.errors import TrainingError
from reborn_nas.training.device.precision import HALF

WARM_UP, REPEATS = 3, 15


@dataclass(frozen=True)
class Latency:
    """Seconds of one forward pass in eval mode.

    Args:
        seconds: the median.
        low, high: first and third quartile.
        batch_size: images of the pass.
        repeats: passes measured.
        device: where.
        precision: "fp32", "bf16" or "fp16".
    """

    seconds: float
    low: float
    high: float
    batch_size: int
    repeats: int
    device: str
    precision: str


def measure_latency(
    model: nn.Module,
    input_size: tuple[int, ...],
    *,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    folded: bool = True,
    warm_up: int = WARM_UP,
    repeats: int = REPEATS,
) -> Latency:
    """Latency of `model` on `device`; the model itself is left as it is.

    Args:
        input_size: (C, H, W) of one image.
        folded: measure the deployment form (`reborn_nas.fold`), as an export would run.
        warm_up: passes before the clock starts.
        repeats: passes measured; on a GPU by its own events.

    Raises:
        TrainingError: the network cannot be run so.
    """
    place = torch.device(device)
    if batch_size < 1 or repeats < 1 or warm_up < 0:
        raise TrainingError(
            f"latency: batch_size and repeats are at least 1 and warm_up at least 0, not {batch_size}, {repeats} "
            f"and {warm_up}"
        )
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        network = fold(model) if folded else model
    finally:
        for module, mode in training.items():
            module.training = mode
    home = next(iter(model.parameters()), torch.empty(0)).device
    network = network.to(place).eval()
    try:
        times = _times(
            network, torch.zeros(batch_size, *input_size, device=place), precision, warm_up, repeats
        )
    except RuntimeError as error:
        raise TrainingError(
            f"latency: the network does not run on a batch of {batch_size} images of {input_size}: {error}"
        ) from error
    finally:
        if network is model:
            model.to(home)
            for module, mode in training.items():
                module.training = mode
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
    return Latency(middle, low, high, batch_size, repeats, str(place), precision)


def _times(
    network: nn.Module, batch: torch.Tensor, precision: str, warm_up: int, repeats: int
) -> list[float]:
    """Seconds of each pass."""
    lower = torch.autocast(batch.device.type, dtype=HALF.get(precision), enabled=precision in HALF)
    with torch.inference_mode(), lower:
        for _ in range(warm_up):
            network(batch)
        if batch.device.type != "cuda":
            times = []
            for _ in range(repeats):
                began = time.perf_counter()
                network(batch)
                times.append(time.perf_counter() - began)
            return times
        with torch.cuda.device(batch.device):  # events are recorded on the current device
            torch.cuda.synchronize()
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]  # type: ignore[no-untyped-call]
            marks[0].record()
            for mark in marks[1:]:
                network(batch)
                mark.record()
            torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in itertools.pairwise(marks)]
