"""The learning rate of every step: our own schedules, and timm's by their names and arguments."""

from __future__ import annotations

import bisect
import inspect
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from reborn_nas.errors import ConfigError, unknown_name

OWN = ("one_cycle", "step_half", "constant")
TIMM = ("cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt")
SCHEDULES = (*OWN, *TIMM)

_BY_US = ("optimizer", "sched", "num_epochs", "updates_per_epoch", "plateau_mode", "patience_epochs")


def _number(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return (value > low if above else value >= low) and value <= high

    return holds


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= low


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _increasing(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not value or not all(map(_number(0), value)):
        return False
    return all(one < other for one, other in itertools.pairwise(value))


def _noise(value: Any) -> bool:
    share = _number(0, 1)
    return share(value) or (
        isinstance(value, list | tuple) and len(value) in (1, 2) and all(map(share, value))
    )


_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "warmup_epochs": ("a number ≥ 0", _number(0)),
    "warmup_lr": ("a number ≥ 0", _number(0)),
    "warmup_prefix": ("true or false", _truth),
    "min_lr": ("a number ≥ 0", _number(0)),
    "cooldown_epochs": ("a whole number ≥ 0", _whole(0)),
    "decay_epochs": ("a number above 0", _number(0, above=True)),
    "decay_milestones": ("a list of increasing numbers", _increasing),
    "decay_rate": ("a number ≥ 0", _number(0)),
    "cycle_mul": ("a number above 0", _number(0, above=True)),
    "cycle_decay": ("a number ≥ 0", _number(0)),
    "cycle_limit": ("a whole number ≥ 1", _whole(1)),
    "k_decay": ("a number in (0, 100]", _number(0, 100, above=True)),
    "noise": ("a share of the epochs, or two of them", _noise),
    "noise_pct": ("a number above 0", _number(0, above=True)),
    "noise_std": ("a number above 0", _number(0, above=True)),
    "noise_seed": ("a whole number ≥ 0", _whole(0)),
    "step_on_epochs": ("true or false", _truth),
}
"""Argument → its rule. timm checks few of them; with some values it would never come back."""

_NOISE = {"noise_pct": 0.67, "noise_std": 1.0}
"""timm's."""
_LEAST_NOISE = 0.01
"""Of `noise_pct` as a share of `noise_std`: timm draws until the noise is smaller than the first."""


def argument_faults(args: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values of a schedule's arguments; None is timm's default."""
    faults = [
        f"recipe.schedule_args.{key} is {_RULES[key][0]}, not {value!r}"
        for key, value in args.items()
        if key in _RULES and value is not None and not _RULES[key][1](value)
    ]
    drawn = {**_NOISE, **{key: value for key, value in args.items() if value is not None}}
    pct, std = drawn["noise_pct"], drawn["noise_std"]
    if not faults and args.get("noise") is not None and pct < _LEAST_NOISE * std:
        faults.append(
            f"recipe.schedule_args.noise_pct is at least {_LEAST_NOISE:g} of noise_std {std:g}, not {pct:g}: noise is "
            "drawn until it is smaller"
        )
    return faults


def schedule_faults(name: str, args: object, epochs: int) -> Iterator[str]:
    """What is wrong with a schedule's name and arguments."""
    if name == "plateau":
        yield (
            "recipe.schedule: plateau changes the rate by what the validation images show during the training, by "
            "which networks are compared here; take cosine, step or one_cycle"
        )
        return
    if name not in SCHEDULES:
        yield f"recipe.schedule: {unknown_name('schedule', str(name), SCHEDULES)}"
        return
    if not isinstance(args, Mapping) or not all(isinstance(key, str) for key in args):
        yield f"recipe.schedule_args is a map from names to values, not {args!r}"
        return
    if name in OWN:
        if args:
            yield f"recipe.schedule_args: {name} takes none, not {', '.join(args)}; they belong to {', '.join(TIMM)}"
        return
    known = _arguments()
    unknown = [key for key in args if key not in known]
    for key in unknown:
        yield f"recipe.schedule_args: {unknown_name('argument of a schedule', key, known)}"
    faults = argument_faults(args)
    yield from faults
    if unknown or faults or epochs == 0:
        return
    try:
        timm_rates(name, args, 1.0, epochs, 2)
    except ConfigError as error:
        yield str(error)


def _arguments() -> list[str]:
    return [key for key in inspect.signature(creator()).parameters if key not in _BY_US]


def creator() -> Any:
    """timm's function; importing timm takes a second."""
    from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]

    return create_scheduler_v2


def timm_rates(name: str, args: Mapping[str, Any], peak: float, epochs: int, steps: int) -> list[float]:
    """The rates of `epochs` × `steps` steps by timm's scheduler `name`, one an epoch or, with `step_on_epochs: false`,
    one a step.

    All of them are within `epochs`: those of a cooldown, of further cycles and of a warm-up that comes first too.

    Raises:
        ConfigError: timm refuses the arguments, or no length of the schedule adds up to `epochs`.
    """
    by_step = args.get("step_on_epochs") is False
    logger = logging.getLogger("timm.scheduler")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        optimizer, scheduler = _fitted(name, args, peak, epochs, steps)
        rates: list[float] = []
        for step in range(epochs * steps):
            # as in timm's train.py: an epoch's rate is set at the end of the one before, a step's likewise
            if step and by_step:
                scheduler.step_update(step)
            elif step and step % steps == 0:
                scheduler.step(step // steps)
            rates.append(float(optimizer.param_groups[0]["lr"]))
    except ConfigError:
        raise
    except (TypeError, ValueError, AssertionError, ArithmeticError) as error:
        raise ConfigError(f"recipe.schedule: {name} cannot be made with {dict(args)} ({error})") from error
    finally:
        logger.setLevel(level)
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
        raise ConfigError(
            f"recipe.schedule: {name} with {dict(args)} gives rates that are not finite and ≥ 0"
        )
    return rates


def _fitted(name: str, args: Mapping[str, Any], peak: float, epochs: int, steps: int) -> tuple[Any, Any]:
    more = dict(args) if args.get("step_on_epochs") is not False else {**args, "updates_per_epoch": steps}
    warmup, cooldown = args.get("warmup_epochs", 0), args.get("cooldown_epochs", 0)
    if warmup + cooldown >= epochs and warmup + cooldown > 0:
        raise ConfigError(
            f"recipe.schedule_args: {warmup} epochs of warm-up and {cooldown} of cooldown leave none of {epochs} for "
            "the schedule itself; take less of them, or more epochs"
        )
    if cooldown and name not in ("cosine", "tanh", "poly"):
        raise ConfigError(
            f"recipe.schedule_args.cooldown_epochs: {name} has no cooldown in timm; cosine, tanh and poly have"
        )

    def made(length: int) -> tuple[Any, Any, int]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
        return optimizer, *creator()(optimizer, sched=name, num_epochs=length, **more)

    length = 1 + bisect.bisect_left(range(1, epochs), epochs, key=lambda length: made(length)[2])
    optimizer, scheduler, total = made(length)
    if total == epochs:
        return optimizer, scheduler
    raise ConfigError(
        f"recipe.schedule: no length of {name} with {dict(args)} adds up to {epochs} epochs; change cycles or epochs"
    )
