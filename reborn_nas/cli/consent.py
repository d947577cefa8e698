"""Asks for confirmation before a run that would take hours on a CPU."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reborn_nas.errors import ConfigError

if TYPE_CHECKING:
    from reborn_nas.study import PlanView

__all__ = ["agreed", "cheaper"]

ASK_ABOVE_SECONDS = 3600.0


EVENING_SECONDS = 3 * 3600.0
FEWEST_EPOCHS, FEWEST_IMAGES, FEWEST_TRIALS = 3, 1000, 48
"""Below these a study has little power; its cost is proportional to each."""


def cheaper(plan: PlanView) -> str:
    """Text with flags that bring a plan for a CPU under an evening, and the resulting time; "" if it is shorter."""
    if plan.seconds is None or plan.context.device != "cpu":
        return ""
    recipe, images = plan.context.recipe, len(plan.context.images.pool)
    given = {"epochs": recipe.epochs, "images": images, "trials": plan.total - plan.done}
    return evening(plan.seconds, given, plan.config.fraction)


def evening(seconds: float, given: Mapping[str, int], fraction: float = 1.0) -> str:
    """The same from the `epochs`, `images` and `trials` of a plan and its seconds."""
    if seconds <= EVENING_SECONDS:
        return ""
    flags, time = [], seconds
    for name, fewest in (("epochs", FEWEST_EPOCHS), ("images", FEWEST_IMAGES), ("trials", FEWEST_TRIALS)):
        least = max(fewest, math.floor(given[name] * EVENING_SECONDS / time))
        if least >= given[name] or time <= 1.05 * EVENING_SECONDS:
            continue
        if name == "images":
            share = math.ceil(1000 * fraction * least / given[name]) / 1000
            flags.append(f"--fraction {share:g}")
            time *= share / fraction
        else:
            flags.append(f"--{name} {least}")
            time *= least / given[name]
    hours = time / 3600
    if time <= 1.05 * EVENING_SECONDS:
        return f"{' '.join(flags)} would make it about {hours:.1f} h"
    return (
        f"even with {' '.join(flags)} it would take about {hours:.0f} h: a smaller network as well (--backbone "
        "convnet8, resnet10t) or a smaller --image-size, or a GPU, make it short"
    )


def agreed(seconds: float | None, on_cpu: bool, shorter: str) -> bool:
    """Return False if the run would take long on a CPU and the user does not confirm it.

    Args:
        seconds: estimated time; None if unknown.
        shorter: a clause on how to shorten it.

    Raises:
        ConfigError: there is no terminal for the question.
    """
    if seconds is None or seconds <= ASK_ABOVE_SECONDS or not on_cpu:
        return True
    hours = seconds / 3600
    shorter = shorter or "fewer --trials or --epochs make it short"
    if not sys.stdin.isatty():
        raise ConfigError(
            f"the run would take about {hours:.1f} h on this CPU; {shorter}, --yes runs it anyway"
        )
    print(f"This would take about {hours:.1f} h on this CPU ({shorter}).", file=sys.stderr)
    return input("Start it? [y/N] ").strip().lower() in ("y", "yes")
