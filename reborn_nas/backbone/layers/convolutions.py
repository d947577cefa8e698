"""Convolutions behind doubled channels that plain ones cannot express.

They keep the class, the parameters and the state-dict keys of the convolution that they stand for.
"""

# no postponed annotations: TorchScript reads those of the classes as they are

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.cond_conv2d import CondConv2d
from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from timm.layers.mixed_conv2d import MixedConv2d
from timm.layers.selective_kernel import SelectiveKernel
from torch import Tensor, nn

from reborn_nas.backbone.layers.channelmap import ChannelMap
from reborn_nas.errors import ConversionError


def regroup(x: Tensor, groups: int, copies: int, order: Tensor | None) -> Tensor:
    """Bring the channels of each group together: cat([a, b]) to [a₁, b₁, a₂, b₂, …].

    Args:
        x: (B, copies·C, …).
        groups: groups of the convolution that reads the result.
        copies: how often the C channels stand in `x` one after the other.
        order: where each channel of the result stands in `x`, where they do not lie so regularly.
    """
    if order is not None:
        return x.index_select(1, order)
    if groups == 1 or copies == 1:
        return x
    y = torch.unflatten(x, 1, [copies, groups, x.shape[1] // (copies * groups)])
    return y.transpose(1, 2).flatten(1, 3)  # (B, groups · copies · C/groups, …)


class RegroupedConv2d(nn.Conv2d):
    """A grouped convolution that reads doubled channels: `groups` stays, each group's inputs grow."""

    copies: int
    order: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """(B, copies·C, H, W) to the shape of the original."""
        x = regroup(input, self.groups, self.copies, self.order)
        return self._conv_forward(x, self.weight, self.bias)


class RegroupedConv2dSame(Conv2dSame):  # type: ignore[misc]
    """`RegroupedConv2d` with TensorFlow's padding."""

    copies: int
    order: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """(B, copies·C, H, W) to the shape of the original."""
        y: Tensor = conv2d_same(
            regroup(x, self.groups, self.copies, self.order),
            self.weight,
            self.bias,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            self.groups,
        )
        return y


class RegroupedConv1d(nn.Conv1d):
    """`RegroupedConv2d` along one dimension."""

    copies: int
    order: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """(B, copies·C, L) to the shape of the original."""
        x = regroup(input, self.groups, self.copies, self.order)
        return self._conv_forward(x, self.weight, self.bias)


class LineConv1d(nn.Conv1d):
    """ECA's convolution along the line of channels: it sees the original channels, its result is repeated."""

    size: int
    copies: int
    kept: Tensor | None
    order: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """(B, 1, copies·C) to the same shape."""
        if self.kept is None or self.order is None:
            y = self._conv_forward(input[..., : self.size], self.weight, self.bias)
            return y.repeat(1, 1, self.copies)
        y = self._conv_forward(input.index_select(2, self.kept), self.weight, self.bias)
        return y.index_select(2, self.order)


class RegroupedMixedConv2d(MixedConv2d):  # type: ignore[misc]
    """timm's mixed convolution, which splits its input by channels."""

    order: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, widened C, H, W) to the shape of the original."""
        parts = torch.split(x.index_select(1, self.order), self.splits, 1)
        return torch.cat([conv(parts[i]) for i, conv in enumerate(self.values())], 1)


class WideSelectiveKernel(SelectiveKernel):  # type: ignore[misc]
    """timm's selective kernel that splits its input by channels, a part for each path."""

    splits: list[int]
    order: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, widened C, H, W) to the shape of the original."""
        parts = torch.split(x.index_select(1, self.order), self.splits, 1)
        paths = torch.stack([path(parts[i]) for i, path in enumerate(self.paths)], dim=1)
        return torch.sum(paths * self.attn(paths), dim=1)  # (B, paths, C, H, W) to (B, C, H, W)


class RegroupedCondConv2d(CondConv2d):  # type: ignore[misc]
    """timm's convolution of routed experts, in groups."""

    copies: int
    order: Tensor | None

    def forward(self, x: Tensor, routing_weights: Tensor) -> Tensor:
        """(B, widened C, H, W), (B, experts) to the shape of the original."""
        weight = torch.matmul(routing_weights, self.weight)
        filters = x.shape[0] * self.out_channels  # a weight of its own for each image
        weight = weight.view(filters, -1, self.kernel_size[0], self.kernel_size[1])
        bias: Tensor | None = None
        if self.bias is not None:
            bias = torch.matmul(routing_weights, self.bias).view(-1)
        y = regroup(x, self.groups, self.copies, self.order)
        y = y.reshape(1, -1, x.shape[2], x.shape[3])  # (1, B · widened C, H, W)
        groups = self.groups * x.shape[0]
        if self.dynamic_padding:
            y = conv2d_same(y, weight, bias, self.stride, self.padding, self.dilation, groups)
        else:
            y = F.conv2d(y, weight, bias, self.stride, self.padding, self.dilation, groups)
        return y.view(x.shape[0], self.out_channels, y.shape[2], y.shape[3])


