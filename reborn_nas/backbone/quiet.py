"""Run somebody's code from a fixed seed, on a device, and leave the generators of random numbers as they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

SEED = 20_011


@contextmanager
def quiet(device: str, seed: int = 0) -> Iterator[None]:
    """Run on a device from one seed, and leave the generators of random numbers as they were."""
    with _seeded(SEED + seed), torch.device("meta") if device == "meta" else nullcontext():
        yield


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    numpy = sys.modules.get("numpy")
    kept = random.getstate(), numpy.random.get_state() if numpy is not None else None
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        torch.manual_seed(seed)
        if numpy is not None:
            numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(kept[0])
            if numpy is not None:
                numpy.random.set_state(kept[1])
