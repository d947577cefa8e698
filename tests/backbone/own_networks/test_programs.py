"""Random programs: not one is converted to something else than was asked for.

`python -m tests.backbone.own_networks.programs 10000 2000` runs as many as one likes.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.backbone.own_networks.programs import programs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("first", "count"), [(0, 8), pytest.param(10_000, 100, marks=pytest.mark.slow)])
def test_not_one_is_silently_wrong(first: int, count: int) -> None:
    outcomes, wrong = Counter[str](), {}
    for seed, _, verdict in programs(first, count):
        outcomes[verdict.outcome] += 1
        if verdict.outcome == "wrong":
            wrong[seed] = verdict.reasons[0]
    assert not wrong
    assert outcomes.total() == count
    assert outcomes["right"] + outcomes["partly"] >= count / 4  # who refuses everything is never wrong
