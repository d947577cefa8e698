"""Activations of one value, or of one neighbourhood (FReLU), that keep the number of channels."""

# No `from __future__ import annotations` here: torch.fx copies the annotations of forward into its code, and
# TorchScript cannot read them there as strings.
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from reborn_nas.activations.layout import (
    CONVOLUTIONS,
    NORMS,
    dimensions,
    from_channels_first,
    to_channels_first,
)
from reborn_nas.activations.split import affine, convolution, scaled


class ChannelPReLU(nn.PReLU):
    """PReLU with one slope per channel, for channels on any axis. Source: He et al. 2015."""

    def __init__(self, channels: int, layout: str = "nchw", slope: float = 0.25) -> None:
        super().__init__(channels, init=slope)
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) or, channels last, (B, …, C) → the same shape."""
        if self.layout == "nhwc" or self.layout == "ndhwc" or self.layout == "nlc":
            return F.prelu(x.movedim(-1, 1), self.weight).movedim(1, -1)
        return F.prelu(x, self.weight)


class FReLU(nn.Module):
    """max(x, T(x)), T a depthwise 3×3 convolution with BatchNorm. Source: Ma et al., Funnel Activation, ECCV 2020.

    The paper draws the window's weights from a Gaussian; here they are drawn by Xavier's rule like all weights. Their
    scale does not matter, since BatchNorm follows.
    """

    def __init__(self, channels: int, layout: str = "nchw") -> None:
        super().__init__()
        self.channels = self.out_channels = channels
        self.layout = layout
        rank = dimensions(layout)
        self.conv = CONVOLUTIONS[rank](channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = NORMS[rank](channels)
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) → (B, C, …), or in the layout for which it was built."""
        x = to_channels_first(x, self.layout)
        return from_channels_first(torch.maximum(x, self.norm(self.conv(x))), self.layout)

    @torch.jit.unused
    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """A new module with the same function in eval mode, with BatchNorm folded into the convolution."""
        fused = deepcopy(self)
        if isinstance(self.norm, _BatchNorm):
            scale, shift = affine(self.norm)
            weight = scaled(self.conv.weight.double(), scale)
            fused.conv = convolution(weight, shift, self.channels, self.conv.weight.dtype)
            fused.norm = nn.Identity()  # type: ignore[assignment]
        return fused
