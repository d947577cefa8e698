"""Optuna samplers and pruners by name: built-in and third-party ones.

Only trainings of the exploration are pruned, and only at rungs; a survivor continues from its present state. Pruned
trainings are not used for estimates and recommendations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import optuna
from optuna.samplers import GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from reborn_nas.errors import StudyError, unknown_name
from reborn_nas.records import TrialRecord
from reborn_nas.samplers.additive import AdditiveSampler

if TYPE_CHECKING:
    import pandas as pd
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from reborn_nas.analysis.model.maximise import Budget
    from reborn_nas.samplers.additive import TrialRows

__all__ = [
    "PRUNERS",
    "learns_from_pruned",
    "make_pruner",
    "make_sampler",
    "pruned_shares",
    "rungs",
    "sampler_names",
]

GROUP = "reborn_nas.samplers"
"""Entry-point group: name → callable that takes `seed` and returns an Optuna sampler."""


_SHIPPED: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, constant_liar=True, multivariate=True),
    "random": lambda seed: RandomSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
    "additive": AdditiveSampler,
}


def sampler_names() -> tuple[str, ...]:
    """Names for `make_sampler`, built-in ones first."""
    return (*_SHIPPED, *sorted({point.name for point in entry_points(group=GROUP)} - set(_SHIPPED)))


def make_sampler(
    name: str,
    seed: int,
    *,
    budgets: Sequence[Budget] = (),
    stages: Mapping[str, Any] | None = None,
    rows: TrialRows | None = None,
) -> BaseSampler:
    """Make a new sampler. A study makes one with a new seed for every trial, so that an interrupted study proposes the
    same as an uninterrupted one; samplers keep what they learn in the storage.

    Only the additive sampler uses what a study knows beforehand.

    Args:
        name: name of a built-in sampler, or of an entry point.
        seed: seed of its draws.
        budgets: the study's limits as sums over the parameters.
        stages: parameter → stage.
        rows: cache of earlier samplers of the same study, so that trials are not read again.

    Raises:
        UnknownNameError: there is no such sampler.
        StudyError: a third-party sampler cannot be loaded.
    """
    small = seed % 2**32  # the range of numpy's seeds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "additive":
            return AdditiveSampler(small, budgets=budgets, stages=stages, rows=rows)
        if name in _SHIPPED:
            return _SHIPPED[name](small)
        for point in entry_points(group=GROUP, name=name):
            try:
                sampler = point.load()(seed=small)
            except Exception as error:  # third-party code may raise anything
                raise StudyError(f"sampler {name!r} ({point.value}) cannot be made: {error!r}") from error
            if not isinstance(sampler, optuna.samplers.BaseSampler):
                raise StudyError(
                    f"sampler {name!r} ({point.value}) made {type(sampler).__name__}, no Optuna sampler"
                )
            return sampler
    raise unknown_name("sampler", name, sampler_names())


def learns_from_pruned(sampler: BaseSampler) -> bool:
    """Whether `sampler` learns from PRUNED trials with a violated constraint.

    NSGA-II and GP read only COMPLETE trials: for them a failure is told as COMPLETE with the worst value.
    """
    return not isinstance(sampler, NSGAIISampler | NSGAIIISampler | GPSampler)


PRUNERS = ("none", "halving", "hyperband", "median")
REDUCTION = 3
"""One of so many trainings continues from a rung to the next."""
FIRST_SHARE = 9
"""The first rung is at this fraction of the epochs."""


def rungs(pruner: str, epochs: int) -> tuple[int, ...]:
    """Epochs after which a training may be stopped, ascending, without the last epoch."""
    if pruner == "none":
        return ()
    first = max(1, epochs // FIRST_SHARE)
    found = []
    while first < epochs:
        found.append(first)
        first *= REDUCTION
    return tuple(found)


def make_pruner(name: str, epochs: int) -> BasePruner | None:
    """An Optuna pruner over `epochs`; None for "none".

    Raises:
        UnknownNameError: there is no such pruner.
    """
    first = max(1, epochs // FIRST_SHARE)
    if name == "none":
        return None
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=first, max_resource=max(first + 1, epochs), reduction_factor=REDUCTION
        )
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=first)
    raise unknown_name("pruner", name, PRUNERS)


def pruned_shares(records: Iterable[TrialRecord]) -> pd.DataFrame:
    """How often each choice was pruned; a high share may only mean that a choice learns slowly at first.

    Returns:
        One row per choice, the largest share first: `choice`, `runs` and `pruned` (sums over the sites of each finished
        search training that has the choice), `share` in [0, 1], `all` the share over all choices.
    """
    import pandas as pd

    counts: dict[str, list[int]] = {}
    for record in records:
        if record.phase != "search" or record.state not in ("complete", "pruned"):
            continue
        for label in record.parameters.values():
            row = counts.setdefault(label, [0, 0])
            row[0] += 1
            row[1] += record.state == "pruned"
    runs, pruned = (sum(row[k] for row in counts.values()) for k in (0, 1))
    rows = [
        {"choice": label, "runs": n, "pruned": k, "share": k / n, "all": pruned / runs}
        for label, (n, k) in counts.items()
    ]
    table = pd.DataFrame(rows, columns=["choice", "runs", "pruned", "share", "all"])
    return table.sort_values(["share", "choice"], ascending=[False, True]).reset_index(drop=True)
