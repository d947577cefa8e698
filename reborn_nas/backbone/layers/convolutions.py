"""Convolutions after doubled channels that cannot be expressed by a plain convolution with more inputs.

They keep the class, the parameters and the state-dict keys of the convolution that they replace.
"""

# no postponed annotations: TorchScript reads the annotations of the classes

from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.blur_pool import BlurPool2d
from timm.layers.cond_conv2d import CondConv2d
from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from timm.layers.mixed_conv2d import MixedConv2d
from timm.layers.selective_kernel import SelectiveKernel
from torch import Tensor, nn

from reborn_nas.backbone.layers.registry import Layer, Outcome, Scene, Wide, become
from reborn_nas.backbone.layers.steps import Action, ChannelMap, WidenStep


def regroup(x: Tensor, groups: int, copies: int, order: Tensor | None) -> Tensor:
    """Bring the channels of each group together: cat([a, b]) to [a₁, b₁, a₂, b₂, …].

    Args:
        x: (B, copies·C, …).
        groups: number of groups of the convolution that reads the result.
        copies: number of consecutive copies of the C channels in `x`.
        order: index in `x` of each channel of the result, if the order is irregular.
    """
    if order is not None:
        return x.index_select(1, order)
    if groups == 1 or copies == 1:
        return x
    y = torch.unflatten(x, 1, [copies, groups, x.shape[1] // (copies * groups)])
    return y.transpose(1, 2).flatten(1, 3)  # (B, groups · copies · C/groups, …)


class RegroupedConv2d(nn.Conv2d):
    """A grouped convolution that reads doubled channels: `groups` is kept, and each group gets more inputs."""

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
    """ECA's convolution along the channels: it reads the original channels, and its result is repeated."""

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
    """timm's selective kernel that splits its input by channels, one part per path."""

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
        filters = x.shape[0] * self.out_channels  # a separate weight for each image
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


REGROUPED: dict[type, type] = {
    nn.Conv2d: RegroupedConv2d,
    nn.Conv1d: RegroupedConv1d,
    Conv2dSame: RegroupedConv2dSame,
    CondConv2d: RegroupedCondConv2d,
}


class Convolution(Layer):
    """A convolution in groups sorts its input by groups before it reads it."""

    classes: tuple[type[nn.Module], ...] = (nn.Conv2d, Conv2dSame)
    regroups = True

    def regroup(self, module: nn.Module, step: WidenStep) -> None:
        """Replace its class by one that sorts its input."""
        regroup_input(module, step, REGROUPED)


class LineConvolution(Convolution):
    """`line`: ECA's 1-D convolution along the channels reads only the original ones; its result is repeated."""

    classes = (nn.Conv1d,)
    actions: Mapping[str, Action] = {"line": Action()}

    def plan(self, scene: Scene) -> Outcome | None:
        """A convolution with one channel along the C channel means."""
        op = scene.op
        if op.name != "conv1d":
            return None
        value, wide = scene.subject()
        weight = scene.tensor(1, "weight")
        along = weight is not None and wide.dim == len(scene.shape(value)) - 1
        if not along or scene.shape(weight or 0)[:2] != (1, 1):
            return None
        if scene.shape(op.outputs[0]) != scene.shape(op.inputs[0]):
            return None
        return Outcome((wide,), (scene.step("line", (weight,), wide.dim, wide.channels),))

    def apply(self, module: nn.Module, step: WidenStep) -> None:
        """Make it read the original channels."""
        wider = become(module, {nn.Conv1d: LineConv1d}, step.module)
        copies = copies_in(step.channels)
        wider.size = step.channels.size
        wider.copies = copies or 1
        index_buffer(module, "kept", None if copies else step.channels.kept())
        index_buffer(module, "order", None if copies else step.channels.sources())


class RoutedConvolution(Convolution):
    """`experts`: timm's `CondConv2d` reads more input channels in each of its experts."""

    classes = (CondConv2d,)
    actions: Mapping[str, Action] = {"experts": Action("columns", reads=True, uses="layer")}

    def plan(self, scene: Scene) -> Outcome | None:
        """By its reshape, each image is convolved with a separate weight."""
        if scene.op.name != "reshape":
            return None
        value, wide = scene.subject()
        if wide.dim != 1:
            return None
        conv = next(later for later in scene.trace.ops[scene.op.index :] if later.name == "conv2d")
        groups = int(Scene(scene.trace, conv, {}).arg(6, "groups")) // scene.shape(value)[0]
        return scene.narrow(scene.form("experts", "weight", wide.channels, groups))

    def apply(self, module: nn.Module, step: WidenStep) -> None:
        """Regroup its input, if it has groups."""
        if step.groups > 1:
            self.regroup(module, step)

    def grow(self, module: Any, old: Tensor, widen: Callable[[Tensor], Tensor]) -> Tensor:
        """(experts, elements of a weight) → the same, with each weight (out, in / groups, k, k) grown."""
        new = torch.stack([widen(weight) for weight in old.reshape(-1, *module.weight_shape)])
        module.weight_shape = tuple(new.shape[1:])
        module.in_channels = module.weight_shape[1] * module.groups
        return new.flatten(1)


class SplittingConvolution(Layer):
    """`split`: a layer that divides its input among convolutions divides widened channels like the original ones."""

    classes = (MixedConv2d, SelectiveKernel)
    actions: Mapping[str, Action] = {"split": Action(uses="layer")}

    def plan(self, scene: Scene) -> Outcome | None:
        """The maps of the parts of `torch.split` along the channels."""
        if scene.op.name != "split":
            return None
        value, wide = scene.subject()
        dim = int(scene.arg(2, "dim", 0)) % len(scene.shape(value))
        sizes, channels = scene.arg(1, "split_size_or_sections"), wide.channels
        if isinstance(sizes, int):
            sizes = [min(sizes, channels.size - start) for start in range(0, channels.size, sizes)]
        if dim != wide.dim or not isinstance(sizes, list | tuple):
            return None
        starts = accumulate(sizes, initial=0)
        parts = tuple(Wide(dim, channels.part(start, size)) for start, size in zip(starts, sizes))
        return Outcome(parts, (scene.form("split", "splits", channels),))

    def apply(self, module: nn.Module, step: WidenStep) -> None:
        """Make it split the widened channels into the original parts, each widened."""
        forms: dict[type, type] = {MixedConv2d: RegroupedMixedConv2d, SelectiveKernel: WideSelectiveKernel}
        wider = become(module, forms, step.module)
        channels = step.channels
        if isinstance(module, MixedConv2d):
            splits = list(wider.splits)
        else:
            splits = [channels.size // wider.num_paths] * wider.num_paths
        ends = list(accumulate(splits))
        part = [bisect_right(ends, channel) for channel in channels.sources()]
        wider.splits = [part.count(number) for number in range(len(ends))]
        wider.in_channels = channels.width
        index_buffer(module, "order", sorted(range(channels.width), key=part.__getitem__))


class FixedFilter(Layer):
    """`filter`: timm's `BlurPool2d` applies one fixed depthwise filter, which is copied to the extra channels."""

    classes = (BlurPool2d,)
    actions: Mapping[str, Action] = {"filter": Action("copies", ("channels",))}

    def plan(self, scene: Scene) -> Outcome | None:
        """Its convolution passes the channels on."""
        weight = scene.tensor(1, "weight")
        if scene.op.name != "conv2d" or weight is None:
            return None
        value, wide = scene.subject()
        groups = int(scene.arg(6, "groups", 1))
        if wide.dim != len(scene.shape(value)) - 3 or scene.shape(weight)[:2] != (groups, 1):
            return None
        return Outcome((wide,), (scene.step("filter", (weight,), 0, wide.channels, groups),))


def regroup_input(conv: nn.Module, step: WidenStep, forms: Mapping[type, type]) -> Any:
    """Replace the class of `conv` by its form in `forms`, and set the order of the channels of its groups.

    Raises:
        ConversionError: there is no such class.
    """
    order = [place for group in step.channels.grouped(step.groups) for place in group]
    wider = become(conv, forms, step.module)
    copies = copies_in(step.channels) or int(order == list(range(step.channels.width)))
    wider.copies = copies or 1
    index_buffer(conv, "order", None if copies else order)
    return wider


def copies_in(channels: ChannelMap) -> int:
    """Number of consecutive copies of the original channels, the true ones first; 0 for other orders."""
    runs = channels.runs
    in_order = all(run[:2] == (0, channels.size) and run[2] == (place > 0) for place, run in enumerate(runs))
    return len(runs) if in_order else 0


def index_buffer(module: nn.Module, name: str, index: list[int] | None) -> None:
    """Register channel indices as a buffer of the module, outside of its state dict."""
    device = next(module.parameters()).device
    module.register_buffer(
        name, None if index is None else torch.tensor(index, device=device), persistent=False
    )
