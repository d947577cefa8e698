"""Datasets that other processes find by name."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset, random_split


def brightness(label: int) -> int:
    """A helper, as a user's file has them."""
    return 40 + 60 * label


class Shapes(Dataset[Any]):
    """Noise that is brighter the larger its label is."""

    classes = ("dark", "middle", "bright")

    def __init__(self, count: int, seed: int) -> None:
        self.noise = torch.randint(0, 40, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
        self.words = {"a", "b", "c"}

    def __len__(self) -> int:
        return len(self.noise)

    def __getitem__(self, k: int) -> Any:
        label = k % 3
        return (self.noise[k] + brightness(label)).to(torch.uint8), label


def shapes() -> dict[str, Any]:
    """Train and test."""
    return {"train": Shapes(240, 0), "test": Shapes(90, 1)}


def divided() -> dict[str, Any]:
    """Divided at random, without a seed."""
    train, test = random_split(Shapes(330, 0), [240, 90])
    return {"train": train, "test": test}
