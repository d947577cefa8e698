"""The reborn block, Eq. 2 of the paper: f(X) = Γ(Ψ(σ(X), κ(Φ(−σ(−X)))), 2)."""

# No `from __future__ import annotations` here: torch.fx copies the annotations of forward into its code, and
# TorchScript cannot read them there as strings.
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations.layout import (
    DECONVOLUTIONS,
    NORMS,
    convolve,
    dimensions,
    from_channels_first,
    out_of_place,
    to_channels_first,
)
from reborn_nas.activations.phases import both_phases, fused_phases, merge, negative_part
from reborn_nas.activations.phases import compression as make_compression
from reborn_nas.activations.sparing import Once, Remade, cheap_to_redo
from reborn_nas.activations.split import split_form
from reborn_nas.errors import SiteError

torch.fx.wrap("both_phases")  # leaves of symbolic tracing here as well
torch.fx.wrap("merge")


def as_convolution(weight: Tensor, groups: int) -> Tensor:
    """The weight of the convolution that equals a stride-1, same-padded transposed one with `weight` (odd kernel).

    Args:
        weight: (C, C, k, …), or (C, 1, k, …) if groups = C.
    """
    if weight.shape[-1] > 1:
        weight = weight.flip(list(range(2, weight.dim())))
    return weight.transpose(0, 1) if groups == 1 else weight


