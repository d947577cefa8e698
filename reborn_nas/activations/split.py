"""The deployment form of the reborn block: BatchNorm and, if that is exact, the compression folded into Φ."""

# No `from __future__ import annotations` here: torch.fx copies the annotations of forward into its code, and
# TorchScript cannot read them there as strings.
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from reborn_nas.activations.layout import CONVOLUTIONS, convolve, from_channels_first, to_channels_first
from reborn_nas.activations.phases import centre, negative_part


@torch.fx.wrap  # a leaf of symbolic tracing, so that device and size decide at run time
def whole_form(x: Tensor, weight: Tensor, bias: Tensor | None, pointwise: Tensor) -> Tensor:
    """conv(min(x, 0), weight, bias) + conv(x, pointwise): a block whose 1×1 convolution reads x.

    The 1×1 is a convolution like the other: as a single matrix product with a fused addition it was up to 8 % of a
    block faster on one EPYC, but twice as slow on the next, whose BLAS is slower than its convolutions.

    Args:
        x: (B, C, …).
        weight: (C', C, k, …), k odd.
        bias: (C',) or None.
        pointwise: (C', C, 1, …).
    """
    if not torch.jit.is_scripting() and _in_blocks(x, weight):  # type: ignore[attr-defined]
        return _block_by_block(x, weight, bias, pointwise)
    return convolve(negative_part(x), weight, bias, 1).add_(convolve(x, pointwise, None, 1))


BLOCK = 3 << 20
"""Bytes of a map that are processed at once. The temporaries of an entire batch may be allocated from the system and
freed at each call, page by page; those of a few images are reused. On one thread of an EPYC a single block (64 channels
at 32×32, 32 images) takes 0.7 to 0.85 of the time; a ResNet-18, whose allocations have settled, takes as long as in one
piece, and longer with smaller parts."""

FEWEST = 16
"""Least images of a part, unless the batch is smaller. Below it torch computes a 1×1 on one thread by a matrix product
instead of oneDNN's convolution, which takes 5 % more of a block's time on one EPYC, and 2 % of a ResNet-18's."""


@torch.jit.unused
def _in_blocks(x: Tensor, weight: Tensor) -> bool:
    """Whether x is a plain map on the CPU, without tracing or gradients."""
    tracing = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined,no-untyped-call]
    if x.device.type != "cpu" or tracing or torch.is_autocast_enabled("cpu") or not x.is_contiguous():
        return False
    return not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))


