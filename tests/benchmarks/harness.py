"""What all benchmarks share: rivals that take turns, medians with their spread, the machine in words, table and JSON.

A figure is the median over rounds in which every rival runs once, in an order that is turned round each time, so that
a machine that becomes slower or warmer does so for all; its spread is the quartiles. On a GPU a measurement ends when
the device is done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

Row = dict[str, Any]
LEAST_REPEATS = 5


@dataclass(frozen=True)
class Timing:
    """Seconds of one rival: the median of its repeats, their quartiles and the fastest."""

    median: float
    low: float
    high: float
    fastest: float
    repeats: int

    def over(self, count: float) -> Timing:
        """The same for one of `count` equal parts."""
        parts = (value / count for value in (self.median, self.low, self.high, self.fastest))
        return Timing(*parts, self.repeats)

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Of measured seconds, at least one."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0], seconds[0], 1)
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high, min(seconds), len(seconds))


def synchronise(device: torch.device | str = "cpu") -> None:
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def alternate(
    rivals: Mapping[str, Callable[[], object]],
    *,
    repeats: int = LEAST_REPEATS,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    deadline: float | None = None,
) -> dict[str, Timing]:
    """Seconds of each rival over `repeats` rounds.

    Args:
        clock: `time.perf_counter`, or `time.process_time` where one thread of a busy machine is timed.
        deadline: of `time.monotonic`, after which no round begins once there are five.
    """
    for _ in range(warmup):
        for run in rivals.values():
            run()
            synchronise(device)
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for name in turns(list(rivals), repeats, deadline):
        synchronise(device)
        start = clock()
        rivals[name]()
        synchronise(device)
        taken[name].append(clock() - start)
    return {name: Timing.of(seconds) for name, seconds in taken.items()}


def turns(names: Sequence[str], repeats: int, deadline: float | None = None) -> Iterator[str]:
    """Whose turn it is: each once a round, in an order that is turned round each time."""
    for turn in range(max(repeats, LEAST_REPEATS)):
        if deadline is not None and time.monotonic() > deadline and turn >= LEAST_REPEATS:
            return
        yield from names if turn % 2 == 0 else reversed(names)


def paired(gap: Any, digits: int | None = None) -> tuple[float, float, float]:
    """Mean of paired differences (N,) and its 95 % t-interval, rounded where `digits` is given."""
    from scipy.stats import t

    values = np.asarray(gap, dtype=np.float64)
    mean = float(values.mean())
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    found = mean, mean - half, mean + half
    return (
        found
        if digits is None
        else (round(found[0], digits), round(found[1], digits), round(found[2], digits))
    )


def processor() -> str:
    """The CPU's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def hardware() -> Row:
    """The machine and the versions: what a figure is worth nothing without. No names of hosts, no paths."""
    import optuna
    import timm
    import torchvision

    from reborn_nas.training import available_cores, cpu_has_bf16

    found: Row = {
        "cpu": processor(),
        "cores": available_cores(),
        "load": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "cpu_bf16": cpu_has_bf16(),
        "gpu": None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "optuna": optuna.__version__,
    }
    if torch.cuda.is_available():
        found |= {
            "gpu": torch.cuda.get_device_name(0),
            "gpus": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
            "gpu_memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30),
        }
    return found


def hardware_slug() -> str:
    """The machine in a file name: `cpu-amd-epyc-2core`, `gpu-nvidia-h200`."""
    if torch.cuda.is_available():
        words = f"gpu {torch.cuda.get_device_name(0)}"
    else:
        from reborn_nas.training import available_cores

        words = f"cpu {processor()} {available_cores()}core"
    kept = "".join(c if c.isalnum() else " " for c in words.lower()).split()
    return "-".join(word for word in kept if word not in ("r", "tm", "processor"))


def goal(name: str, measured: float | None, wanted: float, *, at_least: bool = True) -> Row:
    """A goal and whether it is met; not measured where `measured` is None."""
    sign = "≥" if at_least else "≤"
    met = None if measured is None else (measured >= wanted if at_least else measured <= wanted)
    shown = None if measured is None else round(measured, 3)
    return {"goal": f"{name} {sign} {wanted:g}", "measured": shown, "met": met}


def print_table(rows: Sequence[Row], title: str) -> None:
    """Rows as a table of the first row's columns and whatever later ones add."""
    print(f"\n{title}")
    if not rows:
        print("  (nothing)")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    shown = [[_word(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[k]) for line in shown)) for k, column in enumerate(columns)]
    for line in [columns, *shown]:
        print("  " + "  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip())


def _word(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def save(path: Path | None, name: str, rows: Sequence[Row], goals: Sequence[Row], **more: Any) -> None:
    """Print the goals and the machine; write all to `path` where one is given."""
    machine = hardware()
    if goals:
        print_table(goals, "goals")
    print("\n" + " · ".join(f"{key} {value}" for key, value in machine.items() if value is not None))
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"benchmark": name, "hardware": machine, **more, "rows": list(rows), "goals": list(goals)}
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def arguments(doc: str | None, *, seconds: float = 120.0) -> argparse.ArgumentParser:
    """The arguments that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=(doc or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=seconds, help="begin nothing new after so long")
    parser.add_argument("--repeats", type=int, default=LEAST_REPEATS, help="rounds, at least 5")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores where not given")
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser


def begin(options: argparse.Namespace) -> tuple[torch.device, float]:
    """The device and the time at which nothing new is begun, with the threads set.

    On a GPU cuDNN tries its kernels for every rival: the scripts that people start from ask for that, as we do.
    """
    from reborn_nas.training import available_cores

    torch.set_num_threads(options.threads or available_cores())
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    return device, time.monotonic() + options.seconds


class Peak:
    """What the device held at most within, above what it held before: `mib`, None where nobody counts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mib: float | None = None

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            self._before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.mib = (torch.cuda.max_memory_allocated(self.device) - self._before) / 2**20
