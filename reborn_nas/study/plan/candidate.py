"""What later phases train, decided from the records of earlier ones: candidate, top sites, recommendation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from reborn_nas.analysis import option_counts
from reborn_nas.analysis.effects.collapse import collapsed, failures_by_site
from reborn_nas.analysis.model.constraints import learned_budgets
from reborn_nas.analysis.model.encoding import Space
from reborn_nas.analysis.model.maximise import best_assignment
from reborn_nas.analysis.model.recommend import choices_of, recommend
from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.errors import ConfigError
from reborn_nas.metric import spoken
from reborn_nas.records import TrialRecord, best_of, chance_level
from reborn_nas.study.plan.contrast import Contrast, Side

if TYPE_CHECKING:
    from reborn_nas.analysis.model.maximise import Budget
    from reborn_nas.analysis.model.recommend import Excess, Recommendation

__all__ = [
    "Candidate",
    "decide_candidate",
    "is_warm",
    "leading_factors",
    "own_words",
    "recommend_run",
    "top_factors",
    "usable_records",
]

TOP = 5


class Limits(Protocol):
    """The methods of a study's costs that are needed here."""

    @property
    def limits(self) -> Sequence[Any]:
        """The limits; empty if every network is allowed."""

    def excess(self, architecture: Architecture) -> Mapping[str, float]:
        """Quantity → excess over its limit, as a share of the limit."""

    def fits(self, architecture: Architecture) -> bool:
        """Whether the architecture keeps every limit."""

    def budgets(
        self,
        choices: Mapping[str, Sequence[str]],
        build: Callable[[Mapping[str, str]], Architecture],
        *,
        tightened: Mapping[str, float] | None = None,
    ) -> tuple[Budget, ...]:
        """The limits as sums over the parameters."""


@dataclass(frozen=True)
class Candidate:
    """The architecture that is compared with the parent in the retest.

    Args:
        architecture: the network.
        source: "screen", "recommended", "best" or "rule": what it was decided from.
        reason: a phrase for users.
    """

    architecture: Architecture
    source: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {"architecture": self.architecture.to_dict(), "source": self.source, "reason": self.reason}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """The inverse of `to_dict`."""
        return cls(Architecture.from_dict(data["architecture"]), data["source"], data["reason"])


def decide_candidate(
    screen: Sequence[TrialRecord],
    search: Sequence[TrialRecord],
    contrast: Contrast,
    spec: BackboneSpec,
    *,
    recommended: Callable[[], Architecture | None] = lambda: None,
    costs: Limits | None = None,
) -> Candidate:
    """Level 1 where the screen's estimate is positive, in the pooled best form; without a screen, the recommendation.

    Args:
        recommended: the recommender's architecture; None if there are too few trainings for it.
        costs: the costs whose limits the candidate must keep.
    """
    usable = [record for record in screen if record.accuracy is not None and record.levels]
    if usable and contrast.factors:
        found = _from_screen(usable, contrast, spec, costs)
        if found is not None:
            return found
    architecture = recommended()
    done = [record for record in search if record.state == "complete" and record.accuracy is not None]
    if architecture is not None:
        word = "largest" if spoken().higher_is_better else "smallest"
        reason = f"the {word} expected {spoken().label} by {len(done) + len(usable)} trainings"
        return Candidate(architecture, "recommended", reason)
    if done:
        best = best_of(done)
        assert best is not None
        reason = (
            f"the best of {len(done)} trials of the exploration ({best.label}): too few for a recommendation"
        )
        return Candidate(Architecture.from_dict(best.architecture), "best", reason)
    everywhere = dict.fromkeys(contrast.factors, contrast.high.default)
    chosen = _within(contrast, everywhere, dict.fromkeys(contrast.factors, 1.0), spec, costs) or {}
    where = "at every site" if chosen == everywhere else "where the limits allow it"
    return Candidate(contrast.architecture(spec, chosen), "rule", f"{contrast.high.choice} {where}")


def _from_screen(
    usable: Sequence[TrialRecord], contrast: Contrast, spec: BackboneSpec, costs: Limits | None
) -> Candidate | None:
    told = _estimates(usable, contrast)
    if told is None:
        return None
    effects, failing, needed = told
    form, pooled = _best_form(converged_runs(usable), contrast)
    helping = [
        name for name, effect in effects.items() if name in needed or (effect > 0 and name not in failing)
    ]
    wanted = dict.fromkeys(contrast.factors, contrast.low.default) | dict.fromkeys(helping, form)
    chosen = _within(contrast, wanted, effects, spec, costs)
    if chosen is None:
        return None
    reason = f"{contrast.high.choice} at the {len(helping)} of {len(effects)} sites whose estimate is above 0{pooled}"
    if needed:
        reason += f", {', '.join(needed)} among them, where it keeps trainings from failing"
    if failing:
        reason += f", without {', '.join(failing)}, where it makes trainings fail"
    if chosen != wanted:
        kept = sum(choice == form for choice in chosen.values())
        reason += f"; at {kept} of these, to keep the limits"
    return Candidate(contrast.architecture(spec, chosen), "screen", reason)


