"""Training on a CPU: ours against the literal loop, in images a second, on every kind of network.

    python -m tests.benchmarks.cpu [--threads 2] [--clock wall] [--seconds 300] [--json FILE]

The literal loop is what people start from: torchvision's transforms an image at a time in a DataLoader, fp32, Eq. 2
as it is written, `.item()` each step. Ours: resident uint8 images, one gather for crop and flip, bf16 where the CPU
has the instructions and the parent gains by it (`resolve_precision`), the split form of the block, freed memory kept
(`kept_heap`). A third rival is the literal loop with freed memory kept, which its users could have by environment
variables: what is left is the rest of ours. Each is a process of its own, as a heap that another has grown would help.

Arithmetic: a ResNet-18 step takes 36 ms an image in fp32 (27.8 images/s and core) and 18 ms in bf16; crop, flip,
conversion and normalisation take 0.25 ms an image in the loader, about 0.02 ms in the gather; a step of ConvNet-8
(mix 5, batch 64) takes 13,000 to 16,000 page faults where freed memory goes back, 40 to 100 where it is kept: measured,
84 to 90 ms against 69 to 71. So bf16 is most of it, and on a CPU
without it ours can win a few per cent to a quarter. Goals: at least 1.5× on the mixed list where the CPU has
AVX512-BF16; on any CPU never slower on any entry.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import Any

import torch

from reborn_nas.training import cpu_has_bf16, resolve_precision
from tests.benchmarks.apart import CLOCKS, Apart, Make, alternate_apart
from tests.benchmarks.harness import Row, Timing, arguments, begin, goal, print_table, save
from tests.benchmarks.loops import LoaderLoop, OurLoop
from tests.benchmarks.networks import FORMS, MIXES, literal, network, parent, pictures

CPU = torch.device("cpu")


def make_literal(backbone: str, form: str, batch: int, precision: str) -> LoaderLoop:
    """The literal loop, in fp32 whatever `precision` is."""
    return LoaderLoop(literal(network(backbone, form)), pictures(max(256, 4 * batch)), batch, CPU)


def make_ours(backbone: str, form: str, batch: int, precision: str) -> OurLoop:
    """What `train` does."""
    images = pictures(max(256, 4 * batch))
    return OurLoop(network(backbone, form), images, batch, CPU, precision=precision)


RIVALS: dict[str, tuple[Make, bool]] = {
    "literal": (make_literal, False),
    "literal, heap kept": (make_literal, True),
    "ours": (make_ours, True),
}
"""Name → what makes the loop, and whether freed memory stays with the process."""


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, seconds=300)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "convnet8"])
    parser.add_argument("--forms", nargs="+", choices=[*FORMS, *MIXES], default=[*FORMS, *MIXES])
    parser.add_argument(
        "--batch", type=int, default=64, help="a recipe's is 64 to 128; small ones weigh the optimiser more"
    )
    parser.add_argument(
        "--clock", default="wall", choices=list(CLOCKS), help="cpu: of one busy machine's thread"
    )
    parser.add_argument(
        "--precision", default="auto", choices=["auto", "fp32"], help="fp32: as a CPU without bf16"
    )
    options = parser.parse_args()
    _, until = begin(options)
    rows: list[Row] = []
    with ExitStack() as stack:
        settings: dict[str, Any] = {"threads": torch.get_num_threads(), "clock": options.clock}
        rivals = {
            name: stack.enter_context(Apart(make, keep=keep, **settings))
            for name, (make, keep) in RIVALS.items()
        }
        for backbone in options.backbones:
            # as in a study: settled once by the parent, for all of its networks
            precision = resolve_precision(options.precision, CPU, parent(backbone))
            for form in options.forms:
                if time.monotonic() > until:
                    break
                for rival in rivals.values():
                    rival.build(backbone, form, options.batch, precision)
                found, steps = alternate_apart(rivals, repeats=options.repeats)
                line = row(backbone, form, precision, options.batch, found)
                rows.append({**line, "steps a turn": steps})
                print(f"{backbone} {form}: {rows[-1]['faster']:.3g}×", flush=True)
    print_table(
        rows,
        f"training on {options.threads or 'all'} CPU threads, batch {options.batch}, {options.clock} time",
    )
    save(options.json, "cpu", rows, goals(rows), clock=options.clock, batch=options.batch)


def row(backbone: str, form: str, precision: str, batch: int, found: dict[str, Timing]) -> Row:
    """Images a second of each rival, and how many times as many ours trains."""
    line: Row = {"backbone": backbone, "form": form, "precision": precision}
    for name, timing in found.items():
        line[f"{name} img/s"] = batch / timing.median
        line[f"{name} low..high"] = f"{batch / timing.high:.3g}..{batch / timing.low:.3g}"
    line["faster"] = found["literal"].median / found["ours"].median
    line["than with the heap kept"] = found["literal, heap kept"].median / found["ours"].median
    return line


def goals(rows: list[Row]) -> list[Row]:
    """Never slower (sparing blocks aside, which trade time for memory); 1.5× on mixed networks where there is bf16."""
    counted = [row["faster"] for row in rows if not row["form"].endswith("sparing")]
    found = [goal("slowest entry, times the literal loop", min(counted, default=None), 1.0)]
    for backbone in dict.fromkeys(row["backbone"] for row in rows):
        mixed = [row["faster"] for row in rows if row["backbone"] == backbone and row["form"] in MIXES]
        if cpu_has_bf16() and mixed and all(row["precision"] == "bf16" for row in rows):
            found.append(
                goal(f"{backbone}: geometric mean of the mixed list", statistics.geometric_mean(mixed), 1.5)
            )
    return found


if __name__ == "__main__":
    main()
