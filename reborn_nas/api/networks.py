"""The networks of a run that have names: best observed, recommended, retested."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reborn_nas.api.run import MANY, Run, info_of
from reborn_nas.study import RunInfo
from reborn_nas.study.result.networks import Recommended, Standing, recommend_info
from reborn_nas.study.result.networks import standing as stand
from reborn_nas.study.store.opening import reads_run

if TYPE_CHECKING:
    from reborn_nas.study.search import RunResult


@reads_run
def recommend(study: RunResult | Run) -> Recommended:
    """The architecture with the largest posterior mean accuracy in an additive model of a run's trainings.

    Within the run's limits, and never just the best observed trial, whose accuracy is partly luck.

    Raises:
        ConfigError: the run has too few finished trainings for that.
    """
    info = info_of(study)
    found, value = recommend_info(info), info.metric.value
    if info.metric.is_accuracy:
        return found
    low, high = sorted((value(found.ci_low), value(found.ci_high)))
    observed = None if found.observed is None else value(found.observed)
    return replace(found, predicted=value(found.predicted), ci_low=low, ci_high=high, observed=observed)


@reads_run
def standing(study: RunResult | RunInfo | Run) -> Standing:
    """The best observed, the recommended and the confirmed network of a run: three different things."""
    return stand(info_of(study), most=MANY)
