"""All benchmarks that fit this machine and the time there is.

    python -m tests.benchmarks --minutes 9 [--out DIR] [--only epoch block]

Each runs in a process of its own with a share of the time; after it, it begins nothing new, and is ended at twice its
share (at two minutes where that is longer). With `--out` the figures are written there as JSON, with the hardware in
the file name. No network is used.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.benchmarks.harness import hardware_slug

GPU = {"memory": 1, "step_overhead": 3, "block": 3, "epoch": 8, "trials_per_hour": 5}
CPU = {"memory": 1, "step_overhead": 3, "block": 2, "cpu": 5, "trials_per_hour": 1}
"""Benchmark → share of the time."""

SHORT = {
    "block": ["--batch", "8"],
    "cpu": ["--batch", "8", "--backbones", "convnet8", "resnet18"],
    "memory": ["--batch", "128"],
    "trials_per_hour": ["--trials", "10"],
}
"""Smaller problems for a CPU."""

LONG = ("time_to_accuracy",)
"""Run by name only: they take an hour and need data."""

LEAST = 120.0
"""Seconds that a benchmark has in any case: its start, and one figure with five repeats."""


def main() -> int:
    """Run them one after another; 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, help="folder for the JSON files")
    parser.add_argument("--only", nargs="+", choices=sorted({*GPU, *CPU, *LONG}))
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    shares = GPU if gpu else CPU
    if options.only:
        shares = {name: shares.get(name, 5) for name in options.only}
    slug, end = hardware_slug(), time.monotonic() + 60 * options.minutes
    failed = []
    left = dict(shares)
    while left:
        name = next(iter(left))
        seconds = max(10.0, (end - time.monotonic()) * left[name] / sum(left.values()))
        del left[name]
        command = [sys.executable, "-m", f"tests.benchmarks.{name}"]
        if name != "memory":
            command += ["--seconds", f"{seconds:.0f}"]
        command += [] if gpu else SHORT.get(name, [])
        if options.out:
            command += ["--json", str(options.out / f"{slug}-{name.replace('_', '-')}.json")]
        print(f"\n== {name} ({seconds:.0f} s)", flush=True)
        try:
            code = subprocess.run(command, timeout=max(LEAST, 2 * seconds)).returncode
        except subprocess.TimeoutExpired:
            code = -1
            print(f"{name} was ended: it took more than twice its share of the time", file=sys.stderr)
        failed += [name] if code else []
    if not options.only:
        print(f"\nby name only (--only): {', '.join(LONG)}; and step_overhead with --compile")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