@torch.jit.unused
def _block_by_block(x: Tensor, weight: Tensor, bias: Tensor | None, pointwise: Tensor) -> Tensor:
    B = x.shape[0]
    out = x.new_empty(B, weight.shape[0], *x.shape[2:])
    # a convolution reorders its weight at every call, which large ones must not do too often; the number of threads is
    # not used, so that the results do not depend on it
    step = max(FEWEST, max(BLOCK, weight.nbytes // 2) // max(1, x[:1].nbytes))
    step = max(1, -(-B // max(1, B // step)))  # equal parts, so that none has only a few images
    for first in range(0, B, step):
        part = x[first : first + step]
        reborn = convolve(negative_part(part), weight, bias, 1)
        torch.add(reborn, convolve(part, pointwise, None, 1), out=out[first : first + step])
    return out


class SplitReborn(nn.Module):
    """direct(σ(x)) + merge(reborn(min(x, 0))): a reborn block in eval mode, in two or three convolutions.

    With a ReLU, a dense Φ and a 1×1 compression `direct` reads x: since relu(x) = x − min(x, 0), the surplus of min(x,
    0) is subtracted from the centre of `reborn`, and relu(x) is never computed or stored.

    `reborn` is Φ as a plain convolution with κ in its weight and bias. With a dense Φ and a 1×1 compression it also
    contains W⁻, and `merge` is absent. A 3×3 compression cannot be folded into it exactly at the border, and folding
    into a depthwise Φ would make that dense: in these cases `merge` is W⁻. Without compression `direct` is also absent,
    and the phases are concatenated.
    """

    def __init__(
        self,
        positive: nn.Module,
        reborn: _ConvNd,
        direct: _ConvNd | None,
        merge: _ConvNd | None,
        *,
        negative: bool,
        layout: str,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.whole = whole
        self.channels = reborn.in_channels
        self.out_channels = self.channels * (2 if direct is None else 1)
        self.negative = negative
        self.layout = layout
        self.positive = positive
        self.reborn = reborn
        self.direct = direct
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) → (B, out_channels, …), or in the layout for which it was built."""
        if self.whole and self.direct is not None:
            mapped = whole_form(
                to_channels_first(x, self.layout), self.reborn.weight, self.reborn.bias, self.direct.weight
            )
            return from_channels_first(mapped, self.layout)
        positive = to_channels_first(self.positive(x), self.layout)
        phase = negative_part(x) if self.negative else F.relu(x)
        reborn = self.reborn(to_channels_first(phase, self.layout))
        if self.merge is not None:
            reborn = self.merge(reborn)
        if self.direct is None:
            return from_channels_first(torch.cat([positive, reborn], dim=1), self.layout)  # (B, 2C, …)
        # in place: a new map costs as much as the sum
        return from_channels_first(reborn.add_(self.direct(positive)), self.layout)


@torch.no_grad()
def split_form(
    positive: nn.Module,
    weight: Tensor,
    norm: _BatchNorm,
    compress: Tensor | None,
    *,
    groups: int,
    negative: bool,
    layout: str,
) -> SplitReborn:
    """The `SplitReborn` of a block, computed in float64 and returned in the dtype of `weight`.

    Args:
        positive: the positive path, which is copied.
        weight: weight of Φ as a convolution, (C, C / groups, k, …).
        norm: κ, whose running statistics are used.
        compress: Γ's weight (C, 2C, k', …), or None if there is none.
        groups, negative, layout: as in the block.
    """
    channels, dtype = weight.shape[0], weight.dtype
    scale, shift = affine(norm)
    folded, bias = scaled(weight.double(), scale), shift
    direct = merge = None
    whole = False
    if compress is not None:
        kept, reborn = compress.double()[:, :channels], compress.double()[:, channels:]  # (C, C, k', …) each
        direct = convolution(kept, None, 1, dtype)
        if groups == 1 and compress.shape[-1] == 1:
            mix = centre(reborn)  # (C, C)
            folded, bias = torch.einsum("om,mi...->oi...", mix, folded), mix @ shift
            whole = negative and type(positive) is nn.ReLU
            if whole:
                centre(folded).sub_(centre(kept))
        else:
            merge = convolution(reborn, None, 1, dtype)
    deployed = SplitReborn(
        deepcopy(positive),
        convolution(folded, bias, groups, dtype),
        direct,
        merge,
        negative=negative,
        layout=layout,
        whole=whole,
    )
    return deployed.train(norm.training)


def affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """(scale, shift), each (C,) in float64, with norm(x) = scale·x + shift in eval mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics has no eval form to fold")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def scaled(weight: Tensor, scale: Tensor) -> Tensor:
    """A convolution weight (C', C, k, …) times a factor per output channel (C',)."""
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))


def convolution(weight: Tensor, bias: Tensor | None, groups: int, dtype: torch.dtype) -> _ConvNd:
    """A same-padded, stride-1 convolution that holds copies of `weight` (C', C / groups, k, …) and `bias`."""
    outputs, inputs, size = weight.shape[:3]
    conv = CONVOLUTIONS[weight.dim() - 2](
        inputs * groups,
        outputs,
        size,
        padding=size // 2,
        groups=groups,
        bias=bias is not None,
        device="meta",  # to draw no random numbers
        dtype=dtype,
    ).to_empty(device=weight.device)
    conv.weight.copy_(weight)
    if bias is not None and conv.bias is not None:
        conv.bias.copy_(bias)
    return conv
