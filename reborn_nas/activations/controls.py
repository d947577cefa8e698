"""Controls: what a reborn block must beat before its negative phase may be praised."""

# No `from __future__ import annotations` here: torch.fx copies the annotations of forward into its code, and
# TorchScript cannot read them there as strings.
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations.base import Option
from reborn_nas.activations.layout import MAPS, from_nchw, to_nchw
from reborn_nas.activations.phases import identity_
from reborn_nas.activations.reborn import RebornFamily


class ExtendedConv(nn.Module):
    """ReLU, then one more 3×3 convolution from C to C channels (the paper's Table 4), without a bias."""

    def __init__(self, channels: int, layout: str = "nchw", init: str = "xavier") -> None:
        super().__init__()
        self.channels = self.out_channels = channels
        self.layout = layout
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        if init == "preserve":
            identity_(self.conv.weight)
        else:
            nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W), or the layout it was built for."""
        return from_nchw(self.conv(to_nchw(F.relu(x), self.layout)), self.layout)


class NormReLU(nn.Module):
    """BatchNorm, then ReLU: is it the block's normalisation that helps?"""

    def __init__(self, channels: int, layout: str = "nchw") -> None:
        super().__init__()
        self.channels = self.out_channels = channels
        self.layout = layout
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W), or the layout it was built for."""
        return from_nchw(F.relu(self.norm(to_nchw(x, self.layout))), self.layout)


def _extended_conv(channels: int, layout: str, init: str) -> nn.Module:
    return ExtendedConv(channels, layout, init)


def _norm_relu(channels: int, layout: str, init: str) -> nn.Module:
    return NormReLU(channels, layout)


@dataclass(frozen=True)
class Control:
    """A control without options that keeps the channels."""

    name: str
    summary: str
    make: Callable[[int, str, str], nn.Module]
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)

    def channel_factor(self, **options: Any) -> int:
        """Always 1."""
        return 1

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
        """A new control."""
        return self.make(channels, layout, init)


FAMILIES = (
    Control("extended_conv", "relu(x), then a 3×3 convolution (paper, Table 4)", _extended_conv),
    RebornFamily(
        "positive_twin",
        "the reborn block fed with relu(x) instead of min(x, 0): same parameters, the control of every claim",
        negative=False,
    ),
    Control("norm_relu", "BN, then ReLU", _norm_relu),
)
