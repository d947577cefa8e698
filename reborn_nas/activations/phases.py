"""The two phases of a map and their combination, as used by CReLU, reborn and its twin."""

# No `from __future__ import annotations` here: TorchScript cannot read annotations of ignored functions as
# strings.
import functools
import importlib.util
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from reborn_nas.activations.layout import CONVOLUTIONS, convolve, dimensions
from reborn_nas.errors import SiteError

KINDS = (torch.float32, torch.bfloat16, torch.float16)
"""Types that the kernels support."""


def negative_part(x: Tensor) -> Tensor:
    """−σ(−x) = min(x, 0), in value and gradient.

    `x - relu(x)` would be NaN at +inf. At x = 0 the gradient is 0, like that of −σ(−x): the black background of images
    is there in a new network whose biases are zero. `clamp(max=0)` has gradient 1 there in torch 2.11 and 0 in 2.15.
    """
    return F.hardtanh(x, float("-inf"), 0.0)


def both_phases(x: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
    """relu(x) and min(x, 0), or relu(−x) instead if `mirrored`.

    The rule is fixed: on an NVIDIA GPU with Triton one kernel each for forward and backward, which move 7 maps in place
    of the 13 of pointwise operations; elsewhere, and under compilers and tracers, pointwise operations. Modules that
    use this pass its name to `torch.fx.wrap`, so that a traced network also decides by its device.
    """
    if not torch.jit.is_scripting() and _fusible(x):  # type: ignore[attr-defined]
        return fused_phases(x, mirrored)
    return F.relu(x), F.relu(-x) if mirrored else negative_part(x)


@torch.jit.unused
def fused_phases(x: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
    """`both_phases` as one step of autograd, which saves only x."""
    found: tuple[Tensor, Tensor] = _Phases.apply(x, mirrored)  # type: ignore[no-untyped-call]
    return found


class _Phases(torch.autograd.Function):
    """Both phases by kernels if x allows them, else by pointwise operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.mirrored = mirrored
        if _fusible(x):
            return _kernels().split(x, mirrored)
        return F.relu(x), F.relu(-x) if mirrored else negative_part(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, positive: Tensor, negative: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if _fusible(x):
            return _kernels().join(x, positive, negative, ctx.mirrored), None
        aten: Any = torch.ops.aten
        kept = aten.threshold_backward(positive, x, 0)
        other = aten.hardtanh_backward(negative, x, float("-inf"), 0.0)
        return (kept - other if ctx.mirrored else kept + other), None


def _kernels() -> ModuleType:
    """The module that imports Triton."""
    from reborn_nas.activations import kernels

    return kernels


@torch.jit.unused
def _fusible(x: Tensor) -> bool:
    """Whether the kernels can be used for x: a plain dense CUDA tensor, no tracing, and Triton works on its device."""
    if x.device.type != "cuda" or type(x) not in (Tensor, nn.Parameter) or x.dtype not in KINDS:
        return False
    compiler: Any = torch.compiler
    functorch: Any = torch._C._functorch
    jit: Any = torch.jit
    if jit.is_tracing() or compiler.is_compiling() or functorch.is_functorch_wrapped_tensor(x):
        return False
    return is_dense(x) and kernels_work(str(x.device), x.dtype, not x.is_contiguous())


def is_dense(x: Tensor) -> bool:
    """Whether the elements of x fill its memory without gaps or overlaps, in any order."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def block_form(device: str) -> str:
    """Text on how blocks are computed on a kind of device; stored in a study's settings, as rounding depends on it."""
    if device.startswith("cpu"):
        return "transposed convolution; two compressions added, one of maps below 64 pixels"
    if device.startswith("cuda"):
        return "flipped convolution, two compressions added, fused phases"
    return "flipped convolution, two compressions added"


@functools.cache
def kernels_work(device: str, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> bool:
    """Whether the Triton kernels give the results of the pointwise operations on `device`, tested once on a small map.

    Each type and memory order is tested when a network first uses it. If a kernel does not compile, does not run or
    gives different results, the slower pointwise operations are used, with a warning that gives the reason.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        fault = _kernel_fault(device, dtype, channels_last)
    except Exception as error:  # no C compiler, an unknown GPU, another Triton: use pointwise operations
        fault = f"{type(error).__name__}: {error}"
    if fault:
        warnings.warn(
            f"the Triton kernels do not work on {device} in {dtype} ({fault}); plain operations take their place, "
            "slower",
            stacklevel=2,
        )
    return not fault


@torch.no_grad()
def _kernel_fault(device: str, dtype: torch.dtype, channels_last: bool) -> str:
    """The difference from pointwise operations on a map with zeros, infinities and a NaN; "" if there is none."""
    kernels = _kernels()
    x = torch.linspace(-3, 3, 2 * 17 * 5 * 13, device=device).to(dtype).view(2, 17, 5, 13)
    x.view(-1)[:6] = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1.0], device=device)
    upstream = (
        torch.cos(3 * x.float()).nan_to_num().to(dtype),
        torch.sin(5 * x.float()).nan_to_num().to(dtype),
    )
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for mirrored in (False, True):
        sign = -1.0 if mirrored else 1.0
        expected = (F.relu(x), F.relu(-x) if mirrored else negative_part(x))
        got = kernels.split(x, mirrored)
        if not all(torch.equal(one.nan_to_num(7), other.nan_to_num(7)) for one, other in zip(got, expected)):
            return "the phases differ"
        gradient = torch.where(x > 0, upstream[0], torch.where(x < 0, sign * upstream[1], 0.0))
        found = kernels.join(x, *upstream, mirrored)
        if not torch.equal(found[~x.isnan()], gradient[~x.isnan()]):
            return "the gradients differ"
    return ""


def merge(positive: Tensor, negative: Tensor, weight: Tensor) -> Tensor:
    """conv(cat([positive, negative], 1), weight) without the copy: W⁺·positive + W⁻·negative.

    Modules that use this pass its name to `torch.fx.wrap`, since its form depends on device and size: on a CPU maps of
    less than 64 pixels are concatenated, since one convolution instead of two saves 4 to 12 % of a block's time
    (measured on one core, batch 16); elsewhere the copy is more expensive.

    Args:
        positive, negative: (B, C, …).
        weight: (C', 2C, k, …), k odd, the weight of the compression Γ; its first C inputs are the positive phase's.
    """
    channels, pixels = positive.shape[1], 1
    for extent in positive.shape[2:]:
        pixels *= extent
    if positive.device.type == "cpu" and pixels < 64:
        return convolve(torch.cat([positive, negative], 1), weight, None, 1)
    kept = convolve(positive, weight[:, :channels], None, 1)
    return kept + convolve(negative, weight[:, channels:], None, 1)


def compression(channels: int, kind: str, init: str, layout: str = "nchw") -> _ConvNd | None:
    """Γ(·, 2): the convolution from 2C to C channels, or None for kind "none".

    It has no bias: the paper mentions none, and β of the preceding BatchNorm (reborn) and the next layer (always a
    convolution or linear, Sec. 3.1) can shift as well. [I | 0] is then all that the preserving initialisation needs.

    Args:
        kind: "1x1", "3x3" or "none"; the kernel has that extent in every dimension of the map.
        init: "xavier", or "preserve" for [I | 0], which returns the positive phase unchanged.
    """
    if kind == "none":
        return None
    if kind not in ("1x1", "3x3"):
        raise SiteError(f"compression is one of 1x1, 3x3, none, not {kind!r}")
    size = int(kind[0])
    conv = CONVOLUTIONS[dimensions(layout)](2 * channels, channels, size, padding=size // 2, bias=False)
    if init == "preserve":
        identity_(conv.weight)
    else:
        nn.init.xavier_uniform_(conv.weight)
    return conv


@torch.no_grad()
def identity_(weight: Tensor) -> None:
    """Fill a convolution weight (C, C' ≥ C, k, …) so that it returns its first C inputs."""
    channels = weight.shape[0]
    weight.zero_()
    centre(weight)[:, :channels] = torch.eye(channels, dtype=weight.dtype, device=weight.device)


def centre(weight: Tensor) -> Tensor:
    """The (C', C) view of a convolution weight (C', C, k, …) at the middle of its kernel."""
    for _ in range(weight.dim() - 2):
        weight = weight.select(-1, weight.shape[-1] // 2)
    return weight
