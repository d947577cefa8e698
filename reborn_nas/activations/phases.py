"""The two phases of a map, and how they come together again: what CReLU, reborn and its twin share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.errors import SiteError


def negative_part(x: Tensor) -> Tensor:
    """−σ(−x) = min(x, 0), values and autograd's gradient alike.

    `x - relu(x)` would be NaN at +inf. At x = 0 the gradient is 0, as that of −σ(−x): an image's black background sits
    there in a fresh network whose biases are zero. `clamp(max=0)` has 1 there in torch 2.11 and 0 in 2.15.
    """
    return F.hardtanh(x, float("-inf"), 0.0)


def merge(positive: Tensor, negative: Tensor, weight: Tensor) -> Tensor:
    """conv(cat([positive, negative], 1), weight) without the copy: W⁺·positive + W⁻·negative.

    Args:
        positive, negative: (B, C, H, W).
        weight: (C', 2C, k, k), k odd, the weight of the compression Γ; its first C inputs are the positive phase's.
    """
    channels = positive.shape[1]
    pad = weight.shape[-1] // 2
    kept = F.conv2d(positive, weight[:, :channels], None, 1, pad)
    return kept + F.conv2d(negative, weight[:, channels:], None, 1, pad)


def compression(channels: int, kind: str, init: str) -> nn.Conv2d | None:
    """Γ(·, 2): the convolution from 2C to C channels, or None for kind "none".

    It has no bias: the paper names none, β of the BatchNorm before it (reborn) and the layer after it (always
    a convolution or linear, Sec. 3.1) can shift as well, and [I | 0] then is all of the preserving start.

    Args:
        kind: "1x1", "3x3" or "none".
        init: "xavier", or "preserve" for [I | 0], which hands the positive phase on as it is.
    """
    if kind == "none":
        return None
    if kind not in ("1x1", "3x3"):
        raise SiteError(f"compression is one of 1x1, 3x3, none, not {kind!r}")
    size = int(kind[0])
    conv = nn.Conv2d(2 * channels, channels, size, padding=size // 2, bias=False)
    if init == "preserve":
        identity_(conv.weight)
    else:
        nn.init.xavier_uniform_(conv.weight)
    return conv


@torch.no_grad()
def identity_(weight: Tensor) -> None:
    """Fill a convolution weight (C, C' ≥ C, k, k) so that it returns its first C inputs."""
    channels, middle = weight.shape[0], weight.shape[-1] // 2
    weight.zero_()
    weight[:, :channels, middle, middle] = torch.eye(channels, dtype=weight.dtype, device=weight.device)
