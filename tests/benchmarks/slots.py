"""Several trainings at a time on one device: trainings an hour with 1, 2, 3, … long-lived processes.

    python -m tests.benchmarks.slots [--slots 1 2 3 4] [--backbone convnet8] [--form "mix 0"] [--json FILE]

All processes have their imports, images and context before the clock starts; in each round 1, 2, 3, … of them train the
same list, in turns, and the rate is what all did in the time until the last was done. With NVIDIA's Multi-Process
Service where it is installed; `--no-service` lets the processes take turns on the GPU. The suggestion of the planner is
printed beside the measured optimum.

Arithmetic: a slot wins what one training leaves idle. resnet34 at batch 128 fills 89 % of an H200's threads at the
mean of its sites (`reborn_nas.training.slots`): one slot. convnet8 at 8×8 fills a few per cent: launches of 3 µs
dominate, and N processes side by side are up to N times as fast until the host's cores or the memory end it. On a CPU
N processes with cores / N threads each win what threads lose by waiting for one another. Goal: the suggested N is
never slower than one slot.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from reborn_nas.study.mps import service
from reborn_nas.training import threads_each
from tests.benchmarks.harness import Row, Timing, alternate, arguments, begin, goal, print_table, save


class Crew:
    """Long-lived processes of which any number can be set to work."""

    def __init__(self, size: int, command: Sequence[str]) -> None:
        self.workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(size)
        ]
        for worker in self.workers:
            self._hear(worker, "ready")

    def work(self, slots: int) -> None:
        """Let the first `slots` train, each with its share of the cores, until the last is done."""
        for worker in self.workers[:slots]:
            assert worker.stdin is not None
            try:
                print(threads_each(slots), file=worker.stdin, flush=True)
            except BrokenPipeError:  # it is dead by now
                raise self._ended(worker) from None
        for worker in self.workers[:slots]:
            self._hear(worker, "done")

    def _hear(self, worker: subprocess.Popen[str], word: str) -> None:
        assert worker.stdout is not None
        if worker.stdout.readline().strip() != word:
            raise self._ended(worker)

    def _ended(self, worker: subprocess.Popen[str]) -> RuntimeError:
        return RuntimeError(f"a worker ended with code {worker.wait()}")

    def close(self) -> None:
        """End them."""
        for worker in self.workers:
            if worker.stdin is not None:
                with suppress(BrokenPipeError):  # what a dead one has not read
                    worker.stdin.close()
        for worker in self.workers:
            worker.wait(timeout=60)


def rates(
    slots: Sequence[int], command: Sequence[str], trials: int, repeats: int, device: str, deadline: float
) -> tuple[dict[int, Timing], str]:
    """Number of processes → seconds a training: wall time over all trainings done; and how they share the device."""
    with service([device], max(slots)) as said:
        crew = Crew(max(slots), command)
        try:
            rivals = {str(many): partial(crew.work, many) for many in slots}
            found = alternate(rivals, repeats=repeats, deadline=deadline)
        finally:
            crew.close()
    return {many: found[str(many)].over(many * trials) for many in slots}, said


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
    parser.add_argument("--service", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    device, until = begin(options)
    gpu = device.type == "cuda"
    backbone, batch = (
        options.backbone or ("convnet8" if gpu else "convnet5"),
        options.batch or (128 if gpu else 32),
    )
    count = options.images or (10_000 if gpu else 256)
    what = [backbone, options.form, str(count), str(options.epochs), str(batch), str(options.trials)]
    command = [sys.executable, "-m", "tests.benchmarks.trials", *what, options.device]
    shared = options.device if options.service else "cpu"
    found, said = rates(options.slots, command, options.trials, options.repeats, shared, until)
    print(said)
    base = found[min(found)].median
    rows: list[Row] = [
        {
            "slots": slots,
            "s a training": timing.median,
            "low..high": f"{timing.low:.3g}..{timing.high:.3g}",
            "an hour": 3600 / timing.median,
            f"× {min(found)} slot": base / timing.median,
        }
        for slots, timing in found.items()
    ]
    advice = suggested(backbone, batch, options.device)
    print_table(
        rows,
        f"{backbone} {options.form}, {count} images, {options.epochs} epochs, on {device}; suggested: {advice}",
    )
    won = found[1].median / found[advice].median if {1, advice} <= set(found) else None
    save(
        options.json,
        "slots",
        rows,
        [goal(f"{advice} slots (suggested), × one slot", won, 1.0)],
        suggested=advice,
        shared=said,
    )


if __name__ == "__main__":
    main()
