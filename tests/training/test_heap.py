"""Freed memory is there for the next step, goes back at the end, and nobody's own settings are touched."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")

MIB = 2**20
SCRIPT = """
import json, resource
import torch
from reborn_nas.training.heap import kept_heap

def faults():  # of a map of 64 MiB that is made and freed, 4 KiB each
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
found = {"outside": [faults(), faults()], "begin": resident()}
with kept_heap():
    found |= {"inside": [faults(), faults()], "middle": resident()}
found |= {"after": [faults(), faults()], "end": resident()}
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
    pages = 64 * MIB // 4096
    assert min(found["outside"]) > 0.9 * pages
    assert found["inside"][1] < 0.1 * pages
    assert found["middle"] > found["begin"] + 60 * MIB
    assert found["end"] < found["begin"] + 4 * MIB
    assert found["after"][1] > 0.9 * pages  # 64 MiB are more than glibc keeps


@pytest.mark.parametrize(
    "setting", [{"MALLOC_MMAP_MAX_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}]
)
def test_who_sets_the_allocator_keeps_his_setting(setting: dict[str, str]) -> None:
    assert measure(**setting)["inside"][1] > 0.9 * 64 * MIB // 4096
