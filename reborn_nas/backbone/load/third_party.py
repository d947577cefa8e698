"""Run third-party code from a fixed seed, on a device, and leave the process as it was."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

SEED = 20_011


@contextmanager
def quiet(device: str, seed: int = 0) -> Iterator[None]:
    """Run on a device from one seed, and leave the generators of random numbers as they were."""
    with _seeded(SEED + seed), torch.device("meta") if device == "meta" else nullcontext(), restored():
        yield


@contextmanager
def restored() -> Iterator[None]:
    """Put back what code may change of the process: the working directory, and torch's defaults.

    Within a context of `torch.device`, not around one: torch takes its default device off in that order alone.
    """
    folder, threads = os.getcwd(), torch.get_num_threads()
    dtype, device, grad = torch.get_default_dtype(), _default_device(), torch.is_grad_enabled()
    try:
        yield
    finally:
        if os.getcwd() != folder:
            os.chdir(folder)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if _default_device() != device:
            torch.set_default_device(device)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)


def _default_device() -> torch.device | None:
    """What `torch.set_default_device` was given; contexts around the caller do not count."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def numbers_to_come() -> tuple[object, ...]:
    """What the generators of random numbers of torch, Python and numpy will give: equal while nobody draws."""
    numpy = sys.modules.get("numpy")
    drawn = () if numpy is None else numpy.random.get_state(legacy=True)
    torchs = torch.get_rng_state().numpy().tobytes()
    return (
        torchs,
        random.getstate(),
        *(part.tobytes() if hasattr(part, "tobytes") else part for part in drawn),
    )


@contextmanager
def kept_numbers() -> Iterator[None]:
    """Leave the generators of random numbers of torch, Python and numpy as they were."""
    numpy = sys.modules.get("numpy")
    kept = random.getstate(), numpy.random.get_state() if numpy is not None else None
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(kept[0])
            if numpy is not None:
                numpy.random.set_state(kept[1])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with kept_numbers():
        random.seed(seed)
        torch.manual_seed(seed)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed(seed % 2**32)
        yield
