"""Randomness enters once: a study's seed is split into independent streams by name."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*words: int | str) -> int:
    """A seed in [0, 2**63) that depends on every word and on nothing else.

    `derive_seed(study_seed, "screen", 17, "order")` is the same on every machine and Python version.
    """
    text = "\x1f".join(f"{type(word).__name__}:{word}" for word in words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded with `seed`."""
    return torch.Generator(device=device).manual_seed(seed)
