"""Freed memory is there for the next step, goes back at the end, and nobody's own settings are touched."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="glibc's allocator",
)

MIB = 2**20
SCRIPT = """
import ctypes, json, os
import torch
from reborn_nas.training.device.cpu import kept_heap

NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info

def resident():  # bytes that the process has of the machine; free space of the heap counts until it is given back
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def step():  # bytes that the system lends for a map of 64 MiB alone, and those that are kept when it is freed
    mapped = mallinfo2().hblkhd
    made = torch.ones(16 << 20)
    during = mallinfo2().hblkhd
    del made
    return [during - mapped, resident() - start]

torch.set_num_threads(1)
torch.ones(16 << 20)
start = resident()
found = {"outside": step()}
with kept_heap():
    found["inside"] = step()
found |= {"end": [0, resident() - start], "after": step()}
print(json.dumps(found))
"""


def measure(**environment: str) -> dict[str, list[int]]:
    path = os.pathsep.join(p for p in sys.path if p)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**own, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


def test_what_is_freed_stays_for_the_next_step_and_goes_back_at_the_end() -> None:
    found = measure()
    assert found["outside"][0] >= 64 * MIB
    assert found["outside"][1] < 32 * MIB
    assert found["inside"][0] == 0, "from the heap"
    assert found["inside"][1] >= 56 * MIB, "kept for the next step"
    assert found["end"][1] < 32 * MIB, "given back"
    assert found["after"][1] < 32 * MIB


@pytest.mark.parametrize(
    "setting", [{"MALLOC_MMAP_MAX_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}]
)
def test_who_sets_the_allocator_keeps_his_setting(setting: dict[str, str]) -> None:
    assert measure(**setting)["inside"][0] >= 64 * MIB
