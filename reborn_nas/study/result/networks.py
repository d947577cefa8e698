"""The named networks of a run: best observed, recommended, retested, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reborn_nas.analysis.model.maximise import Budget
from reborn_nas.analysis.model.pareto import hypervolume_over_trials, pareto_front, worst_corner
from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.backbone.load.variants import is_argument, with_arguments
from reborn_nas.errors import ConfigError
from reborn_nas.records import TrialRecord, best_observed, retested
from reborn_nas.study.config.objectives import objective_values
from reborn_nas.study.plan.candidate import own_words, recommend_run
from reborn_nas.study.setup.costs import counted_excess

if TYPE_CHECKING:
    from reborn_nas.study.store.reading import RunInfo

__all__ = [
    "NamedNetworks",
    "Recommended",
    "named_networks",
    "pareto_records",
    "pareto_series",
    "recommend_info",
]


@dataclass(frozen=True)
class Recommended:
    """The architecture that a run recommends.

    Args:
        architecture: site → choice.
        predicted: expected validation accuracy in [0, 1]: the posterior mean, corrected for the bias of the maximum.
        ci_low, ci_high: 95 % interval of the expectation, not of one training.
        n_trials: number of trainings that it is based on.
        observed: mean accuracy of the trainings of exactly this architecture, or None.
    """

    architecture: Architecture
    predicted: float
    ci_low: float
    ci_high: float
    n_trials: int
    observed: float | None = None


@dataclass(frozen=True)
class NamedNetworks:
    """The named networks of a run.

    Args:
        best: the best observed training, see `records.best_observed`: partly luck.
        recommended: the largest expected accuracy; None if there are too few trainings, see `reason`.
        retested: the trainings of the candidate that was compared with its parent on the test set.
        reason: reason if nothing is recommended.
    """

    best: TrialRecord | None
    recommended: Recommended | None
    retested: tuple[TrialRecord, ...]
    reason: str = ""


def named_networks(info: RunInfo, most: int | None = None) -> NamedNetworks:
    """The named networks, as far as they exist.

    Args:
        most: most trainings for which a network is recommended, which takes time cubic in their number.
    """
    best, tested = best_observed(info.records), tuple(retested(info.records))
    if most is not None and len(info.records) > most:
        reason = f"with more than {most:,} trainings it takes long; reborn_nas.recommend(run) does it"
        return NamedNetworks(best, None, tested, reason)
    try:
        return NamedNetworks(best, recommend_info(info), tested)
    except ConfigError as error:
        return NamedNetworks(best, None, tested, " ".join(str(error).split()))


def recommend_info(info: RunInfo) -> Recommended:
    """The architecture with the largest posterior mean accuracy within the run's limits.

    Raises:
        ConfigError: too few finished trainings, or nothing fits the limits.
    """
    if "backbone" not in info.settings:
        raise ConfigError("the run has just begun: it keeps no settings yet")
    plan = info.plan
    factors: Mapping[str, Any] = plan.get("factors", {})
    members: Mapping[str, Any] = plan.get("members") or factors
    activations = {str(site["name"]): str(site["activation"]) for site in info.sites}
    stages = {str(site["name"]): int(site["stage"]) for site in info.sites}
    budgets = tuple(Budget(**budget) for budget in plan.get("budgets", ()))
    spec = BackboneSpec.from_dict(
        {key: value for key, value in info.settings["backbone"].items() if key != "pretrained"}
    )

    def build(chosen: Mapping[str, str]) -> Architecture:
        choices = dict(plan.get("fixed", {}))
        sites = {name: label for name, label in chosen.items() if not is_argument(name)}
        choices.update({site: label for name, label in sites.items() for site in members.get(name, (name,))})
        return Architecture(with_arguments(spec, chosen), choices)

    found = recommend_run(
        info.records,
        words=own_words(plan.get("parameters", {}), members, activations),
        stages={name: stages[sites[0]] for name, sites in members.items() if sites and sites[0] in stages},
        budgets=budgets,
        excess=counted_excess(spec, {budget.name: budget.limit for budget in budgets}, build),
    )
    predicted, low, high = (
        info.metric.nearest(score) for score in (found.predicted, found.ci_low, found.ci_high)
    )  # the model is linear and may leave the range of the metric
    return Recommended(build(found.choices), predicted, low, high, found.n_trials, found.observed)


def pareto_records(records: Iterable[TrialRecord], names: Sequence[str]) -> list[TrialRecord]:
    """The Pareto front of the search's finished trainings, by descending accuracy.

    It is of observed validation accuracies, each partly luck, and not a claim. Equal ones are all kept.
    """
    judged = [
        (record, values)
        for record in records
        if record.phase == "search"
        and record.state == "complete"
        and (values := objective_values(record, names)) is not None
    ]
    if not judged:
        return []
    front = pareto_front([values for _, values in judged], [name == "accuracy" for name in names])
    kept = [record for (record, _), on in zip(judged, front, strict=True) if on]
    return sorted(kept, key=lambda record: (-(record.accuracy or 0.0), record.number))


def pareto_series(records: Iterable[TrialRecord], names: Sequence[str]) -> dict[str, Any]:
    """The hypervolume over the search's trainings in order, with its reference point.

    Returns:
        `trials` (numbers), `hypervolume` and `reference` (objective → value), in units of accuracy times the costs
        divided by their range, so that it is in [0, 1.2 ^ costs].
    """
    judged = sorted(
        (
            (record.number, values)
            for record in records
            if record.phase == "search"
            and record.state == "complete"
            and (values := objective_values(record, names)) is not None
        ),
        key=lambda pair: pair[0],
    )
    if not judged:
        return {"trials": [], "hypervolume": [], "reference": {}}
    table = np.array([values for _, values in judged])
    maximise = [name == "accuracy" for name in names]
    corner = worst_corner(table, maximise)
    unit = np.array(
        [1.0 if up else max(float(np.ptp(column)), 1e-12) for up, column in zip(maximise, table.T)]
    )
    series = hypervolume_over_trials(table / unit, maximise, (corner / unit).tolist())
    return {
        "trials": [number for number, _ in judged],
        "hypervolume": series.tolist(),
        "reference": dict(zip(names, corner.tolist(), strict=True)),
    }
