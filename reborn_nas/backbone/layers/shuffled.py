"""ShuffleNet's block with widened channels: it splits and shuffles them as it did the original ones."""

# no postponed annotations: TorchScript reads those of the class as they are

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.shufflenetv2 import InvertedResidual, channel_shuffle

from reborn_nas.backbone.layers.channelmap import ChannelMap
from reborn_nas.backbone.widen.known_layers import shuffle_order
from reborn_nas.errors import ConversionError


class WideInvertedResidual(InvertedResidual):  # type: ignore[misc]
    """torchvision's block; `sizes` are those of its halves, `order` is that of its shuffle, where they changed."""

    sizes: list[int]
    order: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """(B, widened C, H, W) to the same, widened otherwise."""
        if self.stride == 1:
            parts = x.chunk(2, dim=1) if len(self.sizes) == 0 else torch.split(x, self.sizes, dim=1)
            out = torch.cat((parts[0], self.branch2(parts[1])), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        order = self.order  # TorchScript knows of a local name that it is not None
        if order is None:
            shuffled: Tensor = channel_shuffle(out, 2)
            return shuffled
        return out.index_select(1, order)


def make_shuffled(block: nn.Module, channels: ChannelMap, where: str) -> None:
    """Let the block shuffle the channels of `channels`."""
    order = torch.tensor(shuffle_order(channels, 2)[0], device=next(block.parameters()).device)
    _wide(block, where).register_buffer("order", order, persistent=False)


def make_halved(block: nn.Module, channels: ChannelMap, where: str) -> None:
    """Let the block split the channels of `channels`."""
    first = channels.part(0, channels.size // 2).width
    _wide(block, where).sizes = [first, channels.width - first]


def _wide(block: nn.Module, where: str) -> Any:
    if not isinstance(block, WideInvertedResidual):
        if type(block) is not InvertedResidual:
            raise ConversionError(
                f"'{where}' is a {type(block).__name__}, not torchvision's ShuffleNet block"
            )
        wide: Any = block
        wide.__class__ = WideInvertedResidual
        wide.sizes = []
        wide.register_buffer("order", None, persistent=False)
    return block
