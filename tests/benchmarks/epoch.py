"""An epoch of training: ours against the loops that people start from, for every network and batch size.

    python -m tests.benchmarks.epoch [--backbones …] [--forms …] [--batch 128 512 1024] [--seconds 540] [--json FILE]

Rivals take turns in one run: the plain loop with a DataLoader of 0, 2 and 8 workers, each in fp32 and in bf16 autocast
(AMP), timm's loop, resident images in bf16 without a graph, and ours. Images/s, seconds of 50,000 images, TFLOP/s (3 ×
2 × the MACs of a forward pass) and its share of a large bf16 matrix product measured in the same run, and the most
memory of the device that a rival takes for itself (weights, maps, graph; not the images). What has a goal comes first,
and what the time does not suffice for is named.

Arithmetic for resnet34 at 32×32 on one H200 (790 TFLOP/s bf16, 4.3 TB/s), an epoch of 50,000 images, batch 128:

| | FLOP | at the peak | floor at 45 % with its bytes | goal |
|---|---|---|---|---|
| ReLU | 348 T | 0.44 s | 1.21 s | 1.4 s |
| all reborn, k = 3 | 805 T | 1.02 s | 2.83 s | 3.2 s |

A single-process loader takes 253 µs an image: 12.7 s; two workers 6.3 s. Eager launches: 300 a step for ReLU and 900
for reborn in its literal form, 391 steps, about 6 µs each: 0.7 and 2.1 s, which a graph hides. The fused phases save
6 passes over the map of each site: 967,000 elements an image × 2 bytes × 50,000 × 6 / 4.3 TB/s = 0.13 s an epoch.
Memory, counted by `memory.py`: all reborn 3.0× ReLU, 1.95× with sparing blocks.

Goals: ReLU ≥ 8× the 0-worker loop, ≥ 4× the 2-worker loop, ≥ 1.3× resident bf16 eager; mixed ≥ 6, 3, 1.5; all reborn ≥
5, 2.5, 1.6; sparing all reborn at most 2× ReLU's memory.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import torch
from torch import nn

from reborn_nas.data import ImageSet, Resident
from tests.benchmarks.harness import Peak, Row, alternate, arguments, begin, goal, print_table, save
from tests.benchmarks.loops import LoaderLoop, OurLoop, TimmLoop, matmul_rate
from tests.benchmarks.networks import BACKBONES, FORMS, MIXES, literal, macs, network, pictures

EPOCH = 50_000
LOADERS = tuple(f"loader, {workers} workers{amp}" for workers in (0, 2, 8) for amp in ("", ", AMP"))
RIVALS = [*LOADERS, "timm, 2 workers", "resident bf16 eager", "ours"]
SPARING = "reborn k=3, sparing"
FIRST = ("ReLU", "reborn k=3", "mix 0", SPARING, *MIXES[1:])
"""Forms that have goals."""

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
    images: ImageSet,
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
    Resident(images, torch.arange(len(images.labels)), device)  # there once, and nobody's memory
    loops, memory = {}, {}
    try:
        for name in names:
            with Peak(device) as taken:
                loops[name] = rival(name, model, images, batch, device)
                loops[name](2)
            memory[name] = taken.mib
        found = alternate({n: (lambda n=n: loops[n](steps)) for n in names}, repeats=repeats, device=device)
        rows: list[Row] = []
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
        return rows
    finally:
        for loop in loops.values():
            loop.close()


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
    parser.add_argument(
        "--steps", type=int, help="batches a measurement: of 5,120 images on a GPU, 1 on a CPU"
    )
    options = parser.parse_args()
    device, until = begin(options)
    gpu = device.type == "cuda"
    backbones = options.backbones or (list(BACKBONES) if gpu else ["resnet18"])
    everything = [*FIRST, *(form for form in FORMS if form not in FIRST)]
    forms = options.forms or (everything if gpu else list(FIRST[:3]))
    batches = options.batch or ([128, 512, 1024] if gpu else [16])
    images = pictures(EPOCH if gpu else 4 * max(batches))
    peak = matmul_rate(device, torch.bfloat16)
    rows: list[Row] = []
    left = []
    for batch, backbone, form in itertools.product(batches, backbones, forms):
        if rows and time.monotonic() > until:
            left.append(f"{backbone} {form}, batch {batch}")
            continue
        steps = options.steps or (max(5, 5120 // batch) if gpu else 1)
        rows += measure(backbone, form, images, batch, options.rivals, device, options.repeats, steps, peak)
        print(f"{backbone} {form} batch {batch}: done", flush=True)
    print_table(rows, f"epochs on {device}")
    if left:
        print(
            f"\nleft out, as the time did not suffice: {len(left)} of {len(left) + len(rows) // len(options.rivals)}"
        )
    save(options.json, "epoch", rows, goals(rows), matmul_tflops=peak / 1e12, left_out=left)


def goals(rows: list[Row]) -> list[Row]:
    """The ratios at batch 128 on resnet34, its epochs in seconds and its memory; what was not measured stays open."""
    here = {
        (row["form"], row["rival"]): row
        for row in rows
        if row["backbone"] == "resnet34" and row["batch"] == 128 and row["peak MiB"] is not None
    }
    found = []
    against = ("loader, 0 workers", "loader, 2 workers", "resident bf16 eager")
    for form, wanted in GOALS.items():
        kinds = MIXES if form == "mix" else (form,)
        for other, factor in zip(against, wanted):
            ratios = [
                here[kind, "ours"]["img/s"] / here[kind, other]["img/s"]
                for kind in kinds
                if (kind, "ours") in here and (kind, other) in here
            ]
            mean = statistics.geometric_mean(ratios) if ratios else None
            found.append(goal(f"resnet34 {form}: times {other}", mean, factor))
    for form, seconds in (("ReLU", 1.4), ("reborn k=3", 3.2)):
        one = here.get((form, "ours"))
        found.append(
            goal(f"resnet34 {form}: s an epoch", one and EPOCH / one["img/s"], seconds, at_least=False)
        )
    spared, plain = here.get((SPARING, "ours")), here.get(("ReLU", "ours"))
    share = spared["peak MiB"] / plain["peak MiB"] if spared and plain else None
    found.append(goal(f"resnet34 {SPARING}: memory, times ReLU's", share, 2.0, at_least=False))
    return found


if __name__ == "__main__":
    main()
