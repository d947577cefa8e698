"""Everything before the first training: names resolved, data loaded, phases counted, time and power estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reborn_nas.analysis import minimum_detectable_effect, screen_sizes
from reborn_nas.analysis.designs.blocks import split_allowance
from reborn_nas.analysis.designs.design import EDITION
from reborn_nas.analysis.effects.aliases import find_aliases
from reborn_nas.analysis.effects.budget import spend
from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.errors import StudyError
from reborn_nas.records import public_name
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.config.objectives import named_objectives
from reborn_nas.study.plan.contrast import Contrast, members_of
from reborn_nas.study.plan.designs import screen_runs
from reborn_nas.study.plan.phases import Phase, plan_phases
from reborn_nas.study.setup.context import StudyContext, check_same, site_row
from reborn_nas.study.setup.costs import CostBook
from reborn_nas.study.setup.processes import choose_processes
from reborn_nas.study.setup.resolve import images_of, make_context
from reborn_nas.study.setup.warm import read_parent
from reborn_nas.study.store.compat import trial_id
from reborn_nas.study.store.opening import check_run_folder, is_run_folder
from reborn_nas.study.store.storage import find_store

if TYPE_CHECKING:
    from reborn_nas.analysis.model.maximise import Budget
    from reborn_nas.backbone import Site
    from reborn_nas.study.store.storage import RunStore

__all__ = [
    "PlanView",
    "Prospects",
    "TRUE_SITES",
    "next_total",
    "plan_search",
    "screen_prospects",
    "with_images",
]

TRUE_SITES = (1, 2, 5)
"""Numbers of sites with an effect for which the plan says how large it must be."""


@dataclass(frozen=True)
class Prospects:
    """Effects in percentage points that a screen finds with 80 % power, in either direction.

    Args:
        runs: trainings of the screen.
        spread: standard deviation of one training that is assumed, in percentage points.
        effects: number of sites with an effect → the effect that is found at each of them.
        doubled: the effect found at one site by twice the trainings.
        aliases: what else one site's effect could be, a sentence.
    """

    runs: int
    spread: float
    effects: Mapping[int, float]
    doubled: float
    aliases: str

    def lines(self) -> list[str]:
        """Sentences for people."""
        first, *others = self.effects.items()
        also = (
            "; " + ", ".join(f"{size:.2f} pp at each of {count}" for count, size in others) if others else ""
        )
        return [
            f"With its {self.runs} trainings the screen finds an effect of {first[1]:.2f} pp at one site with 80 % "
            f"power{also}, if trainings spread by {self.spread:.2f} pp; the baseline measures the spread.",
            f"Twice the trainings would find {self.doubled:.2f} pp at one site.",
            self.aliases,
        ]


def screen_prospects(
    phase: Phase, contrast: Contrast, seed: int, spread: float, *, retest: bool = False
) -> Prospects | None:
    """What the screen `phase` can see where trainings spread by `spread` percentage points; None without a screen.

    Args:
        retest: whether the study has a retest, to which a part of the error budget goes.
    """
    if not phase.count:
        return None
    runs = screen_runs(phase, contrast, BackboneSpec("own:any"), seed)
    names = list(contrast.factors)
    design = np.array([[run.levels[name] for name in names] for run in runs], dtype=np.bool_)
    block = np.array([run.block for run in runs])
    splits = 1 + int(block.max())
    matrix = np.hstack([design - 0.5, np.eye(splits)[block]])
    wider = float(split_allowance(matrix, len(names), block).mean())
    sides = (contrast.low, contrast.high)
    options = sum(max(0, len(values) - 1) for side in sides for values in (side.kernels, side.compressions))

    level = spend(retest=retest).screen

    def smallest(times: int, true_sites: int) -> float:
        return minimum_detectable_effect(
            times * len(runs), len(names), wider * spread, q=level, true_sites=true_sites,
            df=max(1, times * (len(runs) - splits) - len(names) - options),
        )  # fmt: skip

    effects = {count: smallest(1, count) for count in TRUE_SITES if count <= len(names)}
    return Prospects(len(runs), spread, effects, smallest(2, 1), find_aliases(design).sentence(names))


@dataclass(frozen=True, repr=False)
class PlanView:
    """What a search will do.

    Args:
        context: what all trainings share.
        phases: in execution order, those left out with their reason.
        notes: what the user should be told.
        done: trainings that have a result already.
        resumed: whether the run exists.
        seconds: estimated time of what is left on this machine with the workers asked for; None if not measured.
        prospects: what the screen will be able to see; None without a screen.
        budgets: the limits as sums over the search's parameters.
        adopted: the settings that were changed while the study went on, each a line.
        store: the run's studies where it exists, open: reading ten thousand trials again takes seconds.
    """

    context: StudyContext
    phases: tuple[Phase, ...]
    notes: tuple[str, ...]
    done: int = 0
    resumed: bool = False
    seconds: float | None = None
    prospects: Prospects | None = None
    budgets: tuple[Budget, ...] = ()
    adopted: tuple[str, ...] = ()
    store: RunStore | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        counts = ", ".join(f"{public_name(phase.name)} {phase.count}" for phase in self.phases if phase.count)
        return f"<PlanView {self.config.study_name!r}: {self.done} of {self.total} trainings done; {counts}>"

    @property
    def config(self) -> StudyConfig:
        """What was asked for."""
        return self.context.config

    @property
    def total(self) -> int:
        """Trainings of all phases."""
        return sum(phase.count for phase in self.phases)

    @property
    def spec(self) -> BackboneSpec:
        """The complete backbone spec."""
        return self.context.spec

    @property
    def sites(self) -> tuple[Site, ...]:
        """The backbone's activation sites."""
        return self.context.sites

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return len(self.context.sites)

    @property
    def parameters(self) -> Mapping[str, tuple[str, ...]]:
        """Parameter of the search → its labels."""
        return self.context.parameters

    def to_dict(self) -> dict[str, Any]:
        """What plan.json and the storage keep."""
        context = self.context
        members = members_of(context.space, context.sites, context.spec)
        return {
            "total": self.total,
            "phases": [phase.to_dict() for phase in self.phases],
            "contrast": list(context.contrast.arms),
            "factors": {name: list(sites) for name, sites in context.contrast.factors.items()},
            "parameters": {name: list(labels) for name, labels in self.parameters.items()},
            "sites": [site_row(site) for site in self.sites],
            "data": self.context.data_row,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "detectable_effect": self.prospects and self.prospects.effects[1],
            "objectives": list(named_objectives(self.config.objectives, self.config.judged_by)),
            "members": {name: list(sites) for name, sites in members.items()},
            "fixed": {
                site: choice.label
                for site, choice in context.space.architecture({}, context.sites, context.spec)
                if site not in {one for sites in members.values() for one in sites}
            },
            "budgets": [asdict(budget) for budget in self.budgets],
        }


