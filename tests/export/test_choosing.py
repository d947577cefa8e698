"""Which trained networks `--trial` means, on made-up records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reborn_nas.errors import ExportError
from reborn_nas.export import Trainings, choose, front_readme
from reborn_nas.export.card import card_of, mean_interval
from reborn_nas.records import TrialRecord, best_observed


def record(
    key: str, arm: str, accuracy: float, number: int = 0, macs: int = 100, **more: object
) -> TrialRecord:
    phase = key.split("/")[0]
    if phase == "candidate":
        more["test_accuracy"] = accuracy
    return TrialRecord(
        key, phase, arm, number, "complete", {}, accuracy=accuracy, accuracy_n=200, macs=macs, **more
    )  # type: ignore[arg-type]


RECORDS = [
    record("screen/0", "design", 0.83, 0, 60),
    record("search/0", "sampled", 0.80, 40, 50),
    record("search/1", "sampled", 0.90, 41, 100),
    record("search/2", "sampled", 0.85, 42, 200),
    record("candidate/parent/0", "parent", 0.99, 0, extra={"validation_score": 0.7}),
    record("candidate/candidate/0", "candidate", 0.95, 1, extra={"validation_score": 0.6}),
    record("candidate/candidate/1", "candidate", 0.91, 2, extra={"validation_score": 0.8}),
]
KEPT = {one.key: Path(one.key) for one in RECORDS if one.key not in ("search/2", "screen/0")}
NUMBERS = {0: "screen/0", 40: "search/0", 41: "search/1", 42: "search/2"}


def keys(which: str, records: list[TrialRecord] = RECORDS, kept: dict[str, Path] = KEPT) -> list[str]:
    front = [one for one in records if one.key in ("search/0", "search/1")]
    return [one.key for one, _ in choose(Trainings("runs/x y", records, kept, NUMBERS, front), which)]


def test_words_numbers_and_keys() -> None:
    assert keys("auto") == ["candidate/candidate/1"], "by validation, never by test"
    assert keys("retested") == keys("confirmed") == keys("candidate") == ["candidate/candidate/1"]
    assert keys("best") == ["search/1"]
    assert keys("parent") == ["candidate/parent/0"]
    assert keys("40") == ["search/0"]
    assert keys("search/0") == keys("exploration/0") == ["search/0"], "by the word, and as it was before"
    assert keys("pareto") == ["search/0", "search/1"]
    assert keys("auto", RECORDS[:4]) == ["search/1"]
    few = {key: path for key, path in KEPT.items() if key == "search/0"}
    assert keys("auto", RECORDS[:4], few) == ["search/0"], "an earlier version's run keeps one"


def test_ties_go_to_the_first_as_in_the_dashboard() -> None:
    def tied(key: str, params: int, number: int) -> TrialRecord:
        return record(key, "sampled", 0.9, number, params=params)

    records = [
        tied("search/10", 5, 1),
        tied("search/9", 5, 2),
        tied("screen/30", 7, 3),
        tied("search/2", 9, 4),
    ]
    for some in (records, records[::-1]):
        found = best_observed(some)
        assert found is not None
        assert found.key == "screen/30"
    assert best_observed(records[:2]) is records[1], "9 before 10"
    close = tied("search/0", 1, 0)
    assert best_observed([*records[:2], replace(close, accuracy=0.90004)]) is not records[1], "four digits"


@pytest.mark.parametrize(
    ("which", "records", "words"),
    [
        ("retested", RECORDS[:4], "no candidate.*--trial best"),
        ("best", RECORDS[4:], "no finished trial"),
        ("pareto", RECORDS[4:], "no finished trial"),
        ("parent", RECORDS[:4], "parent was not trained"),
        ("42", RECORDS, "train --architecture 'runs/x y' --trial exploration/2 --out my-model"),
        ("0", RECORDS, "train --architecture 'runs/x y' --trial screen/0 --out my-model"),
        ("search/2", RECORDS, "not kept, those of exploration/0 were"),
        ("7", RECORDS, "no trial of the number '7'.*exploration/0"),
        ("../../etc", RECORDS, "no trial '../../etc'"),
    ],
)
def test_what_there_is_not(which: str, records: list[TrialRecord], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        keys(which, records)


def test_a_run_without_any_finished_training() -> None:
    with pytest.raises(ExportError, match=r"no finished training.*finish the run"):
        keys("auto", [])


def test_the_table_over_a_front_names_what_was_not_kept() -> None:
    text = front_readme("a|b", {"search-0": RECORDS[1]}, RECORDS[1:3], ("accuracy", "macs"), "runs/x")
    assert "| search-0 | exploration/0 | 50 | 0 | 80.00% | 200 |" in text
    assert "| – | exploration/1 |" in text
    assert "reborn-nas train --architecture runs/x --trial exploration/1 --out my-model" in text
    assert "a|b" not in text


def test_the_card_of_a_candidate_holds_the_mean_over_its_seeds() -> None:
    data = {"name": "d", "classes": ["a"], "mean": [0.5], "std": [0.5]}
    card = card_of(RECORDS[6], RECORDS, "study", data)
    assert card.accuracies[0].correct == 182
    assert card.accuracies[0].remark == "this training; read once"
    # by hand: mean 0.93, sd 0.0283, standard error 0.02, t(0.975, 1) = 12.706
    assert card.details["accuracy over seeds"] == "93.00% [67.59%, 118.41%], 2 trainings"
    assert "optimistic" in card_of(RECORDS[2], RECORDS, "study", data).accuracies[0].remark


def test_an_interval_by_hand() -> None:
    # mean 0.8, sd 0.1, t(0.975, 2) = 4.3027: 0.1 / √3 · 4.3027 = 0.2484
    assert mean_interval([0.7, 0.8, 0.9]) == "80.00% [55.16%, 104.84%], 3 trainings"
