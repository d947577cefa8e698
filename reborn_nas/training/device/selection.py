"""Choosing a device, what it is, whether it still answers, and what an error of it means."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from reborn_nas.errors import DeviceLostError, StudyError
from reborn_nas.training.device.precision import cpu_has_bf16, resolve_precision

DRIVER = Path("/proc/driver/nvidia/version")

_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "can't allocate memory",
)
"""What the device's libraries say where torch does not raise `OutOfMemoryError`."""


def pick_device(name: str) -> tuple[str, str]:
    """The device to train on, and a note where `auto` passes over a GPU that does not work.

    Args:
        name: "auto" (the first GPU that computes, else the CPU), "cpu", "cuda", "cuda:1", "mps", "xpu".

    Raises:
        StudyError: the device is not there, or does not compute.
    """
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", name):
        raise StudyError(
            f"unknown device {name!r}; there are auto, cpu, cuda, mps and xpu, numbered as in cuda:1"
        )
    place = torch.device("cuda" if name == "auto" else name)
    fault = _fault(place)
    if not fault:
        return (place.type if name == "auto" else name), ""
    if name != "auto":
        raise StudyError(f"device {name!r}: {fault}; try --device auto")
    there = _count("cuda") or _why_not("cuda")
    return "cpu", f"training on the CPU: {fault}" if there else ""


def _fault(place: torch.device) -> str:
    """Why nothing can be computed on `place`; "" where it can."""
    count = _count(place.type)
    if not count:
        why = _why_not(place.type)
        return f"this machine has no usable {place.type} device{f' ({why})' if why else ''}"
    if (place.index or 0) >= count:
        return f"this machine has {count} {place.type} device{'s' * (count > 1)}, numbered from 0"
    try:
        probe(place)
    except Exception as error:
        return f"{place} does not compute ({first_line(error)})"
    return ""


def _count(kind: str) -> int:
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old driver: `_why_not` reports it
        return int(module.device_count()) if module is not None and module.is_available() else 0


def _why_not(kind: str) -> str:
    """Why a machine with an NVIDIA driver has no CUDA device for torch; "" where there is no driver."""
    if kind != "cuda" or not DRIVER.exists():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:
        return " ".join(str(error).split())[:300]
    return ""


def driver_version(path: Path = DRIVER) -> str:
    """The NVIDIA driver's version, such as "560.35.03"; "" where there is none."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"Kernel Module\D*?(?:x86_64|aarch64)?\s+(\d+(?:\.\d+)+)", text)
    return found[1] if found else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had too little memory: torch's own error, the driver's, or a library's."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _MEMORY)


def check_device(device: torch.device | str, error: BaseException) -> None:
    """After an error on `device`: raise DeviceLostError if the device does not compute any more.

    A CUDA context does not recover from a failed assertion or an illegal address; every later call of the process
    fails too, whatever the network. On a CPU nothing is checked.
    """
    place = torch.device(device)
    if place.type == "cpu" or is_out_of_memory(error):
        return
    try:
        probe(place)
    except Exception as fault:
        raise DeviceLostError(
            f"device {place} no longer answers in this process, after: {first_line(error)}. What is finished is "
            "kept, and the same command goes on in a new process; if that fails too, see nvidia-smi and the system log"
        ) from fault


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters; its class where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def empty_cache(device: torch.device | str) -> None:
    """Give memory that torch keeps for later back to the device."""
    empty = getattr(getattr(torch, torch.device(device).type, None), "empty_cache", None)
    if empty is not None:
        empty()


def probe(device: torch.device) -> None:
    """Compute one sum on `device` and read it. Raises what the device raises."""
    if float(torch.ones(2, device=device).sum()) != 2.0:
        raise RuntimeError(f"device {device} computes 1 + 1 wrongly")


class Survey(NamedTuple):
    """A device as it was found.

    Args:
        device: its name for torch.
        note: why `auto` passed over a GPU; "" where it did not.
        precision: of trainings on an accelerator; "" on a CPU, where it depends on the network.
        text: card, driver and arithmetic in one line.
    """

    device: str
    note: str
    precision: str
    text: str


def survey(name: str, precision: str) -> Survey:
    """Pick a device, see that it computes and has the arithmetic that was asked for.

    Raises:
        StudyError: the device is not there, or does not compute.
        TrainingError: it does not have the arithmetic.
    """
    device, note = pick_device(name)
    place = torch.device(device)
    settled = "" if place.type == "cpu" else resolve_precision(precision, place, _LARGE)
    return Survey(device, note, settled, describe(place, settled))


def describe(place: torch.device, precision: str = "") -> str:
    """Card, driver and arithmetic in one line."""
    precision = precision or resolve_precision("auto", place, _LARGE)
    if place.type == "cuda":
        card = torch.cuda.get_device_properties(place)
        free, total = torch.cuda.mem_get_info(place)
        tf32 = ", TF32 in convolutions" if has_tf32(place) and precision == "fp32" else ""
        return (
            f"{card.name} (sm_{card.major}{card.minor}), driver {driver_version() or 'unknown'}, CUDA "
            f"{torch.version.cuda}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, trains in {precision}{tf32}"
        )
    if place.type == "cpu":
        bf16 = "multiplies bf16" if cpu_has_bf16() else "without bf16"
        return f"CPU, {torch.get_num_threads()} threads, {bf16}"
    return f"{place.type}, trains in {precision}"


def has_tf32(place: torch.device) -> bool:
    """Whether fp32 convolutions on this GPU round their inputs to TF32, as torch allows by default."""
    return torch.cuda.get_device_capability(place) >= (8, 0) and bool(torch.backends.cudnn.allow_tf32)


_LARGE = nn.Linear(1000, 1000, device="meta")
