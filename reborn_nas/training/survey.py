"""What a device is and trains in, without a network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from reborn_nas.training.device import driver_version, pick_device
from reborn_nas.training.precision import cpu_has_bf16, resolve_precision


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
