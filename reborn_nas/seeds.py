"""Seeds: a study's seed is split into independent streams by name."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*words: int | str) -> int:
    """A seed in [0, 2**63) that depends only on the words.

    `derive_seed(study_seed, "screen", 17, "order")` is the same on every machine and Python version.
    """
    text = "\x1f".join(f"{type(word).__name__}:{word}" for word in words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A new generator on `device`, seeded with `seed`."""
    return torch.Generator(device=device).manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seed the global generators, which third-party code uses: torch's on all devices, Python's, NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


@contextmanager
def kept_generators(devices: Iterable[int] | None = ()) -> Iterator[None]:
    """Restore the global generators of torch, Python and NumPy after the context.

    Args:
        devices: the GPUs whose generators are also restored; None means all.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
