"""Several trainings at a time on one device: trainings an hour with 1, 2, 3, … long-lived processes.

    python -m tests.benchmarks.slots [--slots 1 2 3 4] [--backbone convnet8] [--form "mix 0"] [--json FILE]

Each process has its imports, images and context before the clock starts; then all train the same list, and the rate
is what all did in the time until the last was done. With NVIDIA's Multi-Process Service where it is installed. The
suggestion of the planner is printed beside the measured optimum.

Arithmetic: a slot wins what one training leaves idle. resnet34 at batch 128 fills 89 % of an H200's threads at the
mean of its sites (`reborn_nas.training.slots`): one slot. convnet8 at 8×8 fills a few per cent: launches of 3 µs
dominate, and N processes side by side are up to N times as fast until the host's cores or the memory end it. On a CPU
N processes with cores / N threads each win what threads lose by waiting for one another. Goal: the suggested N is
never slower than one slot.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from reborn_nas.study.mps import service
from reborn_nas.training import threads_each
from tests.benchmarks.harness import Row, Timing, arguments, begin, goal, print_table, save


def rates(slots: int, arguments_of_worker: Sequence[str], trials: int, repeats: int, device: str) -> Timing:
    """Seconds a training with `slots` processes: wall time over all trainings done."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.trials",
        *arguments_of_worker,
        device,
        str(threads_each(slots)),
    ]
    with service([device], slots):
        workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(slots)
        ]
        try:
            for worker in workers:
                if worker.stdout is None or worker.stdout.readline().strip() != "ready":
                    raise RuntimeError("a worker did not start")
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                for worker in workers:
                    assert worker.stdin is not None
                    print("go", file=worker.stdin, flush=True)
                for worker in workers:
                    assert worker.stdout is not None
                    if not worker.stdout.readline():
                        raise RuntimeError("a worker died")
                seconds.append((time.perf_counter() - start) / (slots * trials))
        finally:
            for worker in workers:
                if worker.stdin is not None:
                    worker.stdin.close()
            for worker in workers:
                worker.wait(timeout=60)
    return Timing.of(seconds)


def suggested(backbone: str, batch: int, device: str) -> int:
    """What the planner would say."""
    if not device.startswith("cuda"):
        return 1
    import torch

    import reborn_nas as rn
    from reborn_nas.study.mps import has_service
    from reborn_nas.training import Gpu, available_cores, parameter_count, suggest_slots
    from tests.benchmarks.networks import SIZE, parent

    model = parent(backbone)
    card = torch.cuda.get_device_properties(device)
    free, _ = torch.cuda.mem_get_info(device)
    gpu = Gpu(card.multi_processor_count * card.max_threads_per_multi_processor, free, has_service())
    maps = [site.shape[0] * site.shape[1] * site.shape[2] for site in rn.find_sites(model, input_size=SIZE)]
    return suggest_slots(maps, parameter_count(model), batch, gpu, available_cores())


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, seconds=300)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--backbone", help="convnet8 on a GPU, convnet5 on a CPU")
    parser.add_argument("--form", default="mix 0")
    parser.add_argument("--images", type=int, help="10,000 on a GPU, 256 on a CPU")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, help="128 on a GPU, 32 on a CPU")
    parser.add_argument("--trials", type=int, default=1, help="of each process and round")
    options = parser.parse_args()
    device, until = begin(options)
    gpu = device.type == "cuda"
    backbone, batch = (
        options.backbone or ("convnet8" if gpu else "convnet5"),
        options.batch or (128 if gpu else 32),
    )
    count = options.images or (10_000 if gpu else 256)
    what = [backbone, options.form, str(count), str(options.epochs), str(batch), str(options.trials)]
    rows: list[Row] = []
    for slots in options.slots:
        if time.monotonic() > until:
            break
        timing = rates(slots, what, options.trials, max(5, options.repeats), options.device)
        rows.append(
            {
                "slots": slots,
                "s a training": timing.median,
                "low..high": f"{timing.low:.3g}..{timing.high:.3g}",
                "an hour": 3600 / timing.median,
                "× one slot": rows[0]["s a training"] / timing.median if rows else 1.0,
            }
        )
        print(f"{slots} slots: {3600 / timing.median:.4g} trainings an hour", flush=True)
    advice = suggested(backbone, batch, options.device)
    print_table(
        rows,
        f"{backbone} {options.form}, {count} images, {options.epochs} epochs, on {device}; suggested: {advice}",
    )
    won = next((row["× one slot"] for row in rows if row["slots"] == advice), None)
    save(
        options.json,
        "slots",
        rows,
        [goal(f"{advice} slots (suggested), × one slot", won, 1.0)],
        suggested=advice,
    )


if __name__ == "__main__":
    main()