def converged_runs(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The runs that did not collapse."""
    return [record for record, gone in zip(records, _collapsed(records)) if not gone]


def _collapsed(records: Sequence[TrialRecord]) -> Any:
    """(N,) bool, which trainings collapsed."""
    accuracy = [record.accuracy for record in records]
    return collapsed(accuracy, chance_level(records), [record.state == "diverged" for record in records])


def _estimates(
    records: Sequence[TrialRecord], contrast: Contrast
) -> tuple[dict[str, float], list[str], list[str]] | None:
    """The effect of each factor among the runs that converged, and those whose level 1 makes trainings fail, or keeps
    them from it.

    Least squares with blocks and options taken out, as in the report; lost runs do no harm. None where no run
    converged.
    """
    names = list(contrast.factors)
    fallen = _collapsed(records)
    if fallen.all():
        return None
    design = np.array([[bool(record.levels[name]) for name in names] for record in records])
    lost = failures_by_site(design, fallen)
    ended = [record for record, gone in zip(records, fallen) if not gone]
    accuracy, block = _outcome(ended)
    matrix = np.hstack([design[~fallen] - 0.5, block, _option_columns(ended, contrast)])
    solution = np.linalg.lstsq(matrix, accuracy, rcond=None)[0]
    effects = dict(zip(names, solution.tolist()))
    failing, needed = ([name for name, on in zip(names, which) if on] for which in (lost.named, lost.rescued))
    return effects, failing, needed


def _outcome(records: Sequence[TrialRecord]) -> tuple[Any, Any]:
    """The accuracies, and the splits as 0/1 columns."""
    block = np.array([record.block for record in records])
    columns = (block[:, None] == np.unique(block)[None, :]).astype(float)
    return np.array([record.accuracy for record in records], dtype=float), columns


def _within(
    contrast: Contrast,
    wanted: Mapping[str, Choice],
    effects: Mapping[str, float],
    spec: BackboneSpec,
    costs: Limits | None,
) -> dict[str, Choice] | None:
    """`wanted`, with level 0 at the factors that do not fit the limits; None if nothing fits."""
    if costs is None or not costs.limits or costs.fits(contrast.architecture(spec, wanted)):
        return dict(wanted)
    low = contrast.low.default
    levels = {name: ("0", "1") if choice != low else ("0",) for name, choice in wanted.items()}

    def build(chosen: Mapping[str, str]) -> dict[str, Choice]:
        return {name: wanted[name] if chosen.get(name, "0") == "1" else low for name in wanted}

    space = Space(levels, neighbours=False)
    gains = np.array([[0.0, max(effects[name], 1e-9)] for name in space.names])[:, : len(space.labels)]
    utility = np.where(space.allowed, gains, -np.inf)
    factor: dict[str, float] = {}
    for _ in range(20):
        budgets = costs.budgets(levels, lambda c: contrast.architecture(spec, build(c)), tightened=factor)
        try:
            chosen = build(space.decode(best_assignment(space, utility, None, budgets)))
        except ConfigError:
            return None
        over = costs.excess(contrast.architecture(spec, chosen))
        if all(share <= 0 for share in over.values()):
            return chosen
        factor |= {
            name: factor.get(name, 1.0) * (0.9999 - share) for name, share in over.items() if share > 0
        }
    return None


def top_factors(screen: Sequence[TrialRecord], contrast: Contrast, count: int = TOP) -> list[str]:
    """The `count` factors with the largest effects, in the contrast's order."""
    top = set(leading_factors(screen, contrast, count))
    return [name for name in contrast.factors if name in top]


def leading_factors(screen: Sequence[TrialRecord], contrast: Contrast, count: int) -> list[str]:
    """The `count` factors with the largest effects, largest first, by the report's estimates from converged runs.

    Factors that make trainings fail come last, and those that keep them from it: half of a phase that turns them on and
    off would come to nothing. In the contrast's order where the screen cannot tell.
    """
    names = list(contrast.factors)
    usable = [record for record in screen if record.accuracy is not None and record.levels]
    told = _estimates(usable, contrast) if usable else None
    if told is None:
        return names[:count]
    effects, failing, needed = told
    return sorted(names, key=lambda name: (name in (*failing, *needed), -effects[name]))[:count]


def _option_columns(records: Sequence[TrialRecord], contrast: Contrast) -> Any:
    """(N, k) contrast-coded counts of the tested kernels and compressions; k is 0 if nothing varies."""
    side = contrast.high
    if not side.kernels and not side.compressions:
        return np.zeros((len(records), 0))
    keys = {choice.label: key for key, choice in side.variants.items()}
    forms = [
        [
            keys.get(r.parameters.get(name, ""), (0, "")) if r.levels[name] else (0, "")
            for name in contrast.factors
        ]
        for r in records
    ]
    kernel = np.array([[form[0] for form in row] for row in forms]) if side.kernels else None
    compression = np.array([[form[1] for form in row] for row in forms]) if side.compressions else None
    return np.asarray(option_counts(kernel=kernel, compression=compression), dtype=float)


def _best_form(records: Sequence[TrialRecord], contrast: Contrast) -> tuple[Choice, str]:
    """The kernel and compression with the largest mean effect over all factors, and a phrase about it."""
    side: Side = contrast.high
    if len(side.variants) < 2:
        return side.default, ""
    accuracy, blocks = _outcome(records)
    forms = list(side.variants.items())
    kernels = sorted({key[0] for key, _ in forms})
    compressions = sorted({key[1] for key, _ in forms})
    labels = {choice.label: key for key, choice in forms}
    values_of: tuple[list[int] | list[str], ...] = (kernels, compressions)
    columns = [
        [
            sum(labels.get(label, (0, ""))[axis] == value for label in record.parameters.values())
            for record in records
        ]
        for axis, values in enumerate(values_of)
        for value in values
    ]
    matrix = np.hstack([np.array(columns, dtype=float).T, blocks])
    # minimum-norm solution: kernel and compression counts both add up to the number of level-1 sites
    solution = np.linalg.lstsq(matrix, accuracy, rcond=None)[0]
    kernel = kernels[int(np.argmax(solution[: len(kernels)]))]
    compression = compressions[int(np.argmax(solution[len(kernels) : len(kernels) + len(compressions)]))]
    words = [f"kernel {kernel}"] * (len(kernels) > 1) + [f"compression {compression}"] * (
        len(compressions) > 1
    )
    return side.variants[(kernel, compression)], f", with the pooled best {' and '.join(words)}"


Words = Mapping[tuple[str, str], str]


def own_words(
    parameters: Mapping[str, Sequence[str]],
    factors: Mapping[str, Sequence[str]],
    activations: Mapping[str, str],
) -> dict[tuple[str, str], str]:
    """(Parameter, "original") → the parent's own activation if the space names it instead.

    Args:
        parameters: parameter → its labels.
        factors: parameter → its sites.
        activations: site → the parent's activation.
    """
    words = {}
    for name, labels in parameters.items():
        acts = {activations.get(site, "") for site in factors.get(name, ())}
        if "original" not in labels and len(acts) == 1 and (act := acts.pop()) in labels:
            words[name, "original"] = act
    return words


def is_warm(record: TrialRecord) -> bool:
    """Whether the training started from a trained parent: that measures repair and supports no claim."""
    return bool(record.extra.get("warm"))


def usable_records(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trainings that a recommendation is based on: the complete ones of screen and search.

    Trainings from a trained parent and trainings from scratch are not mixed: only the former count if there are eight
    or more of them, else only the latter.
    """
    trained = [
        record
        for record in records
        if record.phase in ("screen", "search")
        and record.state in ("complete", "diverged")
        and record.parameters
        and record.accuracy is not None
    ]
    warm = [record for record in trained if is_warm(record)]
    return warm if len(warm) >= 8 else [record for record in trained if not is_warm(record)]


def recommend_run(
    records: Iterable[TrialRecord],
    *,
    words: Words,
    stages: Mapping[str, Any],
    budgets: Sequence[Budget] = (),
    excess: Excess | None = None,
) -> Recommendation:
    """The recommendation of a run's records.

    Args:
        words: as from `own_words`.
        stages: parameter → stage.
        budgets: the limits; a latency limit is learned from the trainings if eight were measured.
        excess: as in `analysis.recommend.recommend`.

    Raises:
        ConfigError: fewer than 8 usable trainings, or nothing fits.
    """
    trained = usable_records(records)
    trials = [
        {name: words.get((name, label), label) for name, label in record.parameters.items()}
        for record in trained
    ]
    kept = tuple(
        _measured(budget, trained, trials, choices_of(trials), stages) if budget.name == "latency" else budget
        for budget in budgets
    )
    accuracy = [float(record.accuracy or 0.0) for record in trained]
    return recommend(
        trials, accuracy, stages=stages, budgets=kept, excess=excess, chance=chance_level(trained),
        failed=[record.state == "diverged" for record in trained],
    )  # fmt: skip


def _measured(
    budget: Budget,
    trained: Sequence[TrialRecord],
    trials: Sequence[Mapping[str, str]],
    choices: Mapping[str, Sequence[str]],
    stages: Mapping[str, Any],
) -> Budget:
    """The budget learned from measured trainings, in multiples of the limit, or unchanged without them."""
    if not trials:
        return budget
    over = [[record.extra.get("excess:latency", float("nan"))] for record in trained]
    learned = learned_budgets(Space(choices, stages, neighbours=False), trials, over)
    if not learned:
        return budget
    found = learned[0]
    return replace(found, limit=1 + found.limit, base=1 + found.base, name="latency")