REGROUPED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: RegroupedConv2d,
    nn.Conv1d: RegroupedConv1d,
    Conv2dSame: RegroupedConv2dSame,
    CondConv2d: RegroupedCondConv2d,
}


def make_regrouped(conv: nn.Module, groups: int, channels: ChannelMap, where: str) -> None:
    """Let `conv` bring the channels of each of its groups together before it reads them.

    Raises:
        ConversionError: for a class of convolution that has no such form.
    """
    regrouping(conv, groups, channels, where, REGROUPED)


def make_split(layer: nn.Module, channels: ChannelMap, where: str) -> None:
    """Let a `MixedConv2d` or `SelectiveKernel` split widened channels into the original's parts, each widened."""
    wider = become(layer, {MixedConv2d: RegroupedMixedConv2d, SelectiveKernel: WideSelectiveKernel}, where)
    if isinstance(layer, MixedConv2d):
        splits = list(wider.splits)
    else:
        splits = [channels.size // wider.num_paths] * wider.num_paths
    ends = list(accumulate(splits))
    part = [bisect_right(ends, channel) for channel in channels.sources()]
    wider.splits = [part.count(number) for number in range(len(ends))]
    wider.in_channels = channels.width
    index_buffer(layer, "order", sorted(range(channels.width), key=part.__getitem__))


def regrouping(
    conv: nn.Module,
    groups: int,
    channels: ChannelMap,
    where: str,
    classes: dict[type[nn.Module], type[nn.Module]],
) -> Any:
    """Give `conv` the class that `classes` has for its own, and tell it how the channels of its groups lie.

    Raises:
        ConversionError: where there is no such class.
    """
    order = [place for group in channels.grouped(groups) for place in group]
    wider = become(conv, classes, where)
    copies = _copies(channels) or int(order == list(range(channels.width)))
    wider.copies = copies or 1
    index_buffer(conv, "order", None if copies else order)
    return wider


def make_line(conv: nn.Module, channels: ChannelMap, where: str) -> None:
    """Let a 1-D convolution along the channels see the original ones alone."""
    wider = become(conv, {nn.Conv1d: LineConv1d}, where)
    copies = _copies(channels)
    wider.size = channels.size
    wider.copies = copies or 1
    index_buffer(conv, "kept", None if copies else channels.kept())
    index_buffer(conv, "order", None if copies else channels.sources())


def _copies(channels: ChannelMap) -> int:
    """How often the original channels stand one after the other, the true ones first; 0 where they lie otherwise."""
    runs = channels.runs
    whole = all(run[:2] == (0, channels.size) and run[2] == (place > 0) for place, run in enumerate(runs))
    return len(runs) if whole else 0


def become(conv: nn.Module, classes: dict[type[nn.Module], type[nn.Module]], where: str) -> Any:
    """Give `conv` the class that `classes` has for its own. Raises ConversionError where there is none."""
    kind = kind_among(type(conv), classes)
    found = None if kind is None else classes[kind]
    if found is None:
        raise ConversionError(
            f"'{where}' is a {type(conv).__name__}, which has no form that reads doubled channels; keep the "
            "activation before it, or choose a compressed form"
        )
    conv.__class__ = found
    return conv


def kind_among(cls: type, kinds: Iterable[type]) -> type | None:
    """The one of `kinds` that `cls` is, or whose forward it has."""
    known = set(kinds)
    forward = getattr(cls, "forward", None)
    return next(
        (base for base in cls.__mro__ if base in known and getattr(base, "forward", None) is forward), None
    )


def index_buffer(module: nn.Module, name: str, index: list[int] | None) -> None:
    """Places of channels, kept on the module's device and out of its state dict."""
    tensor = None if index is None else torch.tensor(index, device=_device(module))
    module.register_buffer(name, tensor, persistent=False)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
