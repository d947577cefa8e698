"""Tensor layouts: how a block that thinks in (B, C, H, W) serves other sites, and what it takes over there."""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor, nn

MAPS = frozenset({"nchw", "nhwc", "nc"})
ANY = MAPS | {"nlc"}


def to_nchw(x: Tensor, layout: str) -> Tensor:
    """`x` in `layout` as (B, C, H, W), a view; (B, C) becomes a 1×1 map."""
    if layout == "nhwc":
        return x.permute(0, 3, 1, 2)
    if layout == "nc":
        return x.unsqueeze(-1).unsqueeze(-1)
    return x


def from_nchw(x: Tensor, layout: str) -> Tensor:
    """The inverse of `to_nchw`."""
    if layout == "nhwc":
        return x.permute(0, 2, 3, 1)
    if layout == "nc":
        return x.flatten(1)
    return x


def out_of_place(module: nn.Module) -> nn.Module:
    """A copy of an activation that leaves its input alone: a block reads x twice."""
    copy = deepcopy(module)
    for part in copy.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]
    return copy
