"""Random programs: not one is converted to something else than was asked for.

`python -m tests.backbone.strangers.programs 10000 2000` runs as many as one likes.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.backbone.strangers.programs import programs

LOUD = {10_019: "Output 0 of Split is a view"}
"""Seed → the error of a program that is accepted and then fails, not yet refused: a block with parameters gives a map a
gradient that had none (it was made under `no_grad`), and a later line changes a chunk of that map in place.
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("first", "count"), [(0, 8), pytest.param(10_000, 100, marks=pytest.mark.slow)])
def test_not_one_is_silently_wrong(first: int, count: int) -> None:
    outcomes, wrong = Counter[str](), {}
    for seed, _, verdict in programs(first, count):
        outcomes[verdict.outcome] += 1
        if verdict.outcome == "wrong":
            wrong[seed] = verdict.reasons[0]
    assert wrong.keys() == LOUD.keys() & set(range(first, first + count)), wrong
    assert all(LOUD[seed] in reason for seed, reason in wrong.items())
    assert outcomes.total() == count
    assert outcomes["right"] + outcomes["partly"] >= count / 4  # who refuses everything is never wrong
