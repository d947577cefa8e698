"""ShuffleNet's block that splits and shuffles widened channels like the original ones. Imports torchvision."""

# no postponed annotations: TorchScript reads the annotations of the class

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.shufflenetv2 import InvertedResidual, channel_shuffle

from reborn_nas.errors import ConversionError


class WideInvertedResidual(InvertedResidual):  # type: ignore[misc]
    """torchvision's block; with the `sizes` of its halves and the `order` of its shuffle, where they have changed."""

    sizes: list[int]
    order: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """(B, widened C, H, W) to the same, with another widening."""
        if self.stride == 1:
            parts = x.chunk(2, dim=1) if len(self.sizes) == 0 else torch.split(x, self.sizes, dim=1)
            out = torch.cat((parts[0], self.branch2(parts[1])), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        order = self.order  # TorchScript can prove only of a local name that it is not None
        if order is None:
            shuffled: Tensor = channel_shuffle(out, 2)
            return shuffled
        return out.index_select(1, order)


def wide_block(block: nn.Module, where: str) -> Any:
    """`block` with the class for widened channels. Raises ConversionError for other blocks."""
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
