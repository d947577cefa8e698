"""How many CPU cores there are for this process, and how workers share them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""A container's quota: microseconds of CPU time, or "max", and in how many microseconds."""

MEMORY = Path("/proc/meminfo")
MEMORY_LIMIT = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its container's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    try:
        quota, period = LIMIT.read_text().split()[:2]
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or no limit
        pass
    return max(1, cores)


def available_memory() -> int | None:
    """Bytes that processes may still take: what is free, and no more than the container leaves; None if unknown."""
    found = []
    try:
        lines = MEMORY.read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    try:
        most = (MEMORY_LIMIT / "memory.max").read_text().strip()
        found.append(int(most) - int((MEMORY_LIMIT / "memory.current").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return max(0, min(found)) if found else None


def threads_each(workers: int) -> int:
    """CPU threads of one of `workers` processes: an equal share of the cores, at least one."""
    return max(1, available_cores() // max(1, workers))


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` CPU threads inside; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
