"""The learning rate of every step, known before the first."""

from __future__ import annotations

import math

import numpy as np

from reborn_nas.training.recipe import Recipe


def learning_rates(recipe: Recipe, steps: int) -> list[float]:
    """The learning rate of each of the training's `epochs` × `steps` steps.

    Rounded to float32, in which a GPU holds it, so that every device multiplies by the same number.
    """
    total = recipe.epochs * steps
    rates = [_rate(recipe, step, steps, total) for step in range(total)]
    return [float(np.float32(rate)) for rate in rates]


def _rate(recipe: Recipe, step: int, steps: int, total: int) -> float:
    peak = recipe.learning_rate
    if recipe.schedule == "constant":
        return peak
    if recipe.schedule == "step_half":
        # "0.001 in the first half epochs and then changed to 0.0001 in the later half epochs" (Sec. 4.3); of an
        # odd number of epochs the middle one belongs to the first half
        return peak if step // steps < math.ceil(recipe.epochs / 2) else peak / 10
    done = (step + 0.5) / total  # the middle of the step, so that neither the first nor the last rate is zero
    if done < recipe.warmup:
        return peak * done / recipe.warmup
    left = (1 - done) / max(1e-12, 1 - recipe.warmup)
    return peak * (1 - math.cos(math.pi * left)) / 2


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """How an epoch over `images` images is cut: full batches, and the rest as one more if it is no mere scrap.

    A rest under a quarter of a batch is left out: its gradient and its batch statistics would be mostly noise.
    The order is random, so that each epoch leaves out others. A set smaller than one batch is one batch.
    """
    full, rest = divmod(images, batch_size)
    if full == 0:
        return [rest] if rest else []
    return [batch_size] * full + [rest] * (4 * rest >= batch_size and rest > 1)
