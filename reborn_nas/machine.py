"""The cores and memory that this process may use, within the limits of its container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["available_cores", "available_memory"]

LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""A container's quota: microseconds of CPU time, or "max", and the period in microseconds."""

MEMORY = Path("/proc/meminfo")
MEMORY_LIMIT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Cores that this process may use: those in its affinity mask, at most the quota of its container."""
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
    """Bytes that this process may still allocate; None if unknown.

    The minimum of the machine's free memory, the rest of each control group around the process (versions 1 and 2; files
    that a group caches count as free, since they are dropped), and the rest of `ulimit -v`.
    """
    found = []
    try:
        lines = MEMORY.read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    for folder, limit, usage, kept in _groups():
        try:
            most = int((folder / limit).read_text())
            found.append(most - int((folder / usage).read_text()) + _kept_files(folder, kept))
        except (OSError, ValueError):  # no such file, or "max"
            pass
    if resource is not None:
        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            try:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                found.append(most - pages * os.sysconf("SC_PAGE_SIZE"))
            except (OSError, ValueError):
                pass
    return max(0, min(found)) if found else None


def _groups() -> Iterator[tuple[Path, str, str, str]]:
    """The control groups around this process, from its own to the root, with the names of their files."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        own = path.strip("/")
        chain = [own, *(str(parent) for parent in Path(own).parents)] if own else ["."]
        for place in chain:
            if not controllers:
                yield MEMORY_LIMIT / place, "memory.max", "memory.current", ""
            elif "memory" in controllers.split(","):
                folder = MEMORY_LIMIT / "memory" / place
                yield folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"


def _kept_files(folder: Path, prefix: str) -> int:
    """Bytes of files that a control group caches."""
    try:
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        names = (f"{prefix}inactive_file", f"{prefix}active_file")
        return sum(int(row[1]) for row in rows if row and row[0] in names)
    except (OSError, ValueError, IndexError):
        return 0
