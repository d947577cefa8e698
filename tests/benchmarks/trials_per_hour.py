"""Trainings an hour on a fixed list of 30 architectures of resnet34, and the share that is not training.

    python -m tests.benchmarks.trials_per_hour [--epochs 30] [--images 50000] [--seconds 540] [--json FILE]

A training is building, converting, capturing, `epochs` over the images with validation, as a long-lived worker does
it. What the time does not suffice for is left out and said; the rate is scaled from the epochs that were trained:
fixed cost once, an epoch's time `--of-epochs` times.

Arithmetic for one H200, 30 epochs of 50,000 images: ReLU 30 × 1.4 s = 42 s, 85 an hour; all reborn 30 × 3.2 = 96 s,
37; mixed ones, half of whose sites are reborn or CReLU, 30 × 2.1 = 63 s, 57. Goals: 85 / 57 / 40 an hour for ReLU,
mixed, all reborn; fixed cost at most 3 % of a training: 1.3 s of the shortest.
"""

from __future__ import annotations

import statistics
import time

from tests.benchmarks.harness import Row, arguments, begin, goal, print_table, save
from tests.benchmarks.networks import MIXES, pictures, thirty
from tests.benchmarks.trials import run_trial

GOALS = {"ReLU": 85.0, "mix": 57.0, "reborn k=3": 40.0}


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, seconds=540)
    parser.add_argument("--backbone", help="resnet34 on a GPU, convnet5 on a CPU")
    parser.add_argument("--epochs", type=int, help="that are trained: 3 on a GPU, 1 on a CPU")
    parser.add_argument(
        "--of-epochs", type=int, default=30, help="that a training has, to which the rate is scaled"
    )
    parser.add_argument("--images", type=int, help="50,000 on a GPU, 256 on a CPU")
    parser.add_argument("--batch", type=int, help="128 on a GPU, 32 on a CPU")
    parser.add_argument("--trials", type=int, default=30, help="of the list, at most")
    options = parser.parse_args()
    device, until = begin(options)
    gpu = device.type == "cuda"
    epochs, batch = options.epochs or (3 if gpu else 1), options.batch or (128 if gpu else 32)
    backbone = options.backbone or ("resnet34" if gpu else "convnet5")
    images = pictures(options.images or (50_000 if gpu else 256))
    wanted = [form for _, form in thirty()][: options.trials]
    rows: list[Row] = []
    run_trial(
        backbone, wanted[0], images, 1, batch, options.device
    )  # a worker's first training pays for the start
    for form in wanted:
        if time.monotonic() > until:
            break
        trial = run_trial(backbone, form, images, epochs, batch, options.device)
        whole = trial.fixed + (trial.seconds - trial.fixed) * options.of_epochs / epochs
        rows.append(
            {
                "form": form,
                "s an epoch": (trial.seconds - trial.fixed) / epochs,
                "fixed s": trial.fixed,
                "fixed share": trial.fixed / whole,
                "an hour": 3600 / whole,
                "how": trial.how,
            }
        )
        print(f"{form}: {3600 / whole:.3g} an hour", flush=True)
    print_table(
        rows, f"{backbone}, {len(rows)} of {len(wanted)} trainings, scaled to {options.of_epochs} epochs"
    )
    save(options.json, "trials_per_hour", rows, goals(rows, gpu and backbone == "resnet34"), epochs=epochs)


def goals(rows: list[Row], comparable: bool) -> list[Row]:
    """Rates are goals for resnet34 on a GPU only; the fixed share is one everywhere."""
    found = []
    for kind, wanted in GOALS.items():
        rates = [r["an hour"] for r in rows if r["form"] == kind or (kind == "mix" and r["form"] in MIXES)]
        mean = statistics.harmonic_mean(rates) if rates and comparable else None
        found.append(goal(f"resnet34 {kind}: trainings an hour", mean, wanted))
    share = statistics.median(r["fixed share"] for r in rows) if rows else None
    return [*found, goal("fixed cost of a training, share", share, 0.03, at_least=False)]


if __name__ == "__main__":
    main()
