"""Small networks and image sets for the tests of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reborn_nas.data import Augmentation, ImageSet, plan_parts
from reborn_nas.data.images import assemble


def small_net(
    channels: int = 1, classes: int = 10, width: int = 8, *, dropout: float = 0.0, seed: int = 0
) -> nn.Sequential:
    """Three convolutions with batch norm, initialised by `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for out, stride in ((width, 1), (2 * width, 2), (2 * width, 1)):
            layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, classes)]
        return nn.Sequential(*layers)


def squares(count: int = 240, side: int = 8, augmentation: Augmentation | None = None) -> ImageSet:
    """Noise with a bright patch in one of four corners; the corner is the class."""
    draws = torch.Generator().manual_seed(7)
    pixels = torch.randint(0, 120, (count, 1, side, side), generator=draws, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    half = side // 2
    for k, corner in enumerate(labels.tolist()):
        rows, columns = half * (corner // 2), half * (corner % 2)
        pixels[k, :, rows : rows + half, columns : columns + half] += 100
    parts = plan_parts(labels, "abcd", name="squares", train=torch.arange(count))
    return assemble(
        "squares", lambda kept: pixels[kept], labels, "abcd", parts, augmentation or Augmentation()
    )


class Kept:
    """A checkpoint in memory, saved after every epoch."""

    state: Any = None

    def load(self) -> Any:
        """The last state, or None."""
        return self.state

    def due(self) -> bool:
        """Always."""
        return True

    def save(self, state: Any) -> None:
        """Keep it."""
        self.state = state
