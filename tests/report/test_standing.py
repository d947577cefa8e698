"""Three networks, three words: each is described, missing ones are not."""

from __future__ import annotations

from typing import Any

from reborn_nas.records import TrialRecord
from reborn_nas.report import RunView
from reborn_nas.report.results.networks import standing


def record(key: str, phase: str, arm: str, **values: Any) -> TrialRecord:
    return TrialRecord(key, phase, arm, 0, values.pop("state", "complete"), {}, **values)


def test_each_of_the_three_has_its_word() -> None:
    records = [
        record("search/0", "search", "sampled", accuracy=0.9, accuracy_n=360),
        record("search/1", "search", "sampled", accuracy=0.95, accuracy_n=360),
        record("search/2", "search", "sampled", accuracy=0.99, accuracy_n=360, state="pruned"),
        record("screen/0", "screen", "design", accuracy=0.98, accuracy_n=360),
        record("candidate/candidate/0", "candidate", "candidate", test_accuracy=0.92, test_n=1000),
        record("candidate/candidate/1", "candidate", "candidate", test_accuracy=0.94, test_n=1000),
        record("candidate/parent/0", "candidate", "parent", test_accuracy=0.5, test_n=1000),
    ]
    recommendation = {"choices": {}, "predicted": 0.931, "ci_low": 0.9, "ci_high": 0.96}
    best, recommended, tested = standing(RunView("x", records, recommendation=recommendation))
    assert best.startswith("Best observed: screen/0, ")
    assert "98.0 % of 360 validation images; the best of 3 " in best
    assert recommended.startswith("Recommended: ")
    assert "93.1 % on validation images, 95 % interval [90.0 %, 96.0 %]" in recommended
    assert tested.startswith("Retested: ")
    assert "93.0 % of 1,000 test images over 2 seeds" in tested


def test_nothing_is_said_of_what_there_is_not() -> None:
    assert standing(RunView("x", [record("baseline/parent/0", "baseline", "parent", accuracy=0.5)])) == []