def plan_search(config: StudyConfig, *, measure: bool = True, decode: bool = False) -> PlanView:
    """The plan of `config`, or of its continuation where the run exists. Trains a few steps; of a new study it writes
    nothing, and of a folder of images it reads headers and a sample, unless it is to decode all.

    Raises:
        RebornError: every fault that can be seen before training.
    """
    check_run_folder(config.folder)
    store = find_store(config) if config.storage or is_run_folder(config.folder) else None
    if store is not None:
        config = settled(config, store)
    proofs = None if store is None else store.attribute("proofs")
    context = make_context(config, proofs=proofs, decode=decode or store is not None)
    budgets = check_search(context)
    earlier: Sequence[Phase] = ()
    adopted: tuple[str, ...] = ()
    done = 0
    if store is not None:
        adopted = (*store.attribute("adopted", ()), *check_same(store, context))
        kept = store.attribute("plan")
        earlier = [Phase.from_dict(row) for row in kept["phases"]] if kept else ()
        done = _count_done(store)
    phases = _phases(context, earlier)
    before = sum(phase.count for phase in earlier)
    notes = [*context.notes, *(f"changed while the study went on: {line}" for line in adopted)]
    if before > config.total:
        notes.append(
            f"the study has {before} trainings planned already; a total of {config.total} takes none away"
        )
    notes += [f"{public_name(phase.name)}: {phase.reason}" for phase in phases if phase.reason]
    view = PlanView(
        context,
        phases,
        tuple(notes),
        done=done,
        resumed=bool(earlier),
        budgets=budgets,
        adopted=adopted,
        store=store,
    )
    count = {phase.name: phase for phase in phases}
    spread = _sampling_spread(context)
    seen = None
    if spread:
        retest = count["confirm"].count > 0
        seen = screen_prospects(count["screen"], context.contrast, config.seed, spread, retest=retest)
    view = replace(view, prospects=seen)
    return _with_seconds(view) if measure and done < view.total else view


