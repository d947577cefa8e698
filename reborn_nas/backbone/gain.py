"""Networks without normalisation scale each activation's output to variance one; a replacement needs a gain of its own.

timm's NFNets hold the gain in `GammaAct` behind the activation, nf_resnet in `ScaledStdConv2d.scale` of the next
convolution (Brock, De & Smith, "Characterizing signal propagation …", 2021, Sec. 4.2).
"""

from __future__ import annotations

import copy
import math

import torch
from timm.models.nfnet import GammaAct, _nonlin_gamma
from torch import Tensor, nn

from reborn_nas.architecture import Choice


class Gained(nn.Module):
    """An activation and the gain behind it: (B, C, H, W) → gamma · activation(x)."""

    def __init__(self, act: nn.Module, gamma: float) -> None:
        super().__init__()
        self.act = act
        self.gamma = gamma
        self.channels: int = getattr(act, "channels", 0)
        self.out_channels: int = getattr(act, "out_channels", 0)

    def forward(self, x: Tensor) -> Tensor:
        """Activate, then scale."""
        y: Tensor = self.act(x).mul(self.gamma)
        return y

    def extra_repr(self) -> str:
        """The gain."""
        return f"gamma={self.gamma:.4g}"


def without_gain(original: nn.Module) -> tuple[nn.Module, float | None]:
    """The activation alone and its gain; the module itself and None where it has none."""
    if not isinstance(original, GammaAct):
        return original, None
    plain = copy.copy(original)
    plain.gamma = 1.0
    return plain, float(original.gamma)


def gain_of(choice: Choice, built: nn.Module) -> float | None:
    """The gain that belongs to an activation without weights; None for one with weights, which finds its own scale."""
    if choice.name == "leaky_relu" and choice.options.get("negative_slope") != 0.01:
        return _measured(built)
    if choice.name in _nonlin_gamma:
        return float(_nonlin_gamma[choice.name])
    if any(True for _ in built.parameters()) or choice.name == "rrelu":
        return None
    return _measured(built)


def _measured(module: nn.Module) -> float:
    levels = (torch.arange(20001, dtype=torch.float64) + 0.5) / 20001
    x = torch.special.ndtri(levels).view(1, 1, 1, -1)
    with torch.no_grad():
        y = copy.deepcopy(module).double().eval()(x)
    return 1.0 / math.sqrt(float(y.var(unbiased=False)))
