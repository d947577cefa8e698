"""Rivals in processes of their own, so that none works in the heap that another one has left behind."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from reborn_nas.training.device.cpu import kept_heap
from tests.benchmarks.harness import Timing, turns

Make = Callable[..., Callable[[int], object]]
"""Makes a loop, which is then called with a number of steps; a function of a module."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Apart:
    """A process that builds a rival's loops and times their steps.

    Args:
        make: builds a loop.
        keep: whether freed memory stays with the process, as in `train`.
        threads: CPU threads.
        clock: "wall", or "cpu" for the process's own CPU time.
    """

    def __init__(self, make: Make, *, keep: bool, threads: int, clock: str = "wall") -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, make, keep, threads, clock)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def build(self, *args: Any, **options: Any) -> None:
        """Make the loop to be timed, in place of the one before."""
        self._pipe.send(("build", args, options))
        self._pipe.recv()

    def run(self, steps: int) -> float:
        """Seconds of so many steps."""
        self._pipe.send(("run", (steps,), {}))
        return float(self._pipe.recv())

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        if kind is None:
            self._pipe.send(("end", (), {}))
            self._process.join(30)
        self._process.kill()


def _serve(pipe: Connection, make: Make, keep: bool, threads: int, clock: str) -> None:
    torch.set_num_threads(threads)
    loop: Any = None
    with ExitStack() as stack:
        while True:
            word, args, options = pipe.recv()
            if word == "end":
                return
            if word == "build":
                loop = None
                stack.close()
                if keep:
                    stack.enter_context(kept_heap())
                loop = make(*args, **options)
                pipe.send(None)
            else:
                begin = CLOCKS[clock]()
                loop(*args)
                pipe.send(CLOCKS[clock]() - begin)


def alternate_apart(
    rivals: Mapping[str, Apart], *, repeats: int, warmup: int = 3, turn: float = 0.4
) -> tuple[dict[str, Timing], int]:
    """Seconds a step, as `harness.alternate` for rivals in processes of their own; and the steps of a turn.

    Args:
        warmup: steps that are not counted.
        turn: seconds that a turn takes at least: its first step finds the other rivals' data in the caches.
    """
    slowest = max(rival.run(warmup) / warmup for rival in rivals.values())
    steps = max(1, math.ceil(turn / slowest))
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for name in turns(list(rivals), repeats):
        taken[name].append(rivals[name].run(steps) / steps)
    return {name: Timing.of(seconds) for name, seconds in taken.items()}, steps
