"""Controls: what a reborn block must beat before its negative phase may be praised."""

# No `from __future__ import annotations` here: torch.fx copies the annotations of forward into its code, and
# TorchScript cannot read them there as strings.
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations.layout import (
    CONVOLUTIONS,
    NORMS,
    dimensions,
    from_channels_first,
    to_channels_first,
)
from reborn_nas.activations.phases import identity_


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
        """(B, C, …) → (B, C, …), or the layout it was built for."""
        return from_channels_first(self.conv(to_channels_first(F.relu(x), self.layout)), self.layout)


class NormReLU(nn.Module):
    """BatchNorm, then ReLU: is it the block's normalisation that helps?"""

    def __init__(self, channels: int, layout: str = "nchw") -> None:
        super().__init__()
        self.channels = self.out_channels = channels
        self.layout = layout
        self.norm = NORMS[dimensions(layout)](channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) → (B, C, …), or the layout it was built for."""
        return from_channels_first(F.relu(self.norm(to_channels_first(x, self.layout))), self.layout)
