"""The register of hand-written networks: how each is built, what it takes and how many sites it has by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Maker = Callable[[], nn.Module]


@dataclass(frozen=True)
class Own:
    """One network.

    Args:
        name: its name in the table.
        make: builds it; the same one for the same seed.
        sites: how many activation sites it has, counted by hand; None where nobody did.
        inputs: (batch, size) → the arguments of its forward.
        sizes: the image sizes that it takes; the first is the one planned with.
        batches: the batch sizes that it takes; the first is the one planned with.
        twin: the same network with each activation that is an expression written as one call; the oracle runs that.
        twin_of: makes that twin for the sites that are converted, where it depends on them.
        example: whether conversion is given example inputs in place of a size.
    """

    name: str
    make: Maker
    sites: int | None
    inputs: Callable[[int, int], tuple[Any, ...]]
    sizes: Sequence[int] = (16, 24)
    batches: Sequence[int] = (2, 3, 5)
    twin: Maker | None = None
    twin_of: Callable[[Sequence[Any]], Maker] | None = None
    example: bool = False
    slow: bool = False


NETWORKS: dict[str, Own] = {}


def images(batch: int, size: int) -> tuple[Tensor, ...]:
    """A batch of images of three channels."""
    return (torch.randn(batch, 3, size, size),)


def own(sites: int, **more: Any) -> Callable[[Any], Any]:
    """Register a class or factory under its name in words."""

    def put(make: Any) -> Any:
        words = (
            "".join(f" {c.lower()}" if c.isupper() else c for c in make.__name__).replace("_", " ").strip()
        )
        assert words not in NETWORKS, words
        NETWORKS[words] = Own(words, make, sites, **{"inputs": images, **more})
        return make

    return put


def conv(into: int = 4, out: int = 4, **more: Any) -> nn.Conv2d:
    """A 3×3 convolution that keeps the size."""
    return nn.Conv2d(into, out, 3, padding=1, **more)


class Base(nn.Module):
    """A stem, three convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = conv(3), nn.BatchNorm2d(4)
        self.convs = nn.ModuleList(conv() for _ in range(3))
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 5)

    def start(self, x: Tensor) -> Tensor:
        return self.bn(self.stem(x))

    def finish(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))
