"""Networks without normalisation scale each activation's output to variance one; a replacement needs a gain of its own.

timm's NFNets hold the gain in `GammaAct` behind the activation, nf_resnet in `ScaledStdConv2d.scale` of the next
convolution (Brock, De & Smith, "Characterizing signal propagation …", 2021, Sec. 4.2).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from timm.layers.std_conv import ScaledStdConv2d
from timm.models.nfnet import GammaAct, _nonlin_gamma
from torch import Tensor, nn

from reborn_nas.activations import build_activation
from reborn_nas.architecture import Choice
from reborn_nas.backbone.sites.site import Discovery, site_values
from reborn_nas.backbone.trace.events import Trace


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


def conv_gains(
    model: nn.Module, found: Discovery, chosen: Mapping[str, Choice]
) -> tuple[tuple[str, float], ...]:
    """(path of a weight-standardised convolution, factor of its scale), where it holds its input activation's gain."""
    convs = {path: conv for path, conv in model.named_modules() if isinstance(conv, ScaledStdConv2d)}
    if not convs:
        return ()
    gains: dict[str, float] = {}
    for site in found.sites:
        if site.name not in chosen:
            continue
        gain = gain_of(
            chosen[site.name], build_activation(chosen[site.name], site.channels, layout=site.layout)
        )
        for _, value in site_values(found.eval_trace, site):
            for path in _reading_convs(found.eval_trace, value):
                if gain is not None and path in convs:
                    own = convs[path].scale * convs[path].weight[0].numel() ** 0.5
                    if abs(own - 1.0) > 1e-6 and abs(gain - own) > 1e-6:
                        gains[path] = gain / own
    return tuple(gains.items())


def _reading_convs(run: Trace, value: int) -> list[str]:
    """Modules whose convolution reads the value, directly or through pools and multiplications by a number."""
    found: list[str] = []
    for op in run.consumers(value):
        if op.name == "conv2d" and op.inputs[0] == value:
            found.append(op.module)
        elif "pool" in op.name or op.name == "dropout" or (op.name == "mul" and len(op.inputs) == 1):
            found += _reading_convs(run, op.outputs[0])
    return found


def _measured(module: nn.Module) -> float:
    with (
        torch.device("cpu"),
        torch.no_grad(),
    ):  # a plan is tried out where the default device holds no numbers
        levels = (torch.arange(20001, dtype=torch.float64) + 0.5) / 20001
        y = copy.deepcopy(module).double().eval()(torch.special.ndtri(levels).view(1, 1, 1, -1))
    return 1.0 / math.sqrt(float(y.var(unbiased=False)))
