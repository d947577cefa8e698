"""Whether an accelerator still answers, and what an error of it means."""

from __future__ import annotations

import torch

from reborn_nas.errors import RebornError

_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
)
"""What the device's libraries say where torch does not raise `OutOfMemoryError`."""


class DeviceLostError(RebornError, RuntimeError):
    """The accelerator no longer answers in this process: a failed assertion, an illegal address, a hardware fault."""


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
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DeviceLostError(
            f"device {place} no longer answers in this process after: {first[:200]}. A new process can use it again; "
            "if that fails too, see `nvidia-smi` and the system log"
        ) from fault


def probe(device: torch.device) -> None:
    """Compute one sum on `device` and read it. Raises what the device raises."""
    if float(torch.ones(2, device=device).sum()) != 2.0:
        raise RuntimeError(f"device {device} computes 1 + 1 wrongly")
