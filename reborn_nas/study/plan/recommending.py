"""What a run recommends: the maximiser of the posterior mean over its trainings, within its limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reborn_nas.records import TrialRecord, chance_level

if TYPE_CHECKING:
    from reborn_nas.analysis.model.maximise import Budget
    from reborn_nas.analysis.model.recommend import Excess, Recommendation

__all__ = ["is_warm", "own_words", "recommend_run", "usable_records"]

Words = Mapping[tuple[str, str], str]


def own_words(
    parameters: Mapping[str, Sequence[str]],
    factors: Mapping[str, Sequence[str]],
    activations: Mapping[str, str],
) -> dict[tuple[str, str], str]:
    """(Parameter, "original") → the parent's own activation where the space names that instead.

    Args:
        parameters: parameter → its labels.
        factors: parameter → its sites.
        activations: site → what the parent has there.
    """
    words = {}
    for name, labels in parameters.items():
        acts = {activations.get(site, "") for site in factors.get(name, ())}
        if "original" not in labels and len(acts) == 1 and (act := acts.pop()) in labels:
            words[name, "original"] = act
    return words


def is_warm(record: TrialRecord) -> bool:
    """Whether the training started from a trained parent: it tells how well a parent is repaired, and never a claim."""
    return bool(record.extra.get("warm"))


def usable_records(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trainings that a recommendation rests on: those of screen and search that ran to their end.

    Trainings from a trained parent and trainings from scratch are not mixed: where there are eight of the former, they
    alone count, else the latter.
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
        budgets: the limits; a limit on the latency is learned from the trainings where eight of them were measured.
        excess: as in `analysis.recommend.recommend`.

    Raises:
        ConfigError: fewer than 8 usable trainings, or nothing fits.
    """
    from reborn_nas.analysis.model.recommend import choices_of, recommend

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
    """The budget as the trainings' own measurements tell it, in multiples of the limit; else as it is."""
    from reborn_nas.analysis.model.constraints import learned_budgets
    from reborn_nas.analysis.model.encoding import Space

    if not trials:
        return budget
    over = [[record.extra.get("excess:latency", float("nan"))] for record in trained]
    learned = learned_budgets(Space(choices, stages, neighbours=False), trials, over)
    if not learned:
        return budget
    found = learned[0]
    return replace(found, limit=1 + found.limit, base=1 + found.base, name="latency")
