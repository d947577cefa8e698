"""Which device is chosen, what an error of it means, and that a broken one costs no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reborn_nas.errors import DeviceLostError, StudyError
from reborn_nas.training.device import selection as device
from reborn_nas.training.device.selection import check_device, driver_version, is_out_of_memory, pick_device


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, fault: str = "") -> None:
    """As on a machine with `count` GPUs, on which computing raises `fault`."""

    def probe(place: torch.device) -> None:
        if fault and place.type == "cuda":
            raise torch.AcceleratorError(fault) if hasattr(torch, "AcceleratorError") else RuntimeError(fault)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(device, "probe", probe)


def test_auto_takes_the_gpu_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("auto") == ("cpu", "")
    gpus(monkeypatch, 2)
    assert pick_device("auto") == ("cuda", "")
    assert pick_device("cuda:1") == ("cuda:1", "")


def test_a_card_that_the_wheel_was_not_built_for_is_passed_over_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus(
        monkeypatch,
        1,
        "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might",
    )
    reason = "cuda does not compute (CUDA error: no kernel image is available for execution on the device)"
    assert pick_device("auto") == ("cpu", f"training on the CPU: {reason}")
    with pytest.raises(StudyError) as refused:
        pick_device("cuda")
    assert str(refused.value) == f"device 'cuda': {reason}; try --device auto"


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "mps", "xpu"):
        with pytest.raises(
            StudyError, match=f"device '{name}': this machine has no usable {name} device; try"
        ):
            pick_device(name)
    gpus(monkeypatch, 2)
    with pytest.raises(
        StudyError, match=r"device 'cuda:7': this machine has 2 cuda devices, numbered from 0"
    ):
        pick_device("cuda:7")


def test_an_old_driver_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    there = tmp_path / "version"
    there.write_text("")
    monkeypatch.setattr(device, "DRIVER", there)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", old)
    assert "driver on your system is too old (found version 11040)" in pick_device("auto")[1]
    with pytest.raises(StudyError, match="too old"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n",
            "535.104.05",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build\nGCC version: 12.3.0\n",
            "560.35.03",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  570.86.15  Release Build\n", "570.86.15"),
        ("", ""),
    ],
)
def test_the_drivers_version(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == expected
    assert driver_version(tmp_path / "absent") == ""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (
            RuntimeError("err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_an_error_is_the_networks_as_long_as_the_device_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")
    gpus(monkeypatch, 1)
    check_device("cuda", error)
    gpus(monkeypatch, 1, "CUDA error: device-side assert triggered")
    check_device("cpu", error)
    check_device("cuda", torch.OutOfMemoryError("CUDA out of memory"))  # the card of somebody else
    with pytest.raises(DeviceLostError, match="no longer answers in this process, after: CUDA error: device"):
        check_device("cuda", error)


def test_the_cpu_computes() -> None:
    device.probe(torch.device("cpu"))


def test_a_wrong_sum_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(*_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(2)

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(RuntimeError, match="computes 1 \\+ 1 wrongly"):
        device.probe(torch.device("cpu"))
