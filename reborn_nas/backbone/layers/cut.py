"""The norm of an identity branch behind doubled channels: it normalises the original ones alone.

RepVGG's and MobileOne's blocks sum convolutions of their input and a batch norm of it. The convolutions have weights
for the extra channels; the norm has none, and the sum keeps its width.
"""

# no postponed annotations: TorchScript reads those of the classes as they are

from typing import Any

import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from reborn_nas.backbone.layers.channelmap import ChannelMap
from reborn_nas.backbone.layers.regrouped import become, index_buffer


def original(x: Tensor, size: int, kept: Tensor | None) -> Tensor:
    """(B, widened C, H, W) to (B, C, H, W): the first `size` channels, or those in `kept`."""
    return x[:, :size] if kept is None else x.index_select(1, kept)


def normed(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    batches: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """What `nn.BatchNorm2d` computes, its running statistics updated in training. A function, for TorchScript."""
    factor = 0.0 if momentum is None else momentum
    if training and batches is not None:
        batches.add_(1)
        if momentum is None:
            factor = 1.0 / float(batches)
    return F.batch_norm(x, mean, var, weight, bias, training or mean is None, factor, eps)


class Cut(nn.Module):
    """What both classes share. The first base of each is the norm that it stands for."""

    size: int
    kept: Tensor | None

    def normed(self: Any, x: Tensor) -> Tensor:
        """The batch norm of the original channels, (B, widened C, H, W) to (B, C, H, W)."""
        return normed(
            original(x, self.size, self.kept),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.num_batches_tracked,
            self.training,
            self.momentum,
            self.eps,
        )


class CutBatchNorm2d(nn.BatchNorm2d, Cut):
    """`BatchNorm2d` of the original channels."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, widened C, H, W) to (B, C, H, W)."""
        return self.normed(input)


class CutBatchNormAct2d(BatchNormAct2d, Cut):  # type: ignore[misc]
    """timm's `BatchNormAct2d` of the original channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, widened C, H, W) to (B, C, H, W)."""
        y: Tensor = self.act(self.drop(self.normed(x)))
        return y


CUT: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: CutBatchNorm2d,
    BatchNormAct2d: CutBatchNormAct2d,
}


def make_cut(norm: nn.Module, channels: ChannelMap, where: str) -> None:
    """Let a batch norm read the original channels of `channels` alone."""
    kept = channels.kept()
    become(norm, CUT, where).size = channels.size
    index_buffer(norm, "kept", None if kept == list(range(channels.size)) else kept)
