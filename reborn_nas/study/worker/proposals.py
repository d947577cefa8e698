"""What Optuna decides on a training: the sampler's proposal, the pruner's stop, the state of its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from reborn_nas.analysis.model.maximise import Budget
from reborn_nas.architecture import Architecture
from reborn_nas.errors import StudyError, blame_machine
from reborn_nas.records import SCORE, TrialRecord
from reborn_nas.samplers.additive import TrialRows
from reborn_nas.samplers.registry import learns_from_pruned, make_pruner, make_sampler, rungs
from reborn_nas.seeds import derive_seed
from reborn_nas.study.setup.warm import search_epochs
from reborn_nas.study.store.outcome import TrialOutcome, outcome_of
from reborn_nas.study.store.patience import AwayError
from reborn_nas.study.store.queue import Claim

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study

    from reborn_nas.study.setup.context import StudyContext
    from reborn_nas.study.store.storage import RunStore

__all__ = ["MOST_REJECTIONS", "Proposals"]

MOST_REJECTIONS = 50
"""Proposals over budget after which a search training is given up; a sampler has learned what fits by then."""


class Proposals:
    """Asks a new sampler for each search training, and the pruner at each rung.

    Args:
        context: what all trainings have in common.
        store: the run's studies.
    """

    def __init__(self, context: StudyContext, store: RunStore) -> None:
        self._context, self._store = context, store
        config = context.config
        self.learns_pruned = learns_from_pruned(make_sampler(config.sampler, 0))
        epochs = search_epochs(context)
        self._pruner = make_pruner(config.pruner, epochs)
        self._rungs = frozenset(rungs(config.pruner, epochs))
        self._sampler: BaseSampler | None = None
        self._known: Mapping[str, Any] | None = None

    def outcome(self, record: TrialRecord) -> TrialOutcome:
        """See `outcome_of`."""
        return outcome_of(record, self.learns_pruned, self._context.config.objectives, self._context.metric)

    def propose(self, claim: Claim) -> Architecture:
        """The architecture of the design, or the sampler's proposal for this slot."""
        self._sampler = None
        if claim.run.architecture is not None:
            return Architecture.from_dict(claim.run.architecture)
        config = self._context.config
        words = (claim.run.key, str(claim.rejections)) if claim.rejections else (claim.run.key,)
        seed = derive_seed(config.seed, "sampler", *words)
        sampler = make_sampler(config.sampler, seed, **self._sampler_arguments())
        try:
            trial = optuna.trial.Trial(self._study(sampler), claim.trial_id)
            architecture = self._context.space.suggest(trial, self._context.sites, self._context.spec)
        except AwayError:
            raise
        except Exception as error:
            blame_machine(error, f"sampler {config.sampler!r}")
            raise StudyError(
                f"sampler {config.sampler!r} failed to propose an architecture: {error!r}"
            ) from error
        claim.run = replace(claim.run, parameters=trial.params)
        self._sampler = sampler
        return architecture

    def _sampler_arguments(self) -> Mapping[str, Any]:
        """Arguments of the sampler: stages, the plan's limits on additive costs (a latency is learned from the measured
        ones instead), and the trials that earlier samplers have read.
        """
        if self._known is None:
            plan = self._store.attribute("plan") or {}
            budgets = (Budget(**budget) for budget in plan.get("budgets", ()))
            self._known = {
                "budgets": tuple(budget for budget in budgets if budget.name != "latency"),
                "stages": self._context.stages(),
                "rows": TrialRows(),
            }
        return self._known

    def after_trial(self, claim: Claim, outcome: TrialOutcome) -> None:
        """Call `after_trial` of the sampler that proposed."""
        if self._sampler is None:
            return
        frozen = self._store.storage.get_trial(claim.trial_id)
        state = TrialState[outcome.state]
        self._sampler.after_trial(self._store.study("search"), frozen, state, outcome.values)

    def should_prune(self, claim: Claim, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether the pruner stops this search training after `epoch`. At a rung, its accuracy is reported."""
        if self._pruner is None or claim.run.phase != "search" or epoch not in self._rungs:
            return False
        storage = self._store.storage
        value = self._context.metric.value(float(metrics[SCORE]))
        storage.set_trial_intermediate_value(claim.trial_id, epoch, value)
        return bool(self._pruner.prune(self._study(), storage.get_trial(claim.trial_id)))

    def _study(self, sampler: BaseSampler | None = None) -> Study:
        return optuna.load_study(
            study_name=self._store.study("search").study_name,
            storage=self._store.storage,
            sampler=sampler or optuna.samplers.RandomSampler(seed=0),
            pruner=self._pruner,
        )
