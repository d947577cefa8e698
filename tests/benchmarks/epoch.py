"""An epoch of training: ours against the loops that people start from, for every network and batch size.

    python -m tests.benchmarks.epoch [--backbones …] [--forms …] [--batch 128 512 1024] [--seconds 540] [--json FILE]

Rivals take turns in one run: the plain loop with a DataLoader of 0, 2 and 8 workers in fp32, with 2 in bf16 autocast,
timm's loop, resident images in bf16 without a graph, and ours. Images/s, seconds of 50,000 images, TFLOP/s (3 × 2 ×
the MACs of a forward pass) and its share of a large matrix product measured in the same run, and the peak of the
device's memory.

Arithmetic for resnet34 at 32×32 on one H200 (790 TFLOP/s bf16, 4.3 TB/s), an epoch of 50,000 images, batch 128:

| | FLOP | at the peak | floor at 45 % with its bytes | goal |
|---|---|---|---|---|
| ReLU | 348 T | 0.44 s | 1.21 s | 1.4 s |
| all reborn, k = 3 | 805 T | 1.02 s | 2.83 s | 3.2 s |

A single-process loader takes 253 µs an image: 12.7 s; two workers 6.3 s. Eager launches: 300 a step for ReLU and 900
for reborn in its literal form, 391 steps, about 6 µs each: 0.7 and 2.1 s, which a graph hides. The fused phases save
6 passes over the map of each site: 967,000 elements an image × 2 bytes × 50,000 × 6 / 4.3 TB/s = 0.13 s an epoch.
Memory: `memory.py`. Goals: ReLU ≥ 8× the 0-worker loop, ≥ 4× the 2-worker loop, ≥ 1.3× resident bf16 eager; mixed ≥
6, 3, 1.5; all reborn ≥ 5, 2.5, 1.6.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn

from reborn_nas.data import ImageSet
from tests.benchmarks.harness import Row, alternate, arguments, begin, goal, peak_memory, print_table, save
from tests.benchmarks.loops import LoaderLoop, OurLoop, TimmLoop, matmul_rate
from tests.benchmarks.networks import BACKBONES, FORMS, MIXES, literal, macs, network, pictures

EPOCH = 50_000
LOADERS = (
    "loader, 0 workers",
    "loader, 2 workers",
    "loader, 8 workers",
    "loader, 2 workers, AMP",
    "timm, 2 workers",
)
RIVALS = [*LOADERS, "resident bf16 eager", "ours"]
GOALS = {"ReLU": (8.0, 4.0, 1.3), "mix": (6.0, 3.0, 1.5), "reborn k=3": (5.0, 2.5, 1.6)}


def rival(name: str, model: nn.Module, images: ImageSet, batch: int, device: torch.device) -> Any:
    """The loop called so."""
    if name == "ours":
        return OurLoop(model, images, batch, device)
    if name == "resident bf16 eager":
        return OurLoop(model, images, batch, device, graph=False)
    if name.startswith("timm"):
        return TimmLoop(literal(model), images, batch, device)
    return LoaderLoop(literal(model), images, batch, device, int(name.split()[1]), "AMP" in name)


def measure(
    backbone: str,
    form: str,
    batch: int,
    names: list[str],
    device: torch.device,
    repeats: int,
    steps: int,
    peak: float,
) -> list[Row]:
    """One network and batch size: a row a rival."""
    model = network(backbone, form)
    work = 6 * macs(model)
    images = pictures(max(2048, 2 * batch) if device.type == "cuda" else 4 * batch)
    rows: list[Row] = []
    loops, memory = {}, {}
    try:
        for name in names:
            peak_memory(device)
            loops[name] = rival(name, model, images, batch, device)
            loops[name](2)
            memory[name] = peak_memory(device)
        found = alternate({n: (lambda n=n: loops[n](steps)) for n in names}, repeats=repeats, device=device)
        for name, timing in found.items():
            rate = batch * steps / timing.median
            rows.append(
                {
                    "backbone": backbone,
                    "form": form,
                    "batch": batch,
                    "rival": name,
                    "img/s": rate,
                    "low..high": f"{batch * steps / timing.high:.4g}..{batch * steps / timing.low:.4g}",
                    "s an epoch": EPOCH / rate,
                    "TFLOP/s": rate * work / 1e12,
                    "of matmul": rate * work / peak,
                    "peak MiB": memory[name],
                    "how": getattr(loops[name], "form", ""),
                }
            )
    finally:
        for loop in loops.values():
            loop.close()
    return rows


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, seconds=540)
    parser.add_argument("--backbones", nargs="+", help="all on a GPU, resnet18 on a CPU")
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=[*FORMS, *MIXES],
        help="all on a GPU; ReLU, reborn k=3 and one mix on a CPU",
    )
    parser.add_argument("--batch", type=int, nargs="+", help="128 512 1024 on a GPU, 16 on a CPU")
    parser.add_argument("--rivals", nargs="+", default=RIVALS, choices=RIVALS)
    parser.add_argument("--steps", type=int, help="batches a measurement: 40 on a GPU, 1 on a CPU")
    options = parser.parse_args()
    device, until = begin(options)
    gpu = device.type == "cuda"
    backbones = options.backbones or (list(BACKBONES) if gpu else ["resnet18"])
    forms = options.forms or ([*FORMS, *MIXES] if gpu else ["ReLU", "reborn k=3", "mix 0"])
    batches = options.batch or ([128, 512, 1024] if gpu else [16])
    peak = matmul_rate(device, torch.bfloat16)
    rows: list[Row] = []
    for batch in batches:
        for backbone in backbones:
            for form in forms:
                if time.monotonic() > until:
                    continue
                rows += measure(
                    backbone,
                    form,
                    batch,
                    options.rivals,
                    device,
                    options.repeats,
                    options.steps or (40 if gpu else 1),
                    peak,
                )
                print(f"{backbone} {form} batch {batch}: done", flush=True)
    print_table(rows, f"epochs on {device}")
    save(options.json, "epoch", rows, goals(rows), matmul_tflops=peak / 1e12)


def goals(rows: list[Row]) -> list[Row]:
    """The ratios at batch 128 on resnet34, and its epochs in seconds; what was not measured stays open."""
    rates = {
        (row["form"], row["rival"]): row["img/s"]
        for row in rows
        if row["backbone"] == "resnet34" and row["batch"] == 128 and row["peak MiB"] is not None
    }
    found = []
    against = ("loader, 0 workers", "loader, 2 workers", "resident bf16 eager")
    for form, wanted in GOALS.items():
        kinds = MIXES if form == "mix" else (form,)
        for other, factor in zip(against, wanted):
            ratios = [
                rates[kind, "ours"] / rates[kind, other]
                for kind in kinds
                if (kind, "ours") in rates and (kind, other) in rates
            ]
            mean = statistics.geometric_mean(ratios) if ratios else None
            found.append(goal(f"resnet34 {form}: times {other}", mean, factor))
    for form, seconds in (("ReLU", 1.4), ("reborn k=3", 3.2)):
        rate = rates.get((form, "ours"))
        found.append(
            goal(f"resnet34 {form}: s an epoch", EPOCH / rate if rate else None, seconds, at_least=False)
        )
    return found


if __name__ == "__main__":
    main()
