"""Several trainings on one GPU: how many workers that makes, and how many the plan suggests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reborn_nas.study.workbench import Workbench

__all__ = ["slot_count", "slots_note"]


def slot_count(devices: Any, slots: Any) -> int | str:
    """Workers that nobody counted: one a slot of each device, "auto" where no devices are named.

    What cannot be counted is refused elsewhere.
    """
    parts = devices.split(",") if isinstance(devices, str) else devices
    if not isinstance(parts, list | tuple) or not parts:
        return "auto"
    return len(parts) * (slots if type(slots) is int and slots > 0 else 1)


def slots_note(bench: Workbench) -> str:
    """Advice for a network that leaves most of its GPU idle; "" where one training fills it, or nothing is known."""
    config = bench.config
    if not bench.device.startswith("cuda") or config.slots_per_device is not None:
        return ""
    import torch

    from reborn_nas.study.mps import has_service
    from reborn_nas.training import Gpu, available_cores, filled, parameter_count, suggest_slots

    card = torch.cuda.get_device_properties(bench.device)
    free, _ = torch.cuda.mem_get_info(bench.device)
    gpu = Gpu(card.multi_processor_count * card.max_threads_per_multi_processor, free, has_service())
    maps = [_elements(site.shape) for site in bench.sites]
    batch = bench.recipe.batch_size
    slots = suggest_slots(maps, parameter_count(bench.template), batch, gpu, available_cores())
    if slots == 1:
        return ""
    return (
        f"one training fills about {filled(maps, batch, gpu):.0%} of {card.name}: --slots-per-device {slots} trains as "
        "many at a time"
    )


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
