"""What a newcomer waits for, beside what it was: `python -m tests.benchmarks.first_hour`; `--tests` runs the suite too.

In the environment at hand, in a folder of its own. CPU time and memory are those of all processes of a command, memory
that of the largest. "Before" was measured on two cores of an AMD EPYC without bf16, idle, and not by this script.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = "runs/convnet5-digits"


@dataclass(frozen=True)
class Cost:
    """Of one command: seconds until its first output and its end, CPU seconds, megabytes of its largest process."""

    first: float
    wall: float
    cpu: float
    megabytes: float


def cost(words: list[str], folder: Path, expected: int = 0) -> Cost:
    """Run `words` in `folder`. Raises RuntimeError where the exit code is another."""
    read, write = os.pipe()
    began = time.perf_counter()
    process = subprocess.Popen(words, cwd=folder, stdout=write, stderr=write)
    os.close(write)
    said = os.read(read, 65536)
    first = time.perf_counter() - began
    while block := os.read(read, 65536):
        said = (said + block)[-20_000:]
    os.close(read)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expected:
        raise RuntimeError(f"{words} ended with {process.returncode}:\n{said.decode(errors='replace')}")
    return Cost(first, wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def together(*costs: Cost) -> Cost:
    """Commands that follow each other."""
    return Cost(
        costs[0].first,
        sum(one.wall for one in costs),
        sum(one.cpu for one in costs),
        max(one.megabytes for one in costs),
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tests", action="store_true", help="also the README's test command")
    options = parser.parse_args()
    command = [sys.executable, "-m", "reborn_nas.cli.main"]
    rows: list[tuple[str, str, str, Cost]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # what a fresh environment compiles once is not what a command costs
        cost([*command, "sites"], folder)
        for words, expected in (("--help", 0), ("--version", 0), ("serach", 2), ("search --help", 0)):
            found = cost([*command, *words.split()], folder, expected)
            rows.append((f"reborn-nas {words}", "6.8 CPU s, 854 MB", "≤ 0.5 s, ≤ 80 MB", found))
        sites = cost([*command, "sites", "--backbone", "resnet34"], folder)
        rows.append(("reborn-nas sites --backbone resnet34", "8.6 s", "≤ 4 s", sites))
        search = cost([*command, "search"], folder)
        export = cost([*command, "export", RUN, "--out", "my-model"], folder)
        rows.append(("search, report and export", "171 to 182 s", "≤ 60 s", together(search, export)))
        life = f"{search.first:.2f} s"
    if options.tests:
        suite = cost([sys.executable, "-m", "pytest", "-q"], ROOT)
        rows.append(("python -m pytest", "957 s, 2 failed", "≤ 360 s", suite))
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
          f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}\n")  # fmt: skip
    print("| | before | goal | wall, s | CPU, s | peak, MB |\n|---|---|---|---|---|---|")
    for name, before, goal, one in rows:
        print(f"| {name} | {before} | {goal} | {one.wall:.2f} | {one.cpu:.2f} | {one.megabytes:.0f} |")
    print(f"| first line of `search` | 25 s on a busy machine | ≤ 1 s | {life} | | |")


if __name__ == "__main__":
    main()
