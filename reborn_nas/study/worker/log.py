"""The run's log: one file for all processes of a machine, each line naming its worker and its training."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from reborn_nas.records import public_name

if TYPE_CHECKING:
    from reborn_nas.metric import Metric
    from reborn_nas.records import TrialRecord

__all__ = ["LOG_FILE", "VERBOSE", "log", "log_result", "log_to", "log_training"]

LOG_FILE = "search.log"
"""In the run folder; all processes of this machine append lines to it."""

FORMAT = "%(asctime)s %(levelname)-7s worker %(worker)s  %(trial)s  %(message)s"

VERBOSE = "REBORN_NAS_VERBOSE"
"""Environment variable of the workers of a run whose log is also shown on stderr."""

log = logging.getLogger("reborn_nas.study")


class _Place(logging.Filter):
    """Adds the worker and the training that a record comes from."""

    worker = "-"
    trial = "-"

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker, record.trial = self.worker, self.trial
        return True


_PLACE = _Place()


@contextmanager
def log_to(folder: Path | None, worker: str = "-", *, shown: bool = False) -> Iterator[None]:
    """Append what the package logs inside the context to the run folder's log, as coming from `worker`.

    Args:
        folder: the run folder; no log is kept if it is None or cannot be written.
        shown: also log to stderr, here and in the processes that are started inside the context.
    """
    package = logging.getLogger("reborn_nas")
    handlers: list[logging.Handler] = [logging.StreamHandler()] if shown else []
    if folder is not None:
        with suppress(OSError):
            handlers.append(logging.FileHandler(folder / LOG_FILE, encoding="utf-8", delay=False))
    level, before = package.level, _PLACE.worker
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))
        handler.addFilter(_PLACE)
        package.addHandler(handler)
    if shown:
        os.environ[VERBOSE] = "1"
    package.setLevel(min(package.getEffectiveLevel(), logging.INFO))
    _PLACE.worker = worker
    try:
        yield
    finally:
        _PLACE.worker = before
        os.environ.pop(VERBOSE, None)
        package.setLevel(level)
        for handler in handlers:
            package.removeHandler(handler)
            handler.close()


@contextmanager
def log_training(key: str) -> Iterator[None]:
    """Mark the lines logged inside the context with the training `key`; this process runs one training at a time."""
    _PLACE.trial = public_name(key)
    try:
        yield
    finally:
        _PLACE.trial = "-"


def log_result(record: TrialRecord, metric: Metric) -> None:
    """Log one line on a finished training."""
    value = (
        "no value"
        if record.accuracy is None
        else metric.measured(record.accuracy, f"{record.accuracy_part} {metric.counted}")
    )
    log.log(
        logging.INFO if record.state in ("complete", "pruned") else logging.WARNING,
        "%s, %s, %.1f s%s",
        record.state,
        value,
        record.seconds,
        f": {record.reason}" if record.reason else "",
    )
