"""The schedule: enqueues the runs of each phase once they can be trained, and lost runs again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from reborn_nas.architecture import Architecture, Choice
from reborn_nas.errors import ConfigError, StudyError
from reborn_nas.records import TrialRecord
from reborn_nas.study.config.objectives import objective_values
from reborn_nas.study.plan import designs
from reborn_nas.study.plan.candidate import (
    Candidate,
    decide_candidate,
    leading_factors,
    recommend_run,
    top_factors,
)
from reborn_nas.study.plan.designs import TOP_SINGLE, Run, check_runs
from reborn_nas.study.plan.phases import KINDS, Phase
from reborn_nas.study.setup.costs import CostBook
from reborn_nas.study.setup.warm import is_warm_study
from reborn_nas.study.store.attempts import is_final
from reborn_nas.study.store.compat import artifacts_of, trial_id
from reborn_nas.study.store.journal import GatheringJournal, together
from reborn_nas.study.store.queue import RunQueue
from reborn_nas.study.worker.log import log
from reborn_nas.study.worker.progress import Progress

if TYPE_CHECKING:
    from reborn_nas.study.setup.context import StudyContext
    from reborn_nas.study.store.attempts import AttemptCounts
    from reborn_nas.study.store.storage import RunStore

__all__ = ["Schedule", "common_failure", "void_failed_results"]

WINDOW = 64
"""Most runs that wait for a worker in a journal, or sixteen per worker if that is more; a quarter in a database,
which sends all waiting trials at every poll."""


SMALLEST_BASELINE = 8
"""Trainings that fail in the same way before the study is stopped, if it has no baseline."""

MOST_REASONS = 3
"""Most reasons that an error lists."""


class Schedule:
    """Fills one run's queue, phase after phase. Any worker may lead, one at a time.

    Args:
        context: what all trainings have in common.
        store: the run's studies.
        phases: the plan.
        queue: of runs that wait.
        progress: receives the decisions as notes.
    """

    def __init__(
        self,
        context: StudyContext,
        store: RunStore,
        phases: Sequence[Phase],
        queue: RunQueue,
        progress: Progress,
    ) -> None:
        self._context, self._store, self._queue, self._progress = context, store, queue, progress
        planned = self._phases = {phase.name: phase for phase in phases}
        seed = context.config.seed
        most = max(WINDOW, 16 * context.config.processes)
        self._window = most if isinstance(store.storage, GatheringJournal) else most // 4
        self._screen = designs.screen_runs(planned["screen"], context.contrast, context.spec, seed)
        blocks = max([1, *(run.block + 1 for run in self._screen)])
        self._baseline = designs.baseline_runs(
            planned["baseline"].count, context.contrast, context.spec, seed, blocks
        )
        warm = is_warm_study(
            context
        )  # the parent has then been trained on the other splits' validation images
        self._slots = designs.search_runs(planned["search"].count, seed, 1 if warm else blocks)
        self._costs = CostBook(context)
        self._seen: AttemptCounts | None = None
        self._taught = False

    @property
    def total(self) -> int:
        """Trainings of all phases."""
        return sum(phase.count for phase in self._phases.values())

    def complete(self) -> bool:
        """Whether every planned training was finished when a leader last looked."""
        return bool(self._store.attribute("finished", -1) == self.total)

    def spent(self) -> bool:
        """Whether the study's trainings have used up its device hours."""
        hours = self._context.config.gpu_hours
        if hours is None:
            return False
        seconds = sum(record.seconds for record in self._finished())
        return seconds >= 3600 * hours

    def any_complete(self) -> bool:
        """Whether any training of the study has ended well."""
        return any(record.state == "complete" for record in self._finished())

    def _finished(self) -> list[TrialRecord]:
        return [record for name in self._phases for record in self._queue.finished(name).values()]

    def lead(self) -> bool:
        """Reap lost runs and enqueue what can be trained now; whether anything was enqueued.

        Raises:
            StudyError: all trainings failed in the same way.
        """
        queue = self._queue
        ended = queue.reap()
        counts = queue.counts()
        if not ended and (counts == self._seen or counts.waiting > self._window // 2):
            return False
        self.raise_if_all_fail()
        with self._store.leading(queue.watch) as mine:
            if not mine:
                return False
            counts = queue.counts()  # another leader may have enqueued runs meanwhile
            added = counts.waiting <= self._window // 2 and self._advance(self._window - counts.waiting)
        self._seen = queue.counts()
        return added

    def raise_if_all_fail(self) -> None:
        """Raise StudyError if no training completed: all others would fail in the same way.

        That is known after the baseline, after as many trainings as the smallest baseline has, or after all.
        """
        records = self._finished()
        if len(records) < _sure_after(self._phases.values()) or (reason := common_failure(records)) is None:
            return
        raise StudyError(
            f"all {len(records)} trainings ended without a result: {reason}\n"
            "Fix the cause and run the same command, which starts from scratch"
        )

    def candidate(self) -> Candidate:
        """The candidate: as decided before if its runs have begun, else from the present records."""
        kept = self._store.attribute("candidate")
        if kept is not None and kept.get("fixed"):
            return Candidate.from_dict(kept)
        finished = self._queue.finished
        decided = decide_candidate(
            list(finished("screen").values()),
            list(finished("search").values()),
            self._context.contrast,
            self._context.spec,
            recommended=self._recommended,
            costs=self._costs,
        )
        fixed = any(phase.count for name, phase in self._phases.items() if KINDS[name].needs_candidate)
        self._store.keep("candidate", {**decided.to_dict(), "fixed": fixed})
        self._progress.note(f"candidate: {decided.reason}")
        log.info("candidate: %s", decided.reason)
        return decided

    def _recommended(self) -> Architecture | None:
        """The recommendation from screen and exploration; None if there are too few trainings, or nothing fits."""
        context = self._context
        screened = [
            replace(record, parameters=parameters)
            for record in self._queue.finished("screen").values()
            if (parameters := self._sampled_parameters(record)) is not None
        ]

        def build(chosen: Mapping[str, str]) -> Architecture:
            return context.space.architecture(chosen, context.sites, context.spec)

        try:
            found = recommend_run(
                [*screened, *self._queue.finished("search").values()],
                words={},
                stages=context.stages(),
                budgets=self._costs.budgets(context.parameters, build),
                excess=lambda chosen: self._costs.excess(build(chosen)),
            )
        except ConfigError:
            return None
        return build(found.choices)

    def _advance(self, most: int) -> bool:
        opened = [*self._baseline, *self._screen]
        if self._queue.enqueue(opened, most):
            return True
        if not self._all_done(opened):
            return False
        self._copy_screen()
        if self._queue.enqueue(self._slots, most):
            return True
        if not self._all_done(self._slots):
            return False
        last = self._later_runs(self.candidate())
        if self._queue.enqueue(last, most):
            return True
        if self._all_done(last):
            self._store.keep("finished", self.total)
        return False

    def _later_runs(self, candidate: Candidate) -> list[Run]:
        contrast, incumbent = self._context.contrast, candidate.architecture
        seed = self._context.config.seed
        runs = designs.candidate_runs(self._phases["candidate"].count, incumbent, contrast, seed)
        confirm, control = self._phases["confirm"], self._phases["control"]
        checks = self._phases["checks"].count if "checks" in self._phases else 0
        if not confirm.count and not control.count and not checks:
            return runs
        top = self._store.attribute("top")
        if top is None:
            screen = list(self._queue.finished("screen").values())
            top = top_factors(screen, contrast)
            self._store.keep("top", top)
        if confirm.count:
            runs += designs.confirm_runs(confirm, incumbent, top, contrast, seed)
        if control.count:
            runs += designs.control_runs(control, incumbent, top, contrast, seed)
        if checks:
            runs += check_runs(checks, incumbent, top, self._leading(), contrast, seed, self._admits)
        return runs

    def _leading(self) -> list[str]:
        """The factors of the screen with the largest estimates, largest first."""
        kept = self._store.attribute("top_ranked")
        if kept is None:
            screen = list(self._queue.finished("screen").values())
            kept = leading_factors(screen, self._context.contrast, TOP_SINGLE)
            self._store.keep("top_ranked", kept)
        return [str(name) for name in kept]

    def _admits(self, site: str, choice: Choice) -> bool:
        return next(one for one in self._context.sites if one.name == site).refusal(choice) is None

    def _all_done(self, runs: Sequence[Run]) -> bool:
        have: dict[str, set[str]] = {}
        for run in runs:
            if run.phase not in have:
                have[run.phase] = self._queue.done(run.phase)
            if run.key not in have[run.phase]:
                return False
        return True

    def _copy_screen(self) -> None:
        """Add the screen's runs to the search's study, so that the sampler starts from them."""
        if self._taught:
            return
        study = self._store.study("search")
        known = {trial.user_attrs.get("copy_of") for trial in study.get_trials(deepcopy=False)}
        copies = []
        objectives = self._context.config.objectives
        spaces = {name: CategoricalDistribution(labels) for name, labels in self._context.parameters.items()}
        screened = self._store.study("screen").get_trials(deepcopy=False)
        pictures = {t.user_attrs["key"]: artifacts_of(t) for t in screened if "record" in t.user_attrs}
        for key, record in self._queue.finished("screen").items():
            parameters = self._sampled_parameters(record)
            if key in known or parameters is None or record.accuracy is None:
                continue
            architecture = Architecture.from_dict(record.architecture)
            values = objective_values(
                replace(record, accuracy=self._context.metric.told(record.accuracy)),
                objectives,
                partial(self._costs.value, architecture),
            )
            copies.append(
                create_trial(
                    state=TrialState.COMPLETE,
                    values=values,
                    constraints=self._costs.excess(architecture) or None,
                    params=parameters,
                    distributions={name: spaces[name] for name in parameters},
                    user_attrs={
                        "copy_of": key,
                        "phase": "screen",
                        "seed": record.seed,
                        "digest": record.digest,
                    },
                    system_attrs=pictures.get(key),
                )
            )
        with together(self._store.storage):
            study.add_trials(copies)
        self._taught = True

    def _sampled_parameters(self, record: TrialRecord) -> dict[str, str] | None:
        """The screen's parameters as labels of the search space; None if it has no such labels."""
        activation = {site.name: site.activation for site in self._context.sites}
        found = self._context.space.variants.labels_of(self._context.spec)
        for name, labels in self._context.space.site_parameters(self._context.sites).items():
            members = self._context.contrast.factors.get(name, ())
            own = {activation[member] for member in members}
            label = record.parameters.get(name, "original")
            # a space that names the parent's own activation has no "original"
            words = [label, *(word for word in labels if label == "original" and own == {word})]
            fitting = [word for word in words if word in labels]
            if not fitting:
                return None
            found[name] = fitting[0]
        return found


def void_failed_results(store: RunStore, phases: Iterable[Phase]) -> None:
    """Void the results of a study in which all trainings failed."""
    void = store.void()
    failed = {
        trial_id(trial): TrialRecord.from_dict(trial.user_attrs["record"])
        for study in store.studies()
        for trial in study.get_trials(deepcopy=False)
        if is_final(trial) and "record" in trial.user_attrs and trial_id(trial) not in void
    }
    if len(failed) >= _sure_after(phases) and common_failure(list(failed.values())) is not None:
        store.keep("void", sorted({*void, *failed}))


def _sure_after(phases: Iterable[Phase]) -> int:
    """Failed trainings after which the study is stopped: as many as the baseline has, or all if they are fewer."""
    counts = {phase.name: phase.count for phase in phases}
    return counts.get("baseline", 0) or min(SMALLEST_BASELINE, sum(counts.values()))


def common_failure(records: Sequence[TrialRecord]) -> str | None:
    """Return why none of `records` is complete, each reason once; None if one is, or if there are none.

    Reasons that differ only in their numbers count as one.
    """
    if not records or any(record.state not in ("failed", "diverged") for record in records):
        return None
    reasons = {re.sub(r"[\d.]+", "…", record.reason): record.reason for record in reversed(records)}
    return "; ".join(sorted(reasons.values())[:MOST_REASONS])
