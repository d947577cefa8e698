"""The recorded table of what becomes of each hand-written network."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.backbone.own_networks import calls, formulas, inplace, loops, modules
from tests.backbone.own_networks.oracle import Verdict, judge
from tests.backbone.own_networks.register import NETWORKS

__all__ = [
    "NETWORKS",
    "RECORD",
    "calls",
    "formulas",
    "inplace",
    "judged",
    "loops",
    "modules",
    "recorded",
    "write",
]

RECORD = Path(__file__).parents[2] / "golden" / "own_networks.csv"
FIELDS = ("network", "outcome", "sites", "converted", "listed")


def judged(part: str = "") -> Iterator[tuple[str, Verdict]]:
    """The verdict of each network whose name holds `part`."""
    for name, own in NETWORKS.items():
        if part in name:
            yield name, judge(own)


def recorded() -> dict[str, dict[str, str]]:
    """Network → its recorded row."""
    with RECORD.open(encoding="utf-8", newline="") as stream:
        return {row["network"]: row for row in csv.DictReader(stream)}


def write(verdicts: Mapping[str, Verdict]) -> None:
    """Record the verdicts of all networks."""
    with RECORD.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(FIELDS)
        for name, verdict in verdicts.items():
            writer.writerow((name, verdict.outcome, NETWORKS[name].sites, verdict.converted, verdict.listed))
