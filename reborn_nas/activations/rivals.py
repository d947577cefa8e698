"""Activations with which the reborn block is compared: CReLU (Shang et al., ICML 2016), and controls."""

# No `from __future__ import annotations` here: torch.fx copies the annotations of forward into its code, and
# TorchScript cannot read them there as strings.
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations.layout import (
    CONVOLUTIONS,
    NORMS,
    dimensions,
    from_channels_first,
    to_channels_first,
)
from reborn_nas.activations.phases import both_phases, fused_phases, identity_, merge
from reborn_nas.activations.phases import compression as make_compression
from reborn_nas.activations.sparing import Remade

torch.fx.wrap("both_phases")  # leaves of symbolic tracing here as well
torch.fx.wrap("merge")


class CReLU(nn.Module):
    """cat([σ(x), σ(−x)]) over the channels, returned as 2C channels or compressed to C by a 1×1 convolution."""

    def __init__(
        self, channels: int, *, compression: str = "1x1", layout: str = "nchw", init: str = "xavier"
    ) -> None:
        super().__init__()
        self.channels = channels
        self.out_channels = channels * (2 if compression == "none" else 1)
        self.layout = layout
        self.sparing = False  # see `spare_memory`
        self.compress = make_compression(channels, compression, init, layout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) → (B, out_channels, …), or in the layout for which it was built."""
        x = to_channels_first(x, self.layout)
        if self.sparing and not torch.jit.is_scripting() and self._can_spare(x):  # type: ignore[attr-defined]
            return from_channels_first(self._spared(x), self.layout)
        phases = both_phases(x, True)
        positive, negative = phases[0], phases[1]
        if self.compress is None:
            return from_channels_first(torch.cat([positive, negative], dim=1), self.layout)  # (B, 2C, …)
        return from_channels_first(merge(positive, negative, self.compress.weight), self.layout)

    @torch.jit.unused
    def _can_spare(self, x: Tensor) -> bool:
        """Whether phases are saved for the backward pass: in eager training, if a convolution compresses them."""
        compiler: Any = torch.compiler
        jit: Any = torch.jit
        watched = jit.is_tracing() or compiler.is_compiling()
        plain = isinstance(x, Tensor) and not watched and self.compress is not None
        return plain and self.training and torch.is_grad_enabled()

    @torch.jit.unused
    def _spared(self, x: Tensor) -> Tensor:
        """`forward` for which autograd saves only x."""
        assert self.compress is not None
        remade, source = Remade(x), x.detach()
        with remade.instead():
            positive, negative = fused_phases(x, True)
            remade.put(positive, lambda: F.relu(source))
            remade.put(negative, lambda: F.relu(-source))
            return merge(positive, negative, self.compress.weight)


class ExtendedConv(nn.Module):
    """ReLU, then one more convolution (3×3 on an image) from C to C channels (the paper's Table 4), without a bias."""

    def __init__(self, channels: int, layout: str = "nchw", init: str = "xavier") -> None:
        super().__init__()
        self.channels = self.out_channels = channels
        self.layout = layout
        self.conv = CONVOLUTIONS[dimensions(layout)](channels, channels, 3, padding=1, bias=False)
        if init == "preserve":
            identity_(self.conv.weight)
        else:
            nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) → (B, C, …), or in the layout for which it was built."""
        return from_channels_first(self.conv(to_channels_first(F.relu(x), self.layout)), self.layout)


class NormReLU(nn.Module):
    """BatchNorm, then ReLU: tests whether the block's normalisation helps."""

    def __init__(self, channels: int, layout: str = "nchw") -> None:
        super().__init__()
        self.channels = self.out_channels = channels
        self.layout = layout
        self.norm = NORMS[dimensions(layout)](channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) → (B, C, …), or in the layout for which it was built."""
        return from_channels_first(F.relu(self.norm(to_channels_first(x, self.layout))), self.layout)
