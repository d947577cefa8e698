"""The fixed rule for the arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reborn_nas.errors import TrainingError
from reborn_nas.training import resolve_precision
from reborn_nas.training.device import precision

SMALL = nn.Conv2d(3, 8, 3)
LARGE = nn.Linear(1000, 100)  # 100,100 parameters
DEPTHWISE = nn.Sequential(LARGE, nn.Conv2d(8, 8, 3, groups=8))
GROUPED = nn.Sequential(LARGE, nn.Conv2d(8, 8, 3, groups=2))


@pytest.mark.parametrize(
    ("asked", "hardware", "model", "expected"),
    [
        ("auto", True, LARGE, "bf16"),
        ("auto", True, GROUPED, "bf16"),
        ("auto", True, SMALL, "fp32"),
        ("auto", True, DEPTHWISE, "fp32"),
        ("auto", False, LARGE, "fp32"),
        ("fp32", True, LARGE, "fp32"),
        ("bf16", False, SMALL, "bf16"),
    ],
)
def test_on_a_cpu(
    asked: str, hardware: bool, model: nn.Module, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: hardware)
    assert resolve_precision(asked, "cpu", model) == expected


def test_a_template_on_the_meta_device_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    assert resolve_precision("auto", "cpu", nn.Linear(1000, 100, device="meta")) == "bf16"


def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_gpu_has_bf16", lambda device: True)
    assert resolve_precision("auto", "cuda", SMALL) == "bf16"
    assert resolve_precision("fp32", "cuda", SMALL) == "fp32"
    monkeypatch.setattr(precision, "_gpu_has_bf16", lambda device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    for capability, expected in (((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert resolve_precision("auto", "cuda:0", LARGE) == expected
    with pytest.raises(
        TrainingError, match=r"Tesla T4 \(cuda:0\) has no bf16 arithmetic; choose fp16, fp32 or auto"
    ):
        resolve_precision("bf16", "cuda:0", SMALL)


def test_elsewhere() -> None:
    for device in ("mps", "xpu"):
        assert resolve_precision("auto", device, LARGE) == "fp32"
        with pytest.raises(TrainingError, match="fused optimisers"):
            resolve_precision("fp16", device, LARGE)


def test_the_hardware_test_agrees_with_the_kernel() -> None:
    try:
        with open("/proc/cpuinfo") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "").split()
    except OSError:
        pytest.skip("no /proc/cpuinfo")
    if not flags:
        pytest.skip("no CPU flags listed")
    expected = "avx512_bf16" in flags or "amx_tile" in flags
    assert precision.cpu_has_bf16() == expected


def test_fp32_arithmetic_is_plain() -> None:
    with precision.arithmetic("fp32", torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
    with precision.arithmetic("bf16", torch.device("cpu")):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert not torch.is_autocast_cache_enabled()
