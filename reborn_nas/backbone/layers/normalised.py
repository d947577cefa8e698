"""Weight-standardised convolutions behind doubled channels.

The standardisation runs over a filter's input weights, so more of them would change it. Here the weights that read
the true channels are standardised among themselves, exactly as before, and those that read extra channels are plain
weights: zero gives the original function, and a gradient of ordinary size.
"""

# no postponed annotations: TorchScript reads those of the classes as they are

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.padding import pad_same
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

from reborn_nas.backbone.layers.channelmap import ChannelMap
from reborn_nas.backbone.layers.regrouped import regroup, regrouping


def partly_standardised(
    weight: Tensor, gain: Tensor | None, eps: float, size: int, true: Tensor | None
) -> Tensor:
    """Standardise the columns of the true channels: the first `size`, or those in `true`."""
    kept = weight[:, :size] if true is None else weight.index_select(1, true)
    flat = kept.reshape(1, weight.shape[0], -1)  # (1, out, in · k · k)
    normed = F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=eps)
    normed = normed.reshape_as(kept)
    if true is None:
        return torch.cat([normed, weight[:, size:]], dim=1)
    return weight.index_copy(1, true, normed.to(weight.dtype))


class PartlyStandardised(nn.Module):
    """What the four classes share. The first base of each is the convolution that it stands for."""

    size: int
    copies: int
    order: Tensor | None
    true: Tensor | None

    def convolved(self: Any, x: Tensor, gain: Tensor | None) -> Tensor:
        """(B, widened C, H, W), padded where the class pads, to the shape of the original."""
        x = regroup(x, self.groups, self.copies, self.order)
        weight = partly_standardised(self.weight, gain, self.eps, self.size, self.true)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class WideStdConv2d(StdConv2d, PartlyStandardised):  # type: ignore[misc]
    """`StdConv2d` that reads doubled channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, widened C, H, W) to the shape of the original."""
        return self.convolved(x, None)


class WideStdConv2dSame(StdConv2dSame, PartlyStandardised):  # type: ignore[misc]
    """`StdConv2dSame` that reads doubled channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, widened C, H, W) to the shape of the original."""
        if self.same_pad:
            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        return self.convolved(x, None)


class WideScaledStdConv2d(ScaledStdConv2d, PartlyStandardised):  # type: ignore[misc]
    """`ScaledStdConv2d` that reads doubled channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, widened C, H, W) to the shape of the original."""
        return self.convolved(x, (self.gain * self.scale).view(-1))


class WideScaledStdConv2dSame(ScaledStdConv2dSame, PartlyStandardised):  # type: ignore[misc]
    """`ScaledStdConv2dSame` that reads doubled channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, widened C, H, W) to the shape of the original."""
        if self.same_pad:
            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        return self.convolved(x, (self.gain * self.scale).view(-1))


WIDE: dict[type[nn.Module], type[nn.Module]] = {
    StdConv2d: WideStdConv2d,
    StdConv2dSame: WideStdConv2dSame,
    ScaledStdConv2d: WideScaledStdConv2d,
    ScaledStdConv2dSame: WideScaledStdConv2dSame,
}


def make_partly_standardised(conv: nn.Module, groups: int, channels: ChannelMap, where: str) -> None:
    """Let a weight-standardised convolution keep its standardisation for the weights that it had.

    Raises:
        ConversionError: for a class that is none of timm's.
    """
    wide = regrouping(conv, groups, channels, where, WIDE)
    entries = channels.entries()
    true = [column for column, place in enumerate(channels.grouped(groups)[0]) if not entries[place][1]]
    wide.size = len(true)
    regular = true == list(range(len(true)))
    index = None if regular else torch.tensor(true, device=wide.weight.device)
    wide.register_buffer("true", index, persistent=False)
