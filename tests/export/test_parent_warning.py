"""An export reports whether the network beats its parent, and how to export the parent instead."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from reborn_nas.analysis.phases.compare import candidate_against_parent
from reborn_nas.api.exports import _parent_warning
from reborn_nas.cli.main import parser
from reborn_nas.export import Trainings
from reborn_nas.records import TrialRecord
from reborn_nas.report import comparison_words


def record(key: str, arm: str, accuracy: float) -> TrialRecord:
    return TrialRecord(
        key, key.split("/")[0], arm, 0, "complete", {}, accuracy=accuracy, test_accuracy=accuracy, test_n=100
    )


CANDIDATE = record("candidate/candidate/0", "candidate", 0.9)
PARENT = record("candidate/parent/0", "parent", 0.9)


@pytest.mark.parametrize(
    ("first", "words", "warned"),
    [
        ([0.9, 0.91, 0.92, 0.93], "better than its parent", False),
        ([0.5, 0.9, 0.1, 0.8], "not shown to beat it", True),
        ([0.1, 0.11, 0.12, 0.13], "worse than its parent", True),
    ],
)
def test_the_candidate(first: list[float], words: str, warned: bool) -> None:
    found = candidate_against_parent(first, [0.5, 0.51, 0.52, 0.53])
    said = comparison_words(found)
    assert words in said
    everything = Trainings("odd run", [CANDIDATE, PARENT], {PARENT.key: Path("weights")})
    warning = _parent_warning(everything, CANDIDATE, said, "out")
    assert bool(warning) == warned
    if warned:
        command = warning.split("exports that: ")[1]
        args = parser("export").parse_args(shlex.split(command)[1:])
        assert (args.run_path, args.trial, args.out) == ("odd run", "parent", "out-parent")


def test_others_were_not_compared_and_the_parent_needs_no_warning() -> None:
    other = record("screen/0", "design", 0.9)
    lost = Trainings("run", [other, PARENT], {})
    assert (
        _parent_warning(lost, other, comparison_words(None), "out")
        == "warning: it is not shown to beat its parent"
    )
    assert not _parent_warning(lost, PARENT, "the parent itself", "out")
