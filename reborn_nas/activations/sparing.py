"""Saves memory by recomputing, from a block's input, what its convolutions would save for the backward pass.

Both phases of x, the normalised map and, if cheap, the deconvolved map are functions of x. A block that saves them all
keeps five maps (x, relu(x), min(x, 0), Φ(·), BN(Φ(·))); a sparing one keeps x, and Φ(·) unless `cheap_to_redo`. It
costs one more pass of the kernels that computed them, with the same operations, so that the gradients are
bit-identical. Source of the idea: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

REDO_MACS = 600
"""Most multiply-accumulates per element for which a deconvolved map is recomputed: dense 3×3 up to 64 channels."""


def cheap_to_redo(weight: Tensor) -> bool:
    """Whether recomputing the map of a convolution with `weight` (C', C / groups, k, k) is cheaper than its memory.

    The rule is fixed: at most 600 multiply-accumulates per element, which are 9·C. In a ResNet that is the first stage,
    with half of the bytes and a fifth of the work.
    """
    return weight[0].numel() <= REDO_MACS


def spare_memory(model: nn.Module, spare: bool = True) -> int:
    """Switch recomputation on or off in every block of `model` that supports it; return their number.

    Results are the same; a step takes longer. Without gradients nothing changes.
    """
    blocks: list[Any] = [part for part in model.modules() if hasattr(part, "sparing")]
    for block in blocks:
        block.sparing = spare
    return len(blocks)


class Remade:
    """Tensors that autograd must not save, and how each is recomputed.

    Args:
        x: input of the block; its autocast setting is used in recomputations.
    """

    def __init__(self, x: Tensor) -> None:
        kind = x.device.type
        self._kind = kind if torch.amp.is_autocast_available(kind) else "cpu"
        self._autocast = torch.is_autocast_enabled(self._kind)
        self._dtype = torch.get_autocast_dtype(self._kind)
        self._makers: dict[int, Callable[[], Tensor]] = {}
        self._known: list[Tensor] = []  # kept alive, so that their memory is not reused

    def put(self, tensor: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Return `tensor`, for which autograd will save `make` instead."""
        self._makers[_place(tensor)] = make
        self._known.append(tensor)
        return tensor

    @contextlib.contextmanager
    def instead(self) -> Iterator[None]:
        """Make autograd save the functions inside the context; the known tensors are freed after it."""
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self._makers.clear()
            self._known.clear()

    def _pack(self, tensor: Tensor) -> Any:
        make = self._makers.get(_place(tensor))
        if make is None or not any(_same(tensor, known) for known in self._known):
            return tensor.detach(), tensor._version  # torch does not check versions if hooks are used
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
    """A map that two callers need: computed for the first, returned to the second, then freed."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self._make = make
        self._held: Tensor | None = None

    def first(self) -> Tensor:
        """Compute and keep it."""
        self._held = self._make()
        return self._held

    def second(self) -> Tensor:
        """Return the kept one, or compute it again."""
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
