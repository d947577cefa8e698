"""The two phases of a map, and how they come together again: what CReLU, reborn and its twin share."""

# No `from __future__ import annotations` here: TorchScript cannot read annotations of functions that it leaves out as
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
"""Types that the kernels take."""


def negative_part(x: Tensor) -> Tensor:
    """−σ(−x) = min(x, 0), values and autograd's gradient alike.

    `x - relu(x)` would be NaN at +inf. At x = 0 the gradient is 0, as that of −σ(−x): an image's black background sits
    there in a fresh network whose biases are zero. `clamp(max=0)` has 1 there in torch 2.11 and 0 in 2.15.
    """
    return F.hardtanh(x, float("-inf"), 0.0)


def both_phases(x: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
    """relu(x) and min(x, 0), or relu(−x) in its place where `mirrored`.

    The rule is fixed: on an NVIDIA GPU with Triton one kernel each way, which moves 7 maps' worth of bytes where
    point-wise operations move 13; elsewhere, and where a compiler looks on, the point-wise operations.
    Modules that use this name it to `torch.fx.wrap`, so that a traced network decides by its device too.
    """
    if not torch.jit.is_scripting() and _fusible(x):  # type: ignore[attr-defined]
        return fused_phases(x, mirrored)
    return F.relu(x), F.relu(-x) if mirrored else negative_part(x)


@torch.jit.unused
def fused_phases(x: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
    """`both_phases` as one step of autograd, which saves x and nothing else."""
    found: tuple[Tensor, Tensor] = _Phases.apply(x, mirrored)  # type: ignore[no-untyped-call]
    return found


class _Phases(torch.autograd.Function):
    """By kernels where x allows it, by the point-wise operations elsewhere."""

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
    """Whether the kernels may and can take x: a plain dense CUDA tensor, nobody tracing, Triton at work there."""
    if x.device.type != "cuda" or type(x) not in (Tensor, nn.Parameter) or x.dtype not in KINDS:
        return False
    compiler: Any = torch.compiler
    functorch: Any = torch._C._functorch
    jit: Any = torch.jit
    if jit.is_tracing() or compiler.is_compiling() or functorch.is_functorch_wrapped_tensor(x):
        return False
    return is_dense(x) and kernels_work(str(x.device), x.dtype, not x.is_contiguous())


def is_dense(x: Tensor) -> bool:
    """Whether the elements of x fill its memory without gaps or overlaps, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def block_form(device: str) -> str:
    """How blocks are computed on a kind of device, in words: a study's settings keep it, as rounding depends on it."""
    if device.startswith("cpu"):
        return "transposed convolution; two compressions added, one of maps below 64 pixels"
    if device.startswith("cuda"):
        return "flipped convolution, two compressions added, fused phases"
    return "flipped convolution, two compressions added"


@functools.cache
def kernels_work(device: str, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> bool:
    """Whether the Triton kernels give the point-wise operations' numbers on `device`, tried once on a small map.

    Each type and memory order is tried by itself when a network first uses it. Where a kernel does not compile, does
    not run or gives other numbers, the slower point-wise operations are used, with a warning that gives the reason.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        fault = _kernel_fault(device, dtype, channels_last)
    except Exception as error:  # no C compiler, an unknown GPU, another Triton: there is another way
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
    """What differs from the point-wise operations on a map with zeros, infinities and a NaN; "" where nothing does."""
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

    Modules that use this name it to `torch.fx.wrap`, as its form depends on device and size: on a CPU maps of less
    than 64 pixels are concatenated, where one convolution instead of two wins 4 to 12 % of a block (measured on one
    core, batch 16); everywhere else it is the copy that costs.

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

    It has no bias: the paper names none, β of the BatchNorm before it (reborn) and the layer after it (always
    a convolution or linear, Sec. 3.1) can shift as well, and [I | 0] then is all of the preserving start.

    Args:
        kind: "1x1", "3x3" or "none"; the kernel has that extent in every dimension of the map.
        init: "xavier", or "preserve" for [I | 0], which hands the positive phase on as it is.
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
