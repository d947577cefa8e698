"""Memory for time: recompute from the block's input what its convolutions would keep for the backward pass.

Both phases of x, the normalised map and, where that is cheap, the deconvolved map are functions of x. A block that
computes them all keeps five maps (x, relu(x), min(x, 0), Φ(·), BN(Φ(·))); a sparing one keeps x, and Φ(·) unless
`cheap_to_redo`. It costs one more pass of the kernels that made them, with the same operations, so that the gradients
are the same to the bit. Source of the idea: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

REDO_MACS = 600
"""Multiply-accumulates an element up to which a deconvolved map is made again: dense 3×3 up to 64 channels."""


def cheap_to_redo(weight: Tensor) -> bool:
    """Whether the map that a convolution with `weight` (C', C / groups, k, k) makes is worth less than its memory.

    A fixed rule: 9·C multiply-accumulates an element at most 600. In a ResNet that is the first stage, which has
    half of the bytes and, of the work, a fifth.
    """
    return weight[0].numel() <= REDO_MACS


def spare_memory(model: nn.Module, spare: bool = True) -> int:
    """Switch recomputation on or off in every block of `model` that can; return how many there are.

    Results stay the same; a step takes longer. Nothing changes where gradients are off.
    """
    blocks: list[Any] = [part for part in model.modules() if hasattr(part, "sparing")]
    for block in blocks:
        block.sparing = spare
    return len(blocks)


class Remade:
    """Tensors that autograd should not keep, and how each is recomputed.

    Args:
        x: the block's input, whose autocast setting is repeated when something is made.
    """

    def __init__(self, x: Tensor) -> None:
        kind = x.device.type
        self._kind = kind if torch.amp.is_autocast_available(kind) else "cpu"
        self._autocast = torch.is_autocast_enabled(self._kind)
        self._dtype = torch.get_autocast_dtype(self._kind)
        self._makers: dict[int, Callable[[], Tensor]] = {}
        self._known: list[Tensor] = []  # alive until the block is done, so that no other takes their place

    def put(self, tensor: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Return `tensor`; autograd will keep `make` in its place."""
        self._makers[_place(tensor)] = make
        self._known.append(tensor)
        return tensor

    @contextlib.contextmanager
    def instead(self) -> Iterator[None]:
        """Within, autograd keeps the functions; afterwards the known tensors may be freed."""
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self._makers.clear()
            self._known.clear()

    def _pack(self, tensor: Tensor) -> Any:
        make = self._makers.get(_place(tensor))
        if make is None or not any(_same(tensor, known) for known in self._known):
            return tensor.detach(), tensor._version  # torch checks no versions where hooks are at work
        return make

    def _unpack(self, kept: Any) -> Tensor:
        if isinstance(kept, tuple):
            tensor, version = kept
            if tensor._version != version:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"a tensor of shape {tuple(tensor.shape)}, between the forward and the backward pass of a block"
                )
            return tensor
        with torch.no_grad(), torch.autocast(self._kind, self._dtype, self._autocast, cache_enabled=False):
            made: Tensor = kept()
        return made


class Once:
    """A map that two callers need one after the other: made for the first, given to the second, then dropped."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self._make = make
        self._held: Tensor | None = None

    def first(self) -> Tensor:
        """Make and keep it."""
        self._held = self._make()
        return self._held

    def second(self) -> Tensor:
        """The one that is kept, or a new one."""
        held, self._held = self._held, None
        return self._make() if held is None else held


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(
        _place(one) == _place(other)
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.storage_offset() == other.storage_offset()
        and one.dtype == other.dtype
    )
