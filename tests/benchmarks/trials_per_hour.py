"""Trainings an hour on a fixed list of 30 architectures of resnet34, beside the loop that people start from.

    python -m tests.benchmarks.trials_per_hour [--epochs 2] [--images 50000] [--seconds 540] [--json FILE]

A training is building, converting, capturing, `--epochs` over the images with validation, as a long-lived worker does
it. The list: 20 different mixes, ReLU and all reborn five times each; ours and the plain loop (DataLoader, fp32, Eq. 2
as it is written) take turns on it. What the time does not suffice for is left out and said; the rate is scaled from
the epochs that were trained: fixed cost once, an epoch's time `--of-epochs` times. Equal accuracy: `time_to_accuracy`.

Arithmetic for one H200, 30 epochs of 50,000 images: ReLU 30 × 1.4 s = 42 s, 85 an hour; all reborn 30 × 3.2 = 96 s,
37; mixed ones, half of whose sites are reborn or CReLU, 30 × 2.1 = 63 s, 57. The plain loop with two workers takes at
least 6.3 s an epoch: 19 an hour. Goals: 85 / 57 / 40 an hour for ReLU, mixed, all reborn; fixed cost at most 3 % of a
training: 1.3 s of the shortest.
"""

from __future__ import annotations

import itertools
import statistics
import time

from tests.benchmarks.harness import Row, Timing, arguments, begin, goal, print_table, save
from tests.benchmarks.networks import pictures, thirty
from tests.benchmarks.trials import Trial, run_plain_trial, run_trial

KINDS = {"ReLU": 85.0, "mix": 57.0, "reborn k=3": 40.0}
"""Kind of network → trainings an hour wanted."""


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, seconds=540)
    parser.add_argument("--backbone", help="resnet34 on a GPU, convnet5 on a CPU")
    parser.add_argument("--epochs", type=int, help="that are trained: 2 on a GPU, 1 on a CPU")
    parser.add_argument(
        "--of-epochs", type=int, default=30, help="that a training has, to which the rate is scaled"
    )
    parser.add_argument("--images", type=int, help="50,000 on a GPU, 256 on a CPU")
    parser.add_argument("--batch", type=int, help="128 on a GPU, 32 on a CPU")
    parser.add_argument("--trials", type=int, default=30, help="of the list, at most")
    parser.add_argument("--loader-workers", type=int, help="of the plain loop: 2 on a GPU, 0 on a CPU")
    options = parser.parse_args()
    device, until = begin(options)
    gpu = device.type == "cuda"
    epochs, batch = options.epochs or (2 if gpu else 1), options.batch or (128 if gpu else 32)
    backbone = options.backbone or ("resnet34" if gpu else "convnet5")
    workers = (2 if gpu else 0) if options.loader_workers is None else options.loader_workers
    images = pictures(options.images or (50_000 if gpu else 256))
    rivals = {
        "ours": lambda form: run_trial(backbone, form, images, epochs, batch, options.device),
        "plain loop": lambda form: run_plain_trial(
            backbone, form, images, epochs, batch, options.device, workers
        ),
    }
    wanted = thirty()[: options.trials]
    run_trial(
        backbone, wanted[0], images, 1, batch, options.device
    )  # a worker's first one pays for the start
    rows: list[Row] = []
    for turn, form in enumerate(wanted):
        if rows and time.monotonic() > until:
            break
        for rival in rivals if turn % 2 == 0 else reversed(rivals):
            rows.append(row(rival, rivals[rival](form), epochs, options.of_epochs))
        print(f"{form}: {rows[-1]['an hour']:.3g}, {rows[-2]['an hour']:.3g} an hour", flush=True)
    print_table(rows, f"{backbone}, {len(rows) // 2} of {len(wanted)} trainings of each rival, in turns")
    kinds = summary(rows)
    print_table(kinds, f"trainings of {options.of_epochs} epochs an hour: medians, quartiles")
    reached = goals(kinds, rows, gpu and backbone == "resnet34")
    save(options.json, "trials_per_hour", rows, reached, epochs=epochs, summary=kinds)


def row(rival: str, trial: Trial, epochs: int, of_epochs: int) -> Row:
    """One training, scaled to `of_epochs`."""
    whole = trial.fixed + (trial.seconds - trial.fixed) * of_epochs / epochs
    return {
        "form": trial.form,
        "rival": rival,
        "s an epoch": (trial.seconds - trial.fixed) / epochs,
        "fixed s": trial.fixed,
        "fixed share": trial.fixed / whole,
        "an hour": 3600 / whole,
        "how": trial.how,
    }


def summary(rows: list[Row]) -> list[Row]:
    """Of each kind of network the rates of both rivals, and how many times as many ours are."""
    found: list[Row] = []
    for kind, rival in itertools.product(KINDS, ("ours", "plain loop")):
        rates = [r["an hour"] for r in rows if r["rival"] == rival and r["form"].startswith(kind)]
        if rates:
            spread = Timing.of(rates)
            line = {"kind": kind, "rival": rival, "n": len(rates), "an hour": spread.median}
            found.append({**line, "low..high": f"{spread.low:.3g}..{spread.high:.3g}"})
    for one in found:
        other = next((o for o in found if o["kind"] == one["kind"] and o["rival"] == "plain loop"), None)
        one["× plain loop"] = one["an hour"] / other["an hour"] if other else None
    return found


def goals(kinds: list[Row], rows: list[Row], comparable: bool) -> list[Row]:
    """Rates are goals for resnet34 on a GPU only; the fixed share is one everywhere."""
    rates = {one["kind"]: one["an hour"] for one in kinds if one["rival"] == "ours"}
    found = [
        goal(f"resnet34 {kind}: trainings an hour", rates.get(kind) if comparable else None, wanted)
        for kind, wanted in KINDS.items()
    ]
    shares = [r["fixed share"] for r in rows if r["rival"] == "ours"]
    share = statistics.median(shares) if shares else None
    return [*found, goal("fixed cost of a training, share", share, 0.03, at_least=False)]


if __name__ == "__main__":
    main()
