"""The log of a run: which worker, which training, what happened."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from reborn_nas.study.worker.log import LOG_FILE, VERBOSE, log, log_to, log_training
from tests.study.conftest import FakeObjective, make_bench
from tests.study.test_engine import plan, run

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) +worker (\S+)  (\S+)  (.+)")


def lines(folder: Path) -> list[tuple[str, ...]]:
    found = [LINE.fullmatch(line) for line in (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    assert all(found)
    return [match.groups() for match in found if match is not None]


def test_each_line_names_the_worker_and_the_training(tmp_path: Path) -> None:
    with log_to(tmp_path, "3"):
        log.info("before")
        with log_training("screen/7"):
            logging.getLogger("reborn_nas.training").warning("out of memory: %d MiB – again", 5)
        log.debug("not told")
    log.warning("after")
    assert lines(tmp_path) == [
        ("INFO", "3", "-", "before"),
        ("WARNING", "3", "screen/7", "out of memory: 5 MiB – again"),
    ]


def test_a_study_logs_what_its_trainings_come_to(tmp_path: Path) -> None:
    context = make_bench(tmp_path)
    objective = FakeObjective(state=lambda one: "diverged" if one.key == "baseline/parent/1" else "complete")
    with log_to(context.config.folder, "0"):
        assert run(context, plan(context, 16), objective)
    found = lines(context.config.folder)
    assert sum(text == "begins" for *_, text in found) == 16
    odd = [(level, trial) for level, _, trial, _ in found if level != "INFO"]
    assert odd == [("WARNING", "baseline/parent/1")]
    assert any(text.startswith("candidate: ") for *_, text in found)


def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_to(tmp_path / "absent", "0", shown=True):
        log.info("shown")
    assert capsys.readouterr().err.endswith("INFO    worker 0  -  shown\n")
    assert VERBOSE not in os.environ
