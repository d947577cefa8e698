"""Hand-written networks are converted exactly, or refused with the reason; none comes out silently wrong."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.backbone.own_networks.oracle import judge
from tests.backbone.own_networks.table import NETWORKS, recorded

RECORDED = recorded()
QUICK = 16
"""Every sixteenth network is judged in the quick run."""


def cases() -> list[object]:
    made = []
    for number, name in enumerate(NETWORKS):
        marks = [pytest.mark.slow] if number % QUICK or NETWORKS[name].slow else []
        if RECORDED[name]["outcome"] == "wrong":
            marks.append(pytest.mark.xfail(strict=True, reason="not mended"))
        made.append(pytest.param(name, marks=marks))
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", cases())
def test_right_or_refused_as_recorded(name: str) -> None:
    verdict, row = judge(NETWORKS[name]), RECORDED[name]
    assert verdict.outcome != "wrong", verdict.reasons
    assert verdict.outcome == row["outcome"], verdict.reasons
    assert (verdict.converted, verdict.listed) == (int(row["converted"]), int(row["listed"]))
    if verdict.listed > verdict.converted or verdict.outcome == "refused":
        assert not verdict.vague


def test_the_table_holds_every_network() -> None:
    assert list(RECORDED) == list(NETWORKS)
    assert len(NETWORKS) >= 60
    assert {name: int(row["sites"]) for name, row in RECORDED.items()} == {
        name: own.sites for name, own in NETWORKS.items()
    }
    assert set(Counter(row["outcome"] for row in RECORDED.values())) <= {
        "right",
        "partly",
        "refused",
        "wrong",
    }
