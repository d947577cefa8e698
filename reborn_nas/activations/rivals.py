"""CReLU: both phases of a map, side by side. Source: Shang et al., ICML 2016."""

# No `from __future__ import annotations` here: torch.fx copies the annotations of forward into its code, and
# TorchScript cannot read them there as strings.
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations.layout import from_channels_first, to_channels_first
from reborn_nas.activations.phases import both_phases, fused_phases, merge
from reborn_nas.activations.phases import compression as make_compression
from reborn_nas.activations.sparing import Remade

torch.fx.wrap("both_phases")  # leaves of symbolic tracing here too
torch.fx.wrap("merge")


class CReLU(nn.Module):
    """cat([σ(x), σ(−x)]) over the channels, handed on as 2C channels or compressed to C by a 1×1 convolution."""

    def __init__(
        self, channels: int, *, compression: str = "1x1", layout: str = "nchw", init: str = "xavier"
    ) -> None:
        super().__init__()
        self.channels = channels
        self.out_channels = channels * (2 if compression == "none" else 1)
        self.layout = layout
        self.sparing = False  # see `spare_memory`
        self.compress = make_compression(channels, compression, init, layout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) → (B, out_channels, …), or the layout it was built for."""
        x = to_channels_first(x, self.layout)
        if self.sparing and not torch.jit.is_scripting() and self._can_spare(x):  # type: ignore[attr-defined]
            return from_channels_first(self._spared(x), self.layout)
        phases = both_phases(x, True)
        positive, negative = phases[0], phases[1]
        if self.compress is None:
            return from_channels_first(torch.cat([positive, negative], dim=1), self.layout)  # (B, 2C, …)
        return from_channels_first(merge(positive, negative, self.compress.weight), self.layout)

    @torch.jit.unused
    def _can_spare(self, x: Tensor) -> bool:
        """Only what is trained eagerly, and mixed by a convolution, keeps its phases for a backward pass."""
        compiler: Any = torch.compiler
        jit: Any = torch.jit
        watched = jit.is_tracing() or compiler.is_compiling()
        plain = isinstance(x, Tensor) and not watched and self.compress is not None
        return plain and self.training and torch.is_grad_enabled()

    @torch.jit.unused
    def _spared(self, x: Tensor) -> Tensor:
        """`forward`, of whose maps autograd keeps x alone."""
        assert self.compress is not None
        remade, source = Remade(x), x.detach()
        with remade.instead():
            positive, negative = fused_phases(x, True)
            remade.put(positive, lambda: F.relu(source))
            remade.put(negative, lambda: F.relu(-source))
            return merge(positive, negative, self.compress.weight)
