"""How many processes train at the same time where nobody says: as many as end soonest, by measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from reborn_nas.architecture import Architecture
from reborn_nas.backbone import build
from reborn_nas.backbone.cost import predict
from reborn_nas.errors import TrainingError
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.config.functions import is_here
from reborn_nas.study.setup.children import call_in_child
from reborn_nas.study.setup.costs import CostBook
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.training import available_cores, available_memory, cpu_threads, estimate_epoch, threads_each
from reborn_nas.training.device.selection import check_device, empty_cache, is_out_of_memory

if TYPE_CHECKING:
    from reborn_nas.study.config.config import StudyConfig
    from reborn_nas.study.setup.context import StudyContext
    from reborn_nas.training import Estimate

__all__ = ["Processes", "choose_processes", "measure_epoch", "processes_here"]

PROBE_MACS = 2e10
"""Multiply-accumulates that one probing step may take on a CPU: a second or so."""

STARTING = 5.0
"""Seconds that a worker process takes to import torch and to read the data, in which it trains nothing."""

PROCESS_BYTES = 1.2e9
"""Memory of a worker process before it trains: Python with torch."""


@dataclass(frozen=True)
class Processes:
    """How a study's trainings are shared.

    Args:
        count: processes.
        training: seconds of one training, in one of them; None where a step does not fit into the device's memory.
        notes: what the user should be told.
    """

    count: int
    training: float | None
    notes: tuple[str, ...] = ()


def choose_processes(context: StudyContext, left: int) -> Processes:
    """As many processes as were asked for; for "auto" one a GPU, or as many as end `left` trainings soonest on a CPU.

    Trains a few steps to measure. A process has the CPU threads that the study has, or its share of the cores.
    """
    config = context.config
    automatic = config.workers == "auto"
    if context.own is not None:
        return _unmeasured(context, left)
    count = min(processes_here(context.device, config), max(1, left)) if automatic else config.processes
    try:
        if automatic and context.device == "cpu":
            most = max(1, min(count, _fitting(context)))
            return fastest(left, most, lambda n: _training_seconds(context, _epoch(context, n)))
        epoch = _epoch(context, count)
    except TrainingError as error:
        return Processes(count, None, (str(error),))
    notes = []
    if context.device != "cpu":
        notes.append(f"{context.device_text}, {epoch.images_per_second:,.0f} images a second, {epoch.form}")
    if automatic and count > 1:
        notes.append(
            f"{count} processes train at the same time, one on each visible GPU; --workers 1 takes one"
        )
    return Processes(count, _training_seconds(context, epoch), tuple(notes))


def _unmeasured(context: StudyContext, left: int) -> Processes:
    """Of a training of the user's own, of which nobody knows how long it takes: one a GPU, and one on a CPU."""
    config = context.config
    if config.workers != "auto":
        return Processes(config.processes, None)
    named = not any(map(is_here, (config.train, config.evaluate, config.example_inputs)))
    count = (
        1
        if context.device == "cpu" or not named
        else min(processes_here(context.device, config), max(1, left))
    )
    note = "one process trains at a time, as nobody knows how long your training takes; --workers sets another number"
    return Processes(count, None, (note,) if count == 1 else ())


def _epoch(context: StudyContext, processes: int) -> Estimate:
    """An epoch in one of so many processes. A supervisor holds no GPU, so there a child measures."""
    config = context.config
    if processes > 1 and context.device != "cpu":
        return call_in_child(_measure, config.as_given(), context.device, context.proofs)
    return measure_epoch(
        context, _threads(config.threads, processes) if config.workers == "auto" else config.threads
    )


def _measure(settings: dict[str, Any], device: str, proofs: dict[str, Any]) -> Estimate:
    """In a process of its own."""
    config = StudyConfig(**settings)
    return measure_epoch(make_context(config, device, proofs=proofs, decode=False), config.threads)


def fastest(left: int, most: int, training: Callable[[int], float]) -> Processes:
    """The number of processes, 1 to `most`, with which `left` trainings end soonest.

    Args:
        training: number of processes → seconds of one training in each of them.
    """
    seconds = {1: training(1)}
    ends = {1: left * seconds[1]}
    for count in sorted({max(2, most // 4), max(2, most // 2), most} if most > 1 else ()):
        if STARTING + -(-left // count) * seconds[1] > min(ends.values()):
            continue  # not even if each process trained as fast as one that has all the cores
        seconds[count] = training(count)
        ends[count] = STARTING + -(-left // count) * seconds[count]
    best = min(ends, key=lambda count: ends[count])
    if best == 1:
        return Processes(1, seconds[1])
    note = f"{best} processes train at the same time, which ends soonest on this CPU; --workers sets another number"
    return Processes(best, seconds[best], (note,))


def processes_here(device: str, config: StudyConfig) -> int:
    """Processes that this machine takes without measuring: one a GPU, or as many as the cores have threads for."""
    if device == "cpu":
        return max(1, available_cores() // (config.threads or 1))
    return max(1, torch.cuda.device_count()) if device == "cuda" else 1


def _threads(given: int | None, processes: int) -> int | None:
    return given if given is not None or processes == 1 else threads_each(processes)


def _fitting(context: StudyContext) -> int:
    """Worker processes whose memory is there: of each, the images, and a step of the larger network of the contrast."""
    there = available_memory()
    if there is None:
        return 1024
    contrast = context.contrast
    full = contrast.architecture(context.spec, dict.fromkeys(contrast.factors, contrast.high.default))
    each = PROCESS_BYTES + context.images.memory + CostBook(context).value(full, "memory")
    return int(there // each)


def measure_epoch(context: StudyContext, threads: int | None) -> Estimate:
    """An epoch of the backbone as it comes, from a few steps.

    Raises:
        TrainingError: the device's memory does not hold a step.
    """
    recipe = context.recipe
    if context.device == "cpu":  # there the time is in proportion to the images, so a few do
        macs = predict(context.template, Architecture(context.spec, {}), discovery=context.discovery).macs
        few = max(8, int(PROBE_MACS / (3 * max(1, macs))))
        recipe = replace(recipe, batch_size=min(recipe.batch_size, few))
    try:
        with cpu_threads(threads):
            return estimate_epoch(
                build(context.spec, device="cpu"), context.images, recipe, context.device, steps=2
            )
    except RuntimeError as error:
        if not is_out_of_memory(error):
            check_device(context.device, error)
            raise
    empty_cache(context.device)
    raise TrainingError(
        f"no time is estimated: a step of the parent with {recipe.batch_size} images does not fit into the memory of "
        f"{context.device} now ({context.device_text}); trainings will make activations again in the backward pass, "
        "and fail where that is not enough: free the device, or lower --batch-size"
    )


def _training_seconds(context: StudyContext, epoch: Estimate) -> float:
    """Of one training: the mean of the contrast's two networks, by what they compute."""
    contrast = context.contrast
    full = contrast.architecture(context.spec, dict.fromkeys(contrast.factors, contrast.high.default))
    backbone, reference, tested = (
        predict(context.template, architecture, discovery=context.discovery).macs
        for architecture in (Architecture(context.spec, {}), contrast.reference(context.spec), full)
    )
    return context.recipe.epochs * epoch.seconds * (reference + tested) / 2 / max(1, backbone)
