"""Which architecture to draw and which learning curves to show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reborn_nas.records import TrialRecord, public_name
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import percent
from reborn_nas.winners import best_observed, best_of, explored, retested

if TYPE_CHECKING:
    import pandas as pd


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
            words += f"; predicted accuracy {percent(float(given['predicted']))}"
            words += (
                f" [{percent(float(low))}, {percent(float(high))}]"
                if low is not None and high is not None
                else ""
            )
        return {str(k): str(v) for k, v in given["choices"].items()}, words + "."
    best = best_observed(view.records)
    if best is None:
        return None
    many = len(explored(view.records))
    words = (
        f"The best observed training so far ({best.label}, {percent(best.accuracy)}). The best of {many} is partly "
        "luck: a repeat is expected to come out lower."
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
