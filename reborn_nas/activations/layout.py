"""Tensor layouts: how a block for (B, C, …) is used at other sites, and the layers of each dimension."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

CHANNELS_LAST = frozenset({"nhwc", "ndhwc", "nlc"})
MAPS = frozenset({"ncl", "nchw", "nhwc", "ncdhw", "ndhwc", "nc"})
ANY = MAPS | {"nlc"}
_DIMENSIONS = {"ncl": 1, "ncdhw": 3, "ndhwc": 3}

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
DECONVOLUTIONS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def dimensions(layout: str) -> int:
    """Spatial dimensions of the maps on which a block for `layout` computes; (B, C) is a 1×1 map of two."""
    return _DIMENSIONS.get(layout, 2)


def layout_of(size: tuple[int, ...]) -> str:
    """The channels-first layout of maps of this spatial size."""
    return {1: "ncl", 3: "ncdhw"}.get(len(size), "nchw")


def to_channels_first(x: Tensor, layout: str) -> Tensor:
    """`x` in `layout` as (B, C, …), a view; (B, C) becomes a 1×1 map."""
    if layout == "nhwc":
        return x.permute(0, 3, 1, 2)
    if layout == "ndhwc":
        return x.permute(0, 4, 1, 2, 3)
    if layout == "nc":
        return x.unsqueeze(-1).unsqueeze(-1)
    return x


def from_channels_first(x: Tensor, layout: str) -> Tensor:
    """The inverse of `to_channels_first`."""
    if layout == "nhwc":
        return x.permute(0, 2, 3, 1)
    if layout == "ndhwc":
        return x.permute(0, 2, 3, 4, 1)
    if layout == "nc":
        return x.flatten(1)
    return x


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """The convolution that keeps the size: stride 1, an odd kernel of the same extent in every dimension.

    Args:
        x: (B, C, …) of one, two or three spatial dimensions.
        weight: (C', C / groups, k, …).
        bias: (C',) or None.
    """
    pad = weight.shape[-1] // 2
    if weight.dim() == 3:
        return torch.conv1d(x, weight, bias, 1, pad, 1, groups)
    if weight.dim() == 5:
        return torch.conv3d(x, weight, bias, 1, pad, 1, groups)
    return torch.conv2d(x, weight, bias, 1, pad, 1, groups)


def out_of_place(module: nn.Module) -> nn.Module:
    """A copy of an activation that is not in place, since a block reads its input twice."""
    copy = deepcopy(module)
    for part in copy.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]
    return copy
