"""Three networks of a run: the best observed, the recommended, the retested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.errors import ConfigError
from reborn_nas.records import TrialRecord
from reborn_nas.winners import best_observed, retested

if TYPE_CHECKING:
    from reborn_nas.study.store.reading import RunInfo

__all__ = ["Recommended", "Standing", "recommend_info", "standing"]


@dataclass(frozen=True)
class Recommended:
    """The architecture that a run recommends.

    Args:
        architecture: site → choice.
        predicted: expected validation accuracy in [0, 1]: the posterior mean, less what a maximiser promises too much.
        ci_low, ci_high: its 95 % interval, of the expectation and not of one training.
        n_trials: trainings behind it.
        observed: mean accuracy of the trainings that were exactly this, None where there is none.
    """

    architecture: Architecture
    predicted: float
    ci_low: float
    ci_high: float
    n_trials: int
    observed: float | None = None


@dataclass(frozen=True)
class Standing:
    """What a run has to show.

    Args:
        best: the best observed training, see `winners.best_observed`: partly luck.
        recommended: the largest expected accuracy; None while there are too few trainings, see `reason`.
        retested: the trainings of the candidate that was compared with its parent on the test set.
        reason: why nothing is recommended.
    """

    best: TrialRecord | None
    recommended: Recommended | None
    retested: tuple[TrialRecord, ...]
    reason: str = ""


def standing(info: RunInfo, most: int | None = None) -> Standing:
    """The three networks, as far as there are any.

    Args:
        most: trainings up to which a network is recommended, which takes the cube of them.
    """
    best, tested = best_observed(info.records), tuple(retested(info.records))
    if most is not None and len(info.records) > most:
        reason = f"with more than {most:,} trainings it takes long; reborn_nas.recommend(run) does it"
        return Standing(best, None, tested, reason)
    try:
        return Standing(best, recommend_info(info), tested)
    except ConfigError as error:
        return Standing(best, None, tested, " ".join(str(error).split()))


def recommend_info(info: RunInfo) -> Recommended:
    """The architecture with the largest posterior mean accuracy within the run's limits.

    Raises:
        ConfigError: too few finished trainings, or nothing fits the limits.
    """
    from reborn_nas.analysis.model.maximise import Budget
    from reborn_nas.backbone.load.variants import is_argument, with_arguments
    from reborn_nas.study.plan.candidate import own_words, recommend_run
    from reborn_nas.study.setup.costs import counted_excess

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
        min(1.0, max(0.0, value)) for value in (found.predicted, found.ci_low, found.ci_high)
    )  # the model is linear, accuracies are not
    return Recommended(build(found.choices), predicted, low, high, found.n_trials, found.observed)
