"""How many trainings one GPU should run at a time, from what the network asks of it: arithmetic, no measurement.

A kernel over a map fills a GPU when the map has elements for every thread that the GPU holds at a time. Networks whose
maps are smaller leave a part of it idle, which a second process can use where NVIDIA's Multi-Process Service lets
kernels of several processes run side by side; without it they take turns, and nothing is won. So the rule suggests more
than one slot only with that service, only as many as fit into the idle part, the memory and the host's cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ELEMENTS_A_THREAD = 8
"""Of a point-wise kernel in bf16: one access of 16 bytes."""

MAPS_A_SITE = 7
"""Maps that an all-reborn network keeps a site for the backward pass (`tests/benchmarks/memory.py`)."""

WEIGHT_BYTES = 14 * 2.3
"""A parameter of the parent costs 4 + 4 + 4 + 2 bytes, and an all-reborn network has 2.3 times as many."""

PROCESS_BYTES = 700 * 2**20
"""Of a process before its first map: CUDA's context and the libraries' workspaces, about half a GiB to one."""

MEMORY_SHARE = 0.8
MOST = 8


@dataclass(frozen=True)
class Gpu:
    """What the rule needs to know of a GPU.

    Args:
        threads: that it holds at a time: multiprocessors × threads of each.
        free_bytes: of its memory.
        shared: whether kernels of several processes run side by side (MPS).
    """

    threads: int
    free_bytes: int
    shared: bool


def filled(maps: Sequence[int], batch: int, gpu: Gpu) -> float:
    """Mean share of the GPU, in [0, 1], that the kernels of one training fill.

    Args:
        maps: elements of each site's map, of one image.
        batch: images a step.
    """
    room = gpu.threads * ELEMENTS_A_THREAD
    return sum(min(1.0, elements * batch / room) for elements in maps) / max(1, len(maps))


def suggest_slots(maps: Sequence[int], parameters: int, batch: int, gpu: Gpu, cores: int) -> int:
    """Trainings at a time on one GPU, at least 1 and at most 8.

    Args:
        maps: elements of each site's map, of one image.
        parameters: of the parent.
        batch: images a step.
        gpu: the device.
        cores: CPU cores of the host; each training keeps one busy.
    """
    if not gpu.shared or not maps:
        return 1
    idle = math.floor(1 / max(filled(maps, batch, gpu), 1e-9))
    need = PROCESS_BYTES + 2 * MAPS_A_SITE * sum(maps) * batch + WEIGHT_BYTES * parameters
    fit = math.floor(MEMORY_SHARE * gpu.free_bytes / need)
    return max(1, min(idle, fit, cores, MOST))
