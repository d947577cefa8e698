"""The fixed rule for the arithmetic."""

from __future__ import annotations

import pytest
import torch

from reborn_nas.errors import TrainingError
from reborn_nas.training import precision, resolve_precision


@pytest.mark.parametrize(
    ("asked", "hardware", "parameters", "expected"),
    [
        ("auto", True, precision.CPU_BF16_PARAMETERS, "bf16"),
        ("auto", True, precision.CPU_BF16_PARAMETERS - 1, "fp32"),
        ("auto", False, 10**9, "fp32"),
        ("fp32", True, 10**9, "fp32"),
        ("bf16", False, 10, "bf16"),
    ],
)
def test_on_a_cpu(
    asked: str, hardware: bool, parameters: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: hardware)
    assert resolve_precision(asked, "cpu", parameters) == expected


def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_gpu_has_bf16", lambda device: True)
    assert resolve_precision("auto", "cuda", 10) == "bf16"
    assert resolve_precision("fp32", "cuda", 10) == "fp32"
    monkeypatch.setattr(precision, "_gpu_has_bf16", lambda device: False)
    assert resolve_precision("auto", "cuda:0", 10**9) == "fp32"
    with pytest.raises(TrainingError, match="no bf16"):
        resolve_precision("bf16", "cuda:0", 10)


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
