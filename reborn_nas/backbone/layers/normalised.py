"""Layers whose normalisation must not see the extra channels: standardised weights, the norm of an identity branch.

The standardisation of a weight runs over a filter's inputs, so that additional inputs would change it. Here the weights
that read the true channels are standardised among themselves, exactly as before, and those that read extra channels are
plain weights: zero gives the original function, and a gradient of ordinary size.

RepVGG's and MobileOne's blocks sum convolutions of their input and a batch norm of it. The convolutions have weights
for the extra channels; the norm has none, and the width of the sum is kept.
"""

# no postponed annotations: TorchScript reads the annotations of the classes

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import pad_same
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

from reborn_nas.backbone.layers.convolutions import index_buffer, regroup, regroup_input
from reborn_nas.backbone.layers.registry import Layer, Outcome, Scene, become
from reborn_nas.backbone.layers.steps import Action, ChannelMap, WidenStep


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
    """Common methods of the four classes. The first base of each is the convolution that it replaces."""

    size: int
    copies: int
    order: Tensor | None
    true: Tensor | None

    def convolved(self: Any, x: Tensor, gain: Tensor | None) -> Tensor:
        """(B, widened C, H, W), padded if the class pads, to the shape of the original."""
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


STANDARDISED: dict[type, type] = {
    StdConv2d: WideStdConv2d,
    StdConv2dSame: WideStdConv2dSame,
    ScaledStdConv2d: WideScaledStdConv2d,
    ScaledStdConv2dSame: WideScaledStdConv2dSame,
}


class StandardisedConvolution(Layer):
    """`standardised`: a weight-standardised convolution reads more channels and standardises only the old weights."""

    classes = tuple(STANDARDISED)
    actions: Mapping[str, Action] = {
        "standardised": Action("columns", ("in_channels",), reads=True, uses="layer")
    }

    def plan(self, scene: Scene) -> Outcome | None:
        """Its convolution, whose weight is computed from the stored one."""
        weight = scene.tensor(1, "weight")
        if scene.op.name != "conv2d" or weight is None:
            return None
        value, wide = scene.subject()
        groups, stored = int(scene.arg(6, "groups", 1)), self._stored(scene, weight)
        if stored is None or wide.dim != len(scene.shape(value)) - 3 or not _alike(wide.channels, groups):
            return None
        owner, _, tensor = stored.rpartition(".")
        return scene.narrow(WidenStep("standardised", owner, (tensor,), 1, groups, wide.channels))

    def apply(self, module: nn.Module, step: WidenStep) -> None:
        """Make it standardise only the weights that it had."""
        wide = regroup_input(module, step, STANDARDISED)
        channels = step.channels
        entries = channels.entries()
        true = [
            column for column, place in enumerate(channels.grouped(step.groups)[0]) if not entries[place][1]
        ]
        wide.size = len(true)
        index_buffer(module, "true", None if true == list(range(len(true))) else true)

    def _stored(self, scene: Scene, weight: int) -> str | None:
        """The name of the stored parameter behind a computed weight."""
        trace, shape = scene.trace, scene.shape(weight)
        while (producer := trace.producer(weight)) is not None and producer.module == scene.op.module:
            weight = producer.inputs[0]
            name = trace.values[weight].param
            if name is not None and trace.values[weight].shape == shape:
                return name
        return None


def _alike(channels: ChannelMap, groups: int) -> bool:
    """Whether the true channels have the same indices in every group."""
    entries = channels.entries()
    return len({tuple(entries[place][1] for place in group) for group in channels.grouped(groups)}) == 1


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
    """The computation of `nn.BatchNorm2d`, with running statistics updated in training. A function, for TorchScript."""
    factor = 0.0 if momentum is None else momentum
    if training and batches is not None:
        batches.add_(1)
        if momentum is None:
            factor = 1.0 / float(batches)
    return F.batch_norm(x, mean, var, weight, bias, training or mean is None, factor, eps)


class Cut(nn.Module):
    """Common methods of both classes. The first base of each is the norm that it replaces."""

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


CUT: dict[type, type] = {
    nn.BatchNorm2d: CutBatchNorm2d,
    BatchNormAct2d: CutBatchNormAct2d,
}


class IdentityNorm(Layer):
    """`cut`: the norm of an identity branch (RepVGG, MobileOne) reads only the original channels."""

    classes = tuple(CUT)
    actions: Mapping[str, Action] = {"cut": Action(uses="layer", excludes="norm")}
    cuts = True

    def cut(self, scene: Scene) -> WidenStep:
        """Only the other branches of the sum, which have weights, read the extra channels."""
        return scene.form("cut", "kept", scene.subject()[1].channels)

    def apply(self, module: nn.Module, step: WidenStep) -> None:
        """Make it read the original channels."""
        kept = step.channels.kept()
        become(module, CUT, step.module).size = step.channels.size
        index_buffer(module, "kept", None if kept == list(range(step.channels.size)) else kept)
