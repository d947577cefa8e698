"""The small-image stem: ImageNet stems discard three quarters of a small image's pixels before the first block.

The rule needs no data flow, only the order in which the leaf modules run:

- The first convolution is *strided* when its stride is 2 or more. A first convolution of stride 1 (VGG) and
  a 3×3 one that no max-pool follows (MobileNet, EfficientNet, RegNet) are unchanged.
- kernel ≥ 5 and smaller stride: it becomes 3×3, stride 1, padding 1.
- kernel = stride ≥ 4 (patchify: ConvNeXt, ConvMixer): it becomes a 2×2 patch, stride 2, so that 32×32 ends at 2×2.
- A max-pool within the first three convolutions, each of stride 1 but the first, becomes an identity; the
  strided 3×3 convolution of such a stem (deep ResNet stems, Inception, SqueezeNet) gets stride 1.

The new weights are the centre of the old kernel, multiplied by old/new width: this preserves the variance of the
outputs under every usual initialisation (fan-in, fan-out, Xavier) and draws no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

SMALL = 64  # pixels; up to this height and width an ImageNet stem is too coarse


@dataclass(frozen=True)
class StemEdit:
    """The changes to a stem: the convolution's kernel and stride, and the pool that is removed.

    Args:
        conv: module path of the first convolution.
        kernel, stride: new values.
        was_kernel, was_stride: old values.
        pool: module path of the max-pool that becomes an identity, or None.
        reduction: factor by which the maps after the stem become finer.
    """

    conv: str
    kernel: int
    stride: int
    was_kernel: int
    was_stride: int
    pool: str | None
    reduction: int

    @property
    def sentence(self) -> str:
        """The change as text for the user."""
        text = (
            f"the stem's {self.was_kernel}×{self.was_kernel} convolution of stride {self.was_stride} becomes "
            f"{self.kernel}×{self.kernel} of stride {self.stride}"
        )
        return text + (f", and the max-pool {self.pool!r} is dropped" if self.pool else "")


def small_stem(order: Sequence[tuple[str, nn.Module]]) -> StemEdit | None:
    """The edit for a network whose leaf modules run in `order` (path, module), or None if the rule does not apply."""
    convs = [(i, path, m) for i, (path, m) in enumerate(order) if isinstance(m, nn.Conv2d)]
    if not convs:
        return None
    start, path, conv = convs[0]
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    if stride < 2 or len(set(conv.kernel_size)) > 1 or len(set(conv.stride)) > 1 or conv.dilation != (1, 1):
        return None
    if kernel == stride:
        if kernel < 4:
            return None
        return StemEdit(path, 2, 2, kernel, stride, None, stride // 2)
    pool = _stem_pool(order[start + 1 :])
    if kernel < 5 and pool is None:
        return None
    reduction = stride * (2 if pool else 1)
    return StemEdit(path, 3, 1, kernel, stride, pool, reduction)


def apply_stem(model: nn.Module, edit: StemEdit) -> None:
    """Change the stem of `model` in place, and timm's table of feature maps accordingly."""
    conv = model.get_submodule(edit.conv)
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"{edit.conv!r} is {type(conv).__name__}, not a convolution")
    _shrink(conv, edit.kernel, edit.stride)
    if edit.pool is not None:
        model.set_submodule(edit.pool, nn.Identity())
    table = getattr(model, "feature_info", None)
    if isinstance(table, list):
        for row in table:
            if isinstance(row, dict) and isinstance(row.get("reduction"), int):
                row["reduction"] = max(1, row["reduction"] // edit.reduction)


def _stem_pool(rest: Sequence[tuple[str, nn.Module]]) -> str | None:
    convs = 1
    for path, module in rest:
        if isinstance(module, nn.MaxPool2d):
            return path if _first(module.stride) == 2 and _first(module.kernel_size) <= 3 else None
        if isinstance(module, nn.Conv2d):
            convs += 1
            if convs > 3 or module.stride[0] > 1:
                return None
        elif isinstance(module, nn.AdaptiveAvgPool2d | nn.AvgPool2d | nn.Linear):
            return None
    return None


def _shrink(conv: nn.Conv2d, kernel: int, stride: int) -> None:
    old = conv.kernel_size[0]
    if kernel != old:
        edge = (old - kernel) // 2
        centre = conv.weight.detach()[..., edge : edge + kernel, edge : edge + kernel] * (old / kernel)
        weight = conv.weight
        conv.weight = nn.Parameter(centre.contiguous(), requires_grad=weight.requires_grad)
        conv.kernel_size = (kernel, kernel)
        if not (isinstance(conv.padding, str) or type(conv).__name__.endswith("Same")):
            conv.padding = (kernel // 2, kernel // 2) if kernel % 2 else (0, 0)
            conv._reversed_padding_repeated_twice = [conv.padding[1]] * 2 + [conv.padding[0]] * 2
        if isinstance(getattr(conv, "scale", None), float):  # ScaledStdConv2d: gamma / √fan-in
            scaled: Any = conv
            scaled.scale *= old / kernel
    conv.stride = (stride, stride)


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple | list) else value)