@torch.fx.wrap  # a leaf of symbolic tracing, so that the device decides at run time
def deconvolve(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Φ: transposed convolution, stride 1, odd kernel, same size, in the form that is faster on the device of x.

    The rule is fixed: the transposed convolution on the CPU (for images 1 to 25 % faster there, most in channels_last),
    the convolution with the flipped and transposed weight elsewhere (cuDNN's data-gradient kernels are slower).
    """
    if x.device.type != "cpu":
        return convolve(x, as_convolution(weight, groups), None, groups)
    pad = weight.shape[-1] // 2
    if weight.dim() == 3:
        return torch.conv_transpose1d(x, weight, None, 1, pad, 0, groups)
    if weight.dim() == 5:
        return torch.conv_transpose3d(x, weight, None, 1, pad, 0, groups)
    return torch.conv_transpose2d(x, weight, None, 1, pad, 0, groups)


class Reborn(nn.Module):
    """The reborn block, computed without the concatenation: W⁺·σ(x) + W⁻·κ(Φ(min(x, 0))).

    Φ (`deconv`) is a transposed convolution of stride 1 that keeps the size, κ (`norm`) BatchNorm, Γ (`compress`) a
    convolution from 2C to C channels, each in the dimensions of the site's maps: `ConvTranspose2d` and `BatchNorm2d`
    for images. Neither Φ (BatchNorm follows) nor Γ has a bias.

    Args:
        channels: number of input channels C.
        kernel_size: kernel size of Φ in every dimension; odd, since an even one would change the map's size.
        compression: "1x1" or "3x3" (likewise in every dimension), or "none", which returns cat([σ(x), κ(Φ(·))]), 2C
            channels.
        deconv: "dense", or "depthwise" (Φ acts on each channel separately).
        positive: the positive path σ; None means ReLU, as in the paper.
        negative: False gives the positive twin, in which Φ reads relu(x) instead of min(x, 0).
        layout: layout of x: "ncl", "nchw", "nhwc", "ncdhw", "ndhwc" or "nc".
        init: "xavier", or "preserve": Γ = [I | 0], so that f(x) = σ(x) exactly in float32 arithmetic. Φ is not zero, so
            that W⁻ has a gradient at once and the negative path opens after one step.

    Example:
        >>> Reborn(64, kernel_size=3)(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 3,
        compression: str = "1x1",
        deconv: str = "dense",
        positive: nn.Module | None = None,
        negative: bool = True,
        layout: str = "nchw",
        init: str = "xavier",
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise SiteError(
                f"a reborn block's kernel_size is odd, not {kernel_size}: it must keep the map's size"
            )
        self.channels = channels
        self.out_channels = channels * (2 if compression == "none" else 1)
        self.groups = channels if deconv == "depthwise" else 1
        self.negative = negative
        self.layout = layout
        self.sparing = False  # see `spare_memory`
        self.positive = out_of_place(nn.ReLU() if positive is None else positive)
        self.rectifies = type(self.positive) is nn.ReLU
        rank = dimensions(layout)
        self.deconv = DECONVOLUTIONS[rank](
            channels, channels, kernel_size, padding=kernel_size // 2, groups=self.groups, bias=False
        )
        self.norm = NORMS[rank](channels)
        self.compress = make_compression(channels, compression, init, layout)
        nn.init.xavier_uniform_(self.deconv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) → (B, out_channels, …), or in the layout for which it was built."""
        if self.sparing and not torch.jit.is_scripting() and self._can_spare(x):  # type: ignore[attr-defined]
            return self._spared(x)
        if self.rectifies and self.negative:
            phases = both_phases(x, False)
            positive, phase = phases[0], phases[1]
        elif self.rectifies:
            positive = F.relu(x)
            phase = positive
        else:
            positive = self.positive(x)
            phase = negative_part(x) if self.negative else F.relu(x)
        positive = to_channels_first(positive, self.layout)
        reborn = self.norm(deconvolve(to_channels_first(phase, self.layout), self.deconv.weight, self.groups))
        if self.compress is None:
            return from_channels_first(torch.cat([positive, reborn], dim=1), self.layout)  # (B, 2C, …)
        return from_channels_first(merge(positive, reborn, self.compress.weight), self.layout)

    @torch.jit.unused
    def _can_spare(self, x: Tensor) -> bool:
        """Whether maps can be recomputed: only if autograd saves them, and nothing is traced."""
        compiler: Any = torch.compiler
        jit: Any = torch.jit
        watched = jit.is_tracing() or compiler.is_compiling()
        plain = isinstance(x, Tensor) and not watched and type(self.norm) in NORMS.values()
        return plain and self.training and torch.is_grad_enabled()

    @torch.jit.unused
    def _spared(self, x: Tensor) -> Tensor:
        """`forward` for which autograd saves only x, and Φ(·) if that is expensive to recompute."""
        remade, source, layout = Remade(x), x.detach(), self.layout
        weight, groups, norm = self.deconv.weight, self.groups, self.norm

        def phase_again() -> Tensor:
            return to_channels_first(negative_part(source) if self.negative else F.relu(source), layout)

        def normalised_again() -> Tensor:
            again = deconvolved.first() if redo else kept
            return F.batch_norm(again, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)

        with remade.instead():
            if self.rectifies and self.negative:
                positive, phase = fused_phases(x, False)
            elif self.rectifies:
                positive = phase = F.relu(x)
            else:
                positive, phase = self.positive(x), negative_part(x) if self.negative else F.relu(x)
            positive, phase = to_channels_first(positive, layout), to_channels_first(phase, layout)
            if self.negative:
                remade.put(phase, phase_again)
                if self.rectifies:
                    remade.put(positive, lambda: to_channels_first(F.relu(source), layout))
            mapped = deconvolve(phase, weight, groups)
            kept, redo = mapped.detach(), cheap_to_redo(weight)
            deconvolved = Once(lambda: deconvolve(phase_again(), weight, groups))
            if redo:
                remade.put(mapped, deconvolved.second)
                del kept
            reborn = remade.put(norm(mapped), normalised_again)
            if self.compress is None:
                return from_channels_first(torch.cat([positive, reborn], dim=1), layout)  # (B, 2C, …)
            return from_channels_first(merge(positive, reborn, self.compress.weight), layout)

    @torch.jit.unused
    def fuse(self) -> nn.Module:
        """The deployment form with the running statistics: a new module with the same function in eval mode.

        timm's `reparameterize_model` calls this method by name.
        """
        return split_form(
            self.positive,
            as_convolution(self.deconv.weight, self.groups),
            self.norm,
            None if self.compress is None else self.compress.weight,
            groups=self.groups,
            negative=self.negative,
            layout=self.layout,
        )
