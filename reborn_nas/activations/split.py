"""The deployment form of the reborn block: BatchNorm and, where that is exact, the compression folded into Φ."""

# No `from __future__ import annotations` here: torch.fx copies the annotations of forward into its code, and
# TorchScript cannot read them there as strings.
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations.layout import from_nchw, to_nchw
from reborn_nas.activations.phases import negative_part


@torch.fx.wrap  # a leaf of symbolic tracing, so that device and size may decide
def whole_form(x: Tensor, weight: Tensor, bias: Tensor | None, pointwise: Tensor) -> Tensor:
    """conv2d(min(x, 0), weight, bias) + conv2d(x, pointwise): a block whose 1×1 reads x itself.

    The 1×1 is a convolution like the other: as one matrix product that adds in passing it was up to 8 % of a block
    faster on one EPYC and twice as slow on the next, whose BLAS is no match for its convolutions.

    Args:
        x: (B, C, H, W).
        weight: (C', C, k, k), k odd.
        bias: (C',) or None.
        pointwise: (C', C, 1, 1).
    """
    if not torch.jit.is_scripting() and _in_blocks(x, weight):  # type: ignore[attr-defined]
        return _block_by_block(x, weight, bias, pointwise)
    reborn = F.conv2d(negative_part(x), weight, bias, 1, weight.shape[-1] // 2)
    return reborn.add_(F.conv2d(x, pointwise))


BLOCK = 3 << 20
"""Bytes of a map that are worked on at once. The temporaries of a whole batch may be fetched from the system and given
back at each call, page by page; those of a few images are handed out again. On one thread of an EPYC a block alone (64
channels at 32×32, 32 images) takes 0.7 to 0.85 of the time; in a ResNet-18, whose allocations have settled, as long
as in one piece, and longer with smaller parts."""

FEWEST = 16
"""Images of a part, but for a smaller batch. Below it torch computes a 1×1 on one thread by a matrix product instead of
oneDNN's convolution: on one EPYC 5 % of a block's time more, and 2 % of a ResNet-18's."""


@torch.jit.unused
def _in_blocks(x: Tensor, weight: Tensor) -> bool:
    """Whether nobody traces or differentiates, and x is a plain map on the CPU."""
    tracing = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined,no-untyped-call]
    if x.device.type != "cpu" or tracing or torch.is_autocast_enabled("cpu") or not x.is_contiguous():
        return False
    return not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))


@torch.jit.unused
def _block_by_block(x: Tensor, weight: Tensor, bias: Tensor | None, pointwise: Tensor) -> Tensor:
    B, _, H, W = x.shape
    out = x.new_empty(B, weight.shape[0], H, W)
    pad = weight.shape[-1] // 2
    # a convolution brings its weight into its own layout at every call, which large ones must not do too often;
    # the number of threads has no say, so that the bits do not depend on it
    step = max(FEWEST, max(BLOCK, weight.nbytes // 2) // max(1, x[:1].nbytes))
    step = max(1, -(-B // max(1, B // step)))  # equal parts: none is left with a few images
    for first in range(0, B, step):
        part = x[first : first + step]
        reborn = F.conv2d(negative_part(part), weight, bias, 1, pad)
        torch.add(reborn, F.conv2d(part, pointwise), out=out[first : first + step])
    return out


class SplitReborn(nn.Module):
    """direct(σ(x)) + merge(reborn(min(x, 0))): what a reborn block computes in eval mode, in two or three convolutions.

    With a ReLU, a dense Φ and a 1×1 compression `direct` reads x itself: relu(x) = x − min(x, 0), and what that takes
    too much of min(x, 0) is taken out of the centre of `reborn`. So relu(x) is never computed or stored.

    `reborn` is Φ as a plain convolution with κ in its weight and bias. With a dense Φ and a 1×1 compression it
    holds W⁻ as well and `merge` is absent. A 3×3 compression cannot join it exactly at the border, and joining
    a depthwise Φ would make that dense: there `merge` is W⁻. Without compression `direct` is absent too, and
    the phases are concatenated.
    """

    def __init__(
        self,
        positive: nn.Module,
        reborn: nn.Conv2d,
        direct: nn.Conv2d | None,
        merge: nn.Conv2d | None,
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
        """(B, C, H, W) → (B, out_channels, H, W), or the layout it was built for."""
        if self.whole and self.direct is not None:
            mapped = whole_form(
                to_nchw(x, self.layout), self.reborn.weight, self.reborn.bias, self.direct.weight
            )
            return from_nchw(mapped, self.layout)
        positive = to_nchw(self.positive(x), self.layout)
        phase = negative_part(x) if self.negative else F.relu(x)
        reborn = self.reborn(to_nchw(phase, self.layout))
        if self.merge is not None:
            reborn = self.merge(reborn)
        if self.direct is None:
            return from_nchw(torch.cat([positive, reborn], dim=1), self.layout)  # (B, 2C, H, W)
        # in place: a fresh map costs as much as the sum
        return from_nchw(reborn.add_(self.direct(positive)), self.layout)


@torch.no_grad()
def split_form(
    positive: nn.Module,
    weight: Tensor,
    norm: nn.BatchNorm2d,
    compress: Tensor | None,
    *,
    groups: int,
    negative: bool,
    layout: str,
) -> SplitReborn:
    """The `SplitReborn` of a block, computed in float64 and returned in the dtype of `weight`.

    Args:
        positive: the positive path, copied.
        weight: of Φ as a Conv2d, (C, C / groups, k, k).
        norm: κ, whose running statistics are used.
        compress: Γ's weight (C, 2C, k', k'), or None where there is none.
        groups, negative, layout: as in the block.
    """
    channels, dtype = weight.shape[0], weight.dtype
    scale, shift = affine(norm)
    folded, bias = weight.double() * scale[:, None, None, None], shift
    direct = merge = None
    whole = False
    if compress is not None:
        kept, reborn = compress.double()[:, :channels], compress.double()[:, channels:]  # (C, C, k', k') each
        direct = convolution(kept, None, 1, dtype)
        if groups == 1 and compress.shape[-1] == 1:
            mix = reborn[:, :, 0, 0]  # (C, C)
            folded, bias = torch.einsum("om,mikl->oikl", mix, folded), mix @ shift
            whole = negative and type(positive) is nn.ReLU
            if whole:
                middle = folded.shape[-1] // 2
                folded[:, :, middle, middle] -= kept[:, :, 0, 0]
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


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(scale, shift), each (C,) in float64, with norm(x) = scale·x + shift in eval mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics has no eval form to fold")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def convolution(weight: Tensor, bias: Tensor | None, groups: int, dtype: torch.dtype) -> nn.Conv2d:
    """A same-padded, stride-1 Conv2d that holds copies of `weight` (C', C / groups, k, k) and `bias`."""
    outputs, inputs, size, _ = weight.shape
    conv = nn.Conv2d(
        inputs * groups,
        outputs,
        size,
        padding=size // 2,
        groups=groups,
        bias=bias is not None,
        device="meta",  # draws no random numbers
        dtype=dtype,
    ).to_empty(device=weight.device)
    conv.weight.copy_(weight)
    if bias is not None and conv.bias is not None:
        conv.bias.copy_(bias)
    return conv
