"""Optuna samplers by name, shipped ones and those of third parties."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from reborn_nas.errors import StudyError, unknown_name

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from reborn_nas.analysis.model.maximise import Budget
    from reborn_nas.samplers.trial_rows import TrialRows

__all__ = ["learns_from_pruned", "make_sampler", "sampler_names"]

GROUP = "reborn_nas.samplers"
"""Entry-point group: name → callable that takes `seed` and returns an Optuna sampler."""


def _tpe(seed: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, constant_liar=True, multivariate=True)


def _random(seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed)


def _gp(seed: int) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed)


def _additive(seed: int, **known: Any) -> BaseSampler:
    from reborn_nas.samplers.additive import AdditiveSampler

    return AdditiveSampler(seed, **known)


_SHIPPED: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "nsga2": _nsga2,
    "gp": _gp,
    "additive": _additive,
}


def sampler_names() -> tuple[str, ...]:
    """Names that `make_sampler` knows, the shipped ones first."""
    return (*_SHIPPED, *sorted({point.name for point in entry_points(group=GROUP)} - set(_SHIPPED)))


def make_sampler(
    name: str,
    seed: int,
    *,
    budgets: Sequence[Budget] = (),
    stages: Mapping[str, Any] | None = None,
    rows: TrialRows | None = None,
) -> BaseSampler:
    """A fresh sampler. One is made for every trial with a seed of its own, so that an interrupted study proposes
    what an undisturbed one would have; samplers keep what they learn in the storage.

    What a study knows beforehand is for the additive sampler; the others learn as they can.

    Args:
        name: a shipped one's, or of an entry point.
        seed: of its draws.
        budgets: the study's limits as sums over the parameters.
        stages: parameter → stage.
        rows: what earlier samplers have read of the same study, so that this one need not read it again.

    Raises:
        UnknownNameError: no such sampler.
        StudyError: a third party's sampler cannot be loaded.
    """
    import optuna

    small = seed % 2**32  # numpy's seeds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "additive":
            return _additive(small, budgets=budgets, stages=stages, rows=rows)
        if name in _SHIPPED:
            return _SHIPPED[name](small)
        for point in entry_points(group=GROUP, name=name):
            try:
                sampler = point.load()(seed=small)
            except Exception as error:  # a stranger's code may raise anything
                raise StudyError(f"sampler {name!r} ({point.value}) cannot be made: {error!r}") from error
            if not isinstance(sampler, optuna.samplers.BaseSampler):
                raise StudyError(
                    f"sampler {name!r} ({point.value}) made {type(sampler).__name__}, no Optuna sampler"
                )
            return sampler
    raise unknown_name("sampler", name, sampler_names())


def learns_from_pruned(sampler: BaseSampler) -> bool:
    """Whether `sampler` learns from PRUNED trials with a violated constraint.

    NSGA-II and GP read COMPLETE trials only: to them a failure is told as COMPLETE with the worst value.
    """
    from optuna.samplers import GPSampler, NSGAIIISampler, NSGAIISampler

    return not isinstance(sampler, NSGAIISampler | NSGAIIISampler | GPSampler)
