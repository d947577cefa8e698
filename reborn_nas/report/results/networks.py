"""Best observed, recommended, retested: three networks of a run, the one to draw, and the curves to show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from reborn_nas.analysis import Comparison
from reborn_nas.metric import spoken
from reborn_nas.records import TrialRecord, best_observed, best_of, explored, public_name, retested
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import as_value, cases, in_unit, interval, measured, metric_label, signed


def best_choices(view: RunView) -> tuple[dict[str, str], str] | None:
    """The architecture to draw, site → label, and a sentence that says what it is."""
    candidate = best_of(retested(view.records))
    if candidate is not None:
        return _choices(candidate), f"The candidate that was compared with {view.parent}."
    given = view.recommendation
    if given and isinstance(given.get("choices"), Mapping):
        words = "The architecture that the study recommends"
        if given.get("predicted") is not None:
            low, high = given.get("ci_low"), given.get("ci_high")
            words += f"; predicted {metric_label()} {as_value(float(given['predicted']))}"
            words += (
                f" [{as_value(float(low))}, {as_value(float(high))}]"
                if low is not None and high is not None
                else ""
            )
        return {str(k): str(v) for k, v in given["choices"].items()}, words + "."
    best = best_observed(view.records)
    if best is None:
        return None
    many = len(explored(view.records))
    words = (
        f"The best observed training so far ({best.label}, {as_value(best.accuracy)}). The best of {many} is partly "
        "luck: a repeat is expected to come out worse."
    )
    return _choices(best), words


def _choices(record: TrialRecord) -> dict[str, str]:
    choices = record.architecture.get("choices")
    return {str(k): str(v) for k, v in choices.items()} if isinstance(choices, Mapping) else {}


def sampled_curves(view: RunView, most: int) -> tuple[list[tuple[str, pd.DataFrame]], int]:
    """At most `most` learning curves, spread evenly over the trainings; and how many trainings have one."""
    having = [record for record in view.records if record.curve]
    step = max(1, math.ceil(len(having) / most))
    found = []
    for record in having[::step]:
        curve = view.curves(record.key)
        if curve is not None and len(curve):
            found.append((public_name(record.phase), curve))
    return found, len(having)


def curve_scores(rows: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(epoch, score) of the rows of a learning curve that have both.

    A curve's file has the metric's value under its name (`accuracy`, `validation_accuracy`); earlier versions wrote the
    score of every metric as `validation_accuracy`.
    """
    metric, found = spoken(), []
    for row in rows:
        named = next((name for name in (metric.name, f"validation_{metric.name}") if name in row), None)
        try:
            epoch, number = float(row["epoch"]), float(row[named or "validation_accuracy"])
            score = number if named is None or metric.is_accuracy else metric.score(number)
        except (KeyError, TypeError, ValueError):  # ConfigError, of a value without a score, is one too
            continue
        if math.isfinite(epoch) and math.isfinite(score):
            found.append((epoch, score))
    return found


def standing(view: RunView) -> list[str]:
    """A sentence for each of the three that there is."""
    return [*_best(view), *_recommended(view), *_retested(view)]


def _best(view: RunView) -> list[str]:
    best = best_observed(view.records)
    if best is None:
        return []
    return [
        f"Best observed: {best.label}, {measured(best.accuracy, cases(best.accuracy_n, best.accuracy_part))}; "
        f"the best of {len(explored(view.records))} is partly luck: a repeat is expected to be worse."
    ]


def _recommended(view: RunView) -> list[str]:
    given = view.recommendation
    if not given or given.get("predicted") is None:
        return []
    low, high = given.get("ci_low"), given.get("ci_high")
    interval = (
        ""
        if low is None or high is None
        else f", 95 % interval [{', '.join(as_value(end) for end in _ends(float(low), float(high)))}]"
    )
    return [
        f"Recommended: the network with the best expected {metric_label()} by all trainings of screen and search, "
        f"{as_value(float(given['predicted']))} on validation {cases()}{interval}."
    ]


def _retested(view: RunView) -> list[str]:
    seeds = retested(view.records)
    if not seeds:
        return []
    mean = sum(float(r.test_accuracy or 0.0) for r in seeds) / len(seeds)
    return [
        f"Retested: the candidate, trained afresh beside its parent, has "
        f"{measured(mean, cases(seeds[0].test_n, 'test'))} over {len(seeds)} seed{'s' if len(seeds) > 1 else ''}."
    ]


def _ends(low: float, high: float) -> list[float]:
    """The ends of an interval of scores, that of the smaller value first."""
    return sorted((low, high), key=spoken().plotted)


def comparison_words(comparison: Comparison | None) -> str:
    """One clause on a network and its parent: what a user should know before the network is used."""
    if comparison is None:
        return f"not compared with its parent; its validation {metric_label()} is that of one training among several"
    size = (
        f"{signed(comparison.effect)}{in_unit()} {interval(comparison.ci_low, comparison.ci_high)} against its "
        f"parent on the test {cases()}, {comparison.n_first} and {comparison.n_second} seeds"
    )
    if comparison.ci_low > 0 and comparison.noisy:
        return f"{size}: better than its parent"
    if comparison.ci_high < 0:
        return f"{size}: worse than its parent, so not shown to beat it"
    return f"{size}: not shown to beat it"
