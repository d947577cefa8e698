"""Activations that look at one value, or one neighbourhood (FReLU), and keep the channels."""

# No `from __future__ import annotations` here: torch.fx copies the annotations of forward into its code, and
# TorchScript cannot read them there as strings.
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations.base import Option
from reborn_nas.activations.layout import ANY, MAPS, from_nchw, to_nchw
from reborn_nas.activations.split import affine, convolution


class ChannelPReLU(nn.PReLU):
    """PReLU with one slope a channel, whichever axis the channels are on. Source: He et al. 2015."""

    def __init__(self, channels: int, layout: str = "nchw", slope: float = 0.25) -> None:
        super().__init__(channels, init=slope)
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) or, channels last, (B, …, C) → the same shape."""
        if self.layout == "nhwc" or self.layout == "nlc":
            return F.prelu(x.movedim(-1, 1), self.weight).movedim(1, -1)
        return F.prelu(x, self.weight)


class FReLU(nn.Module):
    """max(x, T(x)), T a depthwise 3×3 convolution with BatchNorm. Source: Ma et al., Funnel Activation, ECCV 2020.

    The paper draws the window's weights from a Gaussian; here they are Xavier's, as all weights are (BatchNorm
    follows, so that their scale does not matter).
    """

    def __init__(self, channels: int, layout: str = "nchw") -> None:
        super().__init__()
        self.channels = self.out_channels = channels
        self.layout = layout
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W), or the layout it was built for."""
        x = to_nchw(x, self.layout)
        return from_nchw(torch.maximum(x, self.norm(self.conv(x))), self.layout)

    @torch.jit.unused
    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """The same function in eval mode with the BatchNorm in the convolution, a new module."""
        fused = deepcopy(self)
        if isinstance(self.norm, nn.BatchNorm2d):
            scale, shift = affine(self.norm)
            weight = self.conv.weight.double() * scale[:, None, None, None]
            fused.conv = convolution(weight, shift, self.channels, self.conv.weight.dtype)
            fused.norm = nn.Identity()  # type: ignore[assignment]
        return fused


@dataclass(frozen=True)
class Pointwise:
    """A family whose modules need nothing but their options."""

    name: str
    summary: str
    make: Callable[..., nn.Module]
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)

    def channel_factor(self, **options: Any) -> int:
        """Always 1."""
        return 1

    def layouts(self, **options: Any) -> frozenset[str]:
        """Any."""
        return ANY

    def build(
        self,
        channels: int,
        *,
        layout: str = "nchw",
        original: nn.Module | None = None,
        init: str = "xavier",
        **options: Any,
    ) -> nn.Module:
        """The torch module itself, so that tools that look for `nn.ReLU` find it."""
        return _marked(self.make(**options), channels)


@dataclass(frozen=True)
class PReLUFamily(Pointwise):
    """One learnt slope a channel; "preserve" starts it at 0, which is ReLU."""

    def build(
        self,
        channels: int,
        *,
        layout: str = "nchw",
        original: nn.Module | None = None,
        init: str = "xavier",
        **options: Any,
    ) -> nn.Module:
        """A `ChannelPReLU`."""
        return _marked(ChannelPReLU(channels, layout, 0.0 if init == "preserve" else 0.25), channels)


@dataclass(frozen=True)
class FReLUFamily(Pointwise):
    """FReLU looks at a 3×3 window, so that it needs maps."""

    def layouts(self, **options: Any) -> frozenset[str]:
        """Maps, but not tokens."""
        return MAPS

    def build(
        self,
        channels: int,
        *,
        layout: str = "nchw",
        original: nn.Module | None = None,
        init: str = "xavier",
        **options: Any,
    ) -> nn.Module:
        """A `FReLU`."""
        return FReLU(channels, layout)


def _marked(module: nn.Module, channels: int) -> nn.Module:
    module.channels = module.out_channels = channels  # type: ignore[assignment]
    return module


_SLOPE = {"negative_slope": Option(0.01, help="slope for x < 0", low=0.0, high=1.0)}

FAMILIES = (
    Pointwise("relu", "max(x, 0)", nn.ReLU),
    Pointwise("leaky_relu", "x, or negative_slope·x below 0", nn.LeakyReLU, ("leakyrelu",), _SLOPE),
    PReLUFamily("prelu", "x, or a learnt slope a channel times x below 0", nn.PReLU),
    Pointwise("rrelu", "leaky ReLU, its slope drawn from U(1/8, 1/3) while training", nn.RReLU),
    Pointwise("elu", "x, or exp(x) − 1 below 0", nn.ELU),
    Pointwise("selu", "ELU scaled so that activations normalise themselves", nn.SELU),
    Pointwise("celu", "ELU, continuously differentiable for every α (1 here)", nn.CELU),
    Pointwise("gelu", "x·Φ(x)", nn.GELU),
    Pointwise("silu", "x·sigmoid(x)", nn.SiLU, ("swish",)),
    Pointwise("mish", "x·tanh(softplus(x))", nn.Mish),
    Pointwise("hardswish", "x·relu6(x + 3)/6", nn.Hardswish, ("hard_swish",)),
    FReLUFamily("frelu", "max(x, BN(depthwise 3×3 convolution of x))", FReLU),
)