def with_images(view: PlanView) -> PlanView:
    """The plan with all of its images decoded; made again where the sample that was looked at misled it.

    Raises:
        DataError: images that cannot be read.
    """
    context = view.context
    if context.own is not None or not context.images.planned:
        return view
    images = images_of(view.config)
    if images.input_size != context.images.input_size:
        return plan_search(view.config, decode=True)
    return replace(view, context=replace(context, images=images))


def check_search(context: StudyContext) -> tuple[Budget, ...]:
    """The limits as budgets. Raises ConfigError where nothing fits them, or the parent's weights fit no backbone."""
    config = context.config
    if config.parent is not None:
        read_parent(config.parent, context.template)
    costs = CostBook(context)
    if not costs.limits:
        return ()

    def build(chosen: Mapping[str, str]) -> Architecture:
        return context.space.architecture(chosen, context.sites, context.spec)

    costs.refuse_impossible(context.parameters, build)
    return costs.budgets(context.parameters, build)


def settled(config: StudyConfig, store: RunStore) -> StudyConfig:
    """`config` with what the study has settled where nobody says otherwise: the number of threads."""
    threads = (store.attribute("settings") or {}).get("threads")
    return config if config.threads is not None or threads is None else config.replace(threads=threads)


def _phases(context: StudyContext, earlier: Sequence[Phase]) -> tuple[Phase, ...]:
    config = context.config
    n_factors = len(context.contrast.factors)
    sizes = screen_sizes(n_factors, max(config.total, 2)) if n_factors >= 2 else ()
    tested = context.contrast.high.choice.name
    no_control = (
        "" if tested == "reborn" else f"only reborn has a positive twin to be compared with, not {tested}"
    )
    return plan_phases(
        config.total,
        n_factors,
        sizes=sizes,
        counts=config.counts,
        earlier=earlier,
        no_control=no_control,
        spread=_sampling_spread(context),
        edition=EDITION,
    )


def next_total(view: PlanView) -> int | None:
    """The least total by which the study would also retest its top sites and run the control.

    None where it has both, was asked to leave them out, or has no use for them.
    """
    missing = {
        phase.name for phase in view.phases if phase.name in ("confirm", "control") and not phase.count
    }
    if not missing or missing & view.config.counts.keys() or len(view.context.contrast.factors) < 2:
        return None
    for more in range(32, 289, 16):
        context = replace(view.context, config=view.config.replace(trials=view.total + more))
        planned = {phase.name for phase in _phases(context, view.phases) if phase.count}
        if missing <= planned:
            return view.total + more
    return None


def _count_done(store: RunStore) -> int:
    void = store.void()
    return sum(
        "record" in trial.user_attrs and trial.state.is_finished() and trial_id(trial) not in void
        for study in store.studies()
        for trial in study.get_trials(deepcopy=False)
    )


def _sampling_spread(context: StudyContext) -> float:
    """What the validation images alone make one training spread by, in percentage points; 0: not known.

    Of an accuracy or top-5 accuracy of 75 %, and of a balanced accuracy with 75 % of each class, which rests on as many
    images of a class as there are; nobody knows beforehand how the other metrics spread.
    """
    if context.own is not None or context.metric.name not in ("accuracy", "top5", "balanced_accuracy"):
        return 0.0
    size = max(1, int(context.images.validation_size))
    if context.metric.name != "balanced_accuracy":
        return float(100 * (0.75 * 0.25 / size) ** 0.5)
    counts = context.images.counts(context.images.pool)
    each = [max(1.0, count * size / sum(counts)) for count in counts]
    return float(100 * sum(0.75 * 0.25 / n for n in each) ** 0.5 / len(each))


def _with_seconds(view: PlanView) -> PlanView:
    """Time of each phase, and how many processes share it, from a few measured steps."""
    left = max(0, view.total - view.done)
    chosen = choose_processes(view.context, left)
    context = replace(view.context, config=view.context.config.with_processes(chosen.count))
    view = replace(view, context=context, notes=(*view.notes, *chosen.notes))
    if chosen.training is None:
        return view
    each = chosen.training / chosen.count
    phases = tuple(replace(phase, seconds=phase.count * each) for phase in view.phases)
    return replace(view, phases=phases, seconds=left * each)


def require_device_free(config: StudyConfig) -> None:
    """Raise StudyError where more workers than devices would share an accelerator unasked."""
    asked = config.workers if isinstance(config.workers, int) else 0
    if asked > 1 and config.devices and len(config.devices) not in (1, asked):
        raise StudyError(
            f"workers: {asked} workers on {len(config.devices)} devices; name one, or one a worker"
        )
