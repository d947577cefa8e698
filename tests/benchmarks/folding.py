"""What folding wins at inference on one CPU thread: the block, and a whole reborn ResNet-18.

    python -m tests.benchmarks.folding [--repeats 9] [--batch 32] [--only "block k=3" resnet18] [--json FILE]

Rivals alternate within one run; a figure is the median of the repeats in CPU time (on one thread that is the time of
an idle machine, and others on a busy one disturb it less), its spread the quartiles. The arithmetic:
at C = 64, k = 3 the block takes (9 + 2)·C² MACs a pixel unfolded and (9 + 1)·C² folded, so that only 1.1× of what is
won is fewer MACs; the rest is memory traffic (BatchNorm, one 1×1 convolution, relu(x), the temporaries between them).
Goals: folded block ≥ 1.5× unfolded; folded network ≥ 1.15× unfolded and ≤ 2.6× the time of the ReLU network (its MACs
are about 2.1×). Whether they are met depends on the CPU; the table says so for the one at hand. `fold` leaves the
memory format alone, the card of a folded export names channels_last: both stand beside the unfolded network's.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from torch import nn

from reborn_nas.activations import Reborn, fold
from tests.benchmarks.networks import LiteralReborn, literal

Timing = dict[str, float]
LAST = ", channels_last"
GOALS = {
    "block k=3": ("unfolded", "folded", 1.5, "≥"),
    "resnet18": ("unfolded", "folded", 1.15, "≥"),
    "resnet18 against Eq. 2": ("Eq. 2, literal", "folded", 1.15, "≥"),
    "resnet18 in channels_last": ("unfolded", "folded" + LAST, 1.15, "≥"),
    "resnet18 against ReLU": ("folded", "ReLU", 2.6, "≤"),
}


def processor() -> str:
    """The CPU's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def alternate(rivals: dict[str, Callable[[], object]], repeats: int, warmup: int = 2) -> dict[str, Timing]:
    """CPU milliseconds of each rival: median and quartiles over `repeats` rounds in which each runs once."""
    for _ in range(warmup):
        for run in rivals.values():
            run()
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, run in rivals.items():
            start = time.process_time()
            run()
            taken[name].append(1e3 * (time.process_time() - start))
    found = {}
    for name, values in taken.items():
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        found[name] = {"median_ms": median, "low_ms": low, "high_ms": high, "fastest_ms": min(values)}
    return found


def block_rivals(kernel_size: int, batch: int, channels_last: bool) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    form = torch.channels_last if channels_last else torch.contiguous_format
    block = Reborn(64, kernel_size=kernel_size).eval().to(memory_format=form)
    folded = fold(block).to(memory_format=form)
    x = torch.randn(batch, 64, 32, 32).contiguous(memory_format=form)
    if not torch.allclose(folded(x), block(x), rtol=1e-4, atol=1e-4):
        raise AssertionError("the folded block computes something else")
    return {
        "Eq. 2, literal": partial(LiteralReborn(block), x),
        "unfolded": lambda: block(x),
        "folded": lambda: folded(x),
    }


def network_rivals(batch: int) -> dict[str, Callable[[], object]]:
    from reborn_nas.backbone import build, convert, resolve

    torch.manual_seed(0)
    relu: nn.Module = build(resolve("resnet18", input_size=(3, 32, 32), num_classes=10)).eval()
    reborn = convert(relu, "reborn", input_size=(3, 32, 32)).eval()
    networks = {"ReLU": relu, "ReLU, folded": fold(relu), "unfolded": reborn, "folded": fold(reborn)}
    networks["Eq. 2, literal"] = literal(reborn)
    for name, network in list(networks.items()):
        networks[name + LAST] = deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, 32, 32)
    for name in ("folded", "folded" + LAST):
        if not torch.allclose(networks[name](x), reborn(x), rtol=1e-3, atol=1e-4):
            raise AssertionError(f"the {name} network computes something else")
    return {name: partial(network, x) for name, network in networks.items()}


def measure(batch: int, repeats: int, only: list[str]) -> dict[str, dict[str, Timing]]:
    """All tables, or `only` some: name → rival → timing; each is printed as soon as it is there."""
    makers: dict[str, Callable[[], dict[str, Callable[[], object]]]] = {}
    for kernel_size in (1, 3, 5):
        for last in (False, True):
            name = f"block k={kernel_size}" + (", channels_last" if last else "")
            makers[name] = partial(block_rivals, kernel_size, batch, last)
    makers["resnet18"] = partial(network_rivals, batch)
    chosen = {name: make for name, make in makers.items() if name in (only or makers)}
    with torch.inference_mode():
        return {name: show(name, alternate(make(), repeats)) for name, make in chosen.items()}


def show(name: str, table: dict[str, Timing]) -> dict[str, Timing]:
    """Print one table and hand it on."""
    for rival, timing in table.items():
        ratio = table["unfolded"]["median_ms"] / timing["median_ms"]
        spread = f"{timing['low_ms']:.1f}–{timing['high_ms']:.1f}"
        print(
            f"{name:24} {rival:28} {timing['median_ms']:8.1f} ms  ({spread:>13})  {ratio:5.2f}× unfolded",
            flush=True,
        )
    return table


def verdicts(tables: dict[str, dict[str, Timing]]) -> list[dict[str, object]]:
    """Each goal with the ratio that was measured and whether that meets it."""
    rows: list[dict[str, object]] = []
    for goal, (slow, fast, limit, sign) in GOALS.items():
        table = tables.get(re.split(" against| in", goal)[0])
        if table is None:
            continue
        ratio = table[slow]["median_ms"] / table[fast]["median_ms"]
        met = ratio >= limit if sign == "≥" else ratio <= limit
        rows.append(
            {"goal": f"{goal}: {slow} / {fast} {sign} {limit}", "measured": round(ratio, 3), "met": met}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--only", nargs="+", default=[], metavar="TABLE", help="these tables alone")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hardware = {
        "cpu": processor(),
        "threads": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(
        " · ".join(f"{key} {value}" for key, value in hardware.items()),
        f"· batch {arguments.batch}, 32×32, float32",
    )
    tables = measure(arguments.batch, max(arguments.repeats, 5), arguments.only)
    goals = verdicts(tables)
    for row in goals:
        print(f"{row['goal']}: measured {row['measured']}, {'met' if row['met'] else 'not met'}")
    if arguments.json:
        result = {"hardware": hardware, "batch": arguments.batch, "tables": tables, "goals": goals}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
