"""Every error that reborn-nas raises on purpose.

Each is a `RebornError` and also the builtin that fits, so that both `except RebornError` and
`except ValueError` work. A message says where, the rule, what was given and the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


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
    """A training that cannot start or go on."""


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


def unknown_name(kind: str, given: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """The error for an unknown `given` among `known`, with close matches and, where short, the whole list."""
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
