"""In which arithmetic a network is trained on a device."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from reborn_nas.errors import TrainingError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of the autocast arithmetics."""

FP16_CAPABILITY = (7, 0)
"""Compute capability from which NVIDIA's GPUs multiply fp16 in tensor cores (Volta, Turing)."""

CPU_BF16_PARAMETERS = 100_000
"""On a CPU with bf16 instructions, networks from this many parameters on are faster in bf16 than in fp32."""


def resolve_precision(precision: str, device: torch.device | str, model: nn.Module) -> str:
    """The arithmetic for "auto", by a fixed rule: it must not change within a comparison.

    A GPU that has bf16 uses it; an older one with tensor cores (Volta, Turing) uses fp16 with loss scaling. A CPU uses
    bf16 where it has AVX512-BF16 or AMX and `model` gains by it: a network of
    100,000 parameters or more without depthwise convolutions. Measured on one core with AVX512-BF16, batch 64 at
    32×32, a step is 1.3 to 2.1 times faster (resnet18, densenet121, regnetx_002, convnet8, five convolutions); small
    networks and convnext_atto gain nothing; mobilenetv2, mobilenetv3 and efficientnet_b0 take 1.3 times as long.

    A study resolves this once, by its parent network, and passes the result on, so that no trial differs from another
    in it.

    Args:
        precision: "auto", "fp32", "bf16" or "fp16".
        model: the network, or its template on the meta device.

    Raises:
        TrainingError: the device does not have the arithmetic that was asked for.
    """
    place = torch.device(device)
    if precision != "auto":
        if precision == "bf16" and place.type == "cuda" and not _gpu_has_bf16(place):
            raise TrainingError(
                f"precision bf16: {torch.cuda.get_device_name(place)} ({place}) has no bf16 arithmetic; choose fp16, "
                "fp32 or auto"
            )
        if precision == "fp16" and place.type not in ("cpu", "cuda"):
            raise TrainingError(
                f"precision fp16: loss scaling needs torch's fused optimisers, which {place.type} does not have; "
                "choose bf16, fp32 or auto"
            )
        return precision
    if place.type == "cuda":
        return _best_of_gpu(place)
    if place.type == "cpu" and _gains_on_cpu(model) and cpu_has_bf16():
        return "bf16"
    return "fp32"


def _gains_on_cpu(model: nn.Module) -> bool:
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    depthwise = any(m.groups > 1 and m.groups == m.in_channels for m in convolutions)
    return parameter_count(model) >= CPU_BF16_PARAMETERS and not depthwise


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    cpu: Any = torch.cpu
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(cpu, check)()) for check in checks if hasattr(cpu, check))


def _gpu_has_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _best_of_gpu(device: torch.device) -> str:
    if _gpu_has_bf16(device):
        return "bf16"
    return "fp16" if torch.cuda.get_device_capability(device) >= FP16_CAPABILITY else "fp32"


def arithmetic(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context in which a forward pass runs.

    The cache of cast weights is off: a weight is used once a step, and a captured graph must not read the cache
    of another.
    """
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, HALF[precision], cache_enabled=False)


def parameter_count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
