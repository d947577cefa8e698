"""Every error that reborn-nas raises on purpose, and which errors are the machine's.

Each is a `RebornError` and also the builtin that fits, so that both `except RebornError` and
`except ValueError` work. A message names the place, the rule, what was given and a way out.
"""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar


class RebornError(Exception):
    """Base of all errors that are the caller's to fix; the CLI prints them without a traceback."""

    def __str__(self) -> str:  # KeyError would show the repr of its argument
        return str(self.args[0]) if self.args else ""


class ConfigError(RebornError, ValueError):
    """A configuration with faults; `faults` lists every one of them with its place."""

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        self.faults = tuple(faults)
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(message + lines)


class UnknownNameError(RebornError, KeyError):
    """A name that no registry holds."""


class SiteError(RebornError, ValueError):
    """A choice that a site cannot take, or a site that the network does not have."""


class ConversionError(RebornError, ValueError):
    """A network that cannot be traced, planned or rewritten."""


class DataError(RebornError, ValueError):
    """A data set that is absent, broken or unusable."""


class TrainingError(RebornError, RuntimeError):
    """A training that cannot start or continue."""


class DivergedError(TrainingError, ArithmeticError):
    """The loss became non-finite. `result` is the training's result until then, `epoch` where it happened."""

    def __init__(self, message: str, result: Any = None, epoch: int = 0) -> None:
        super().__init__(message)
        self.result = result
        self.epoch = epoch


class DeviceLostError(RebornError, RuntimeError):
    """An accelerator that no longer answers in this process: a failed assertion, an illegal address, a broken card."""


class StudyError(RebornError, RuntimeError):
    """A run folder, storage or study that cannot be used as asked."""


class ExportError(RebornError, ValueError):
    """An export that cannot be written or loaded."""


def some_of(names: Sequence[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def unknown_name(kind: str, given: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """The error for an unknown `given` among `known`, with close matches and, where short, the complete list."""
    names = sorted(set(known))
    close = difflib.get_close_matches(given, names, n=5, cutoff=0.6)
    message = f"unknown {kind} {given!r}"
    if close:
        message += f"; did you mean {', '.join(close)}?"
    elif len(names) <= 30:
        message += f"; known: {', '.join(names)}"
    if hint:
        message += f" {hint}"
    return UnknownNameError(message)


T = TypeVar("T")

PASSING = frozenset(
    {
        errno.ENOSPC,  # no space left on device
        errno.EDQUOT,  # disk quota exceeded
        errno.EIO,  # input/output error
        errno.ESTALE,  # stale file handle: the NFS server has another idea of the file
        errno.EROFS,  # read-only file system: as Linux remounts a failing one
        errno.ENOTCONN,  # a FUSE mount whose server died
        errno.ENFILE,  # the machine's table of open files is full
    }
)

PATIENCE = 600.0
"""Seconds for which a disk is waited for."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0

STEP = 0.25
"""Seconds between two looks at whether a wait shall end."""

_CODED = re.compile(r"\bos error (\d+)\b|\[Errno (\d+)\]")
"""How Rust's and Python's texts carry the number of an error that was raised as another kind."""

_pausing: set[int] = set()
"""Threads that wait for their machine."""

_log = logging.getLogger("reborn_nas.study")


class MachineError(RebornError, OSError):
    """The machine failed at something that may work later, or elsewhere."""


def machine_fault(error: BaseException) -> str | None:
    """The machine's fault behind `error`, in words; None where it has another cause."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MachineError):
            return str(seen)
        if isinstance(seen, OSError):
            if seen.errno in PASSING:
                return _in_words(seen.errno, seen)
        elif (number := _number_in(str(seen))) is not None:
            return _in_words(number, seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def blame_machine(error: BaseException, where: object) -> None:
    """Raise MachineError, naming `where`, if the machine is to blame for `error`."""
    fault = machine_fault(error)
    if fault is not None:
        raise MachineError(f"{where}: {fault}; try again when the machine is well") from error


def wait_out(
    call: Callable[[], T],
    what: str,
    *,
    stopping: Callable[[], bool] = lambda: False,
    patience: float = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """`call`, made again with growing pauses as long as the machine is at fault; each pause is logged.

    Args:
        what: of the call, for the log: "the curve cannot be written".
        stopping: whether to give up now.

    Raises:
        MachineError: the fault stayed for `patience` seconds.
    """
    began, wait = clock(), FIRST_WAIT
    while True:
        try:
            return call()
        except Exception as error:
            fault = machine_fault(error)
            if fault is None:
                raise
            if stopping() or clock() - began + wait > patience:
                raise MachineError(f"{what}: {fault}") from error
            _log.warning("%s: %s; trying again in %.1f s", what, fault, wait)
        pause(wait, stopping, sleep, clock)
        wait = min(2 * wait, LONGEST_WAIT)


def pause(
    seconds: float,
    stopping: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Sleep, unless a stop is requested."""
    until = clock() + seconds
    mark = threading.get_ident()
    _pausing.add(mark)
    try:
        while (left := until - clock()) > 0 and not stopping():
            sleep(min(left, STEP))
    finally:
        _pausing.discard(mark)


def is_pausing(thread: int | None) -> bool:
    """Whether a thread waits for its machine at this moment."""
    return thread in _pausing


def _number_in(text: str) -> int | None:
    found = [int(one or other) for one, other in _CODED.findall(text)]
    named = [number for number in PASSING if os.strerror(number) in text]
    return next((number for number in (*found, *named) if number in PASSING), None)


def _in_words(number: int, error: BaseException) -> str:
    file = getattr(error, "filename", None)
    return os.strerror(number) + (f" ({file})" if file else "")
