"""Training on a CPU: ours against the literal loop, in images a second, on every kind of network.

    python -m tests.benchmarks.cpu [--threads 2] [--clock wall] [--seconds 300] [--json FILE]

The literal loop is what people start from: torchvision's transforms an image at a time in a DataLoader, fp32, Eq. 2
as it is written, `.item()` each step. Ours: resident uint8 images, one gather for crop and flip, bf16 where the CPU
has the instructions and the parent gains by it (`resolve_precision`), the split form of the block.

Arithmetic: a ResNet-18 step takes 36 ms an image in fp32 (27.8 images/s and core) and 18 ms in bf16; crop, flip,
conversion and normalisation take 0.25 ms an image in the loader, about 0.02 ms in the gather. So bf16 is nearly all
of it, and on a CPU without it ours can win a few per cent only. Goals: at least 1.5× on the mixed list where the CPU
has AVX512-BF16; on any CPU never slower on any entry.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

from reborn_nas.training import cpu_has_bf16, resolve_precision
from tests.benchmarks.harness import Row, alternate, arguments, begin, goal, print_table, save
from tests.benchmarks.loops import LoaderLoop, OurLoop
from tests.benchmarks.networks import FORMS, MIXES, literal, network, parent, pictures


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, seconds=300)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "convnet8"])
    parser.add_argument("--forms", nargs="+", choices=[*FORMS, *MIXES], default=[*FORMS, *MIXES])
    parser.add_argument(
        "--batch", type=int, default=64, help="a recipe's is 64 to 128; small ones weigh the optimiser more"
    )
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: of one busy machine's thread"
    )
    parser.add_argument(
        "--precision", default="auto", choices=["auto", "fp32"], help="fp32: as a CPU without bf16"
    )
    options = parser.parse_args()
    device, until = begin(options)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    images = pictures(max(256, 4 * options.batch))
    rows: list[Row] = []
    for backbone in options.backbones:
        # as in a study: settled once by the parent, for all of its networks
        precision = resolve_precision(options.precision, device, parent(backbone))
        for form in options.forms:
            if time.monotonic() > until:
                break
            model = network(backbone, form)
            ours = OurLoop(model, images, options.batch, device, precision=precision)
            plain = LoaderLoop(literal(model), images, options.batch, device)
            found = alternate(
                {"literal": partial(plain, 1), "ours": partial(ours, 1)}, repeats=options.repeats, clock=clock
            )
            rates = {name: options.batch / timing.median for name, timing in found.items()}
            spread = {
                name: f"{options.batch / timing.high:.3g}..{options.batch / timing.low:.3g}"
                for name, timing in found.items()
            }
            rows.append(
                {
                    "backbone": backbone,
                    "form": form,
                    "precision": precision,
                    "literal img/s": rates["literal"],
                    "literal low..high": spread["literal"],
                    "ours img/s": rates["ours"],
                    "ours low..high": spread["ours"],
                    "faster": rates["ours"] / rates["literal"],
                }
            )
            print(f"{backbone} {form}: {rates['literal']:.3g} → {rates['ours']:.3g} images/s", flush=True)
    print_table(
        rows,
        f"training on {options.threads or 'all'} CPU threads, batch {options.batch}, {options.clock} time",
    )
    save(options.json, "cpu", rows, goals(rows), clock=options.clock, batch=options.batch)


def goals(rows: list[Row]) -> list[Row]:
    """Never slower; 1.5× on the mixed networks where there is bf16."""
    found = [
        goal("slowest entry, times the literal loop", min((row["faster"] for row in rows), default=None), 1.0)
    ]
    for backbone in dict.fromkeys(row["backbone"] for row in rows):
        mixed = [row["faster"] for row in rows if row["backbone"] == backbone and row["form"] in MIXES]
        if cpu_has_bf16() and mixed and all(row["precision"] == "bf16" for row in rows):
            found.append(
                goal(f"{backbone}: geometric mean of the mixed list", statistics.geometric_mean(mixed), 1.5)
            )
    return found


if __name__ == "__main__":
    main()
