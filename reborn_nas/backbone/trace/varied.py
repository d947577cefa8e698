"""Inputs like those given: with numbers, and small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from reborn_nas.backbone.trace.replica import replace_tensors, tensors_in


def numbered(inputs: Any, device: str) -> Any:
    """A copy of the inputs on a device; numbers that are not there are drawn, always the same."""
    generator = torch.Generator().manual_seed(7)

    def change(tensor: Tensor) -> Tensor:
        if device == "cpu" and tensor.is_meta:
            if tensor.is_floating_point():
                return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return tensor.detach().to(device, copy=device != "meta")

    return replace_tensors(inputs, change)


def shrunk(inputs: Any) -> Iterator[Any]:
    """The inputs with small images first, then larger ones, at last as they are."""
    largest = max((max(t.shape[2:]) for t in tensors_in(inputs) if t.ndim > 3), default=0)
    for side in (32, 64, 96, 128):
        if side < largest:

            def change(tensor: Tensor, side: int = side) -> Tensor:
                if tensor.ndim <= 3:
                    return tensor
                shape = [*tensor.shape[:2], *(max(1, side * size // largest) for size in tensor.shape[2:])]
                return torch.empty(shape, dtype=tensor.dtype, device="meta")

            yield replace_tensors(inputs, change)
    yield inputs
