"""Processes that are started beside this one: without the keyboard, without the caller's script."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, TypeVar

from reborn_nas.errors import RebornError, StudyError
from reborn_nas.heavy import import_networks

__all__ = ["Child", "call_in_child", "start_child"]

T = TypeVar("T")
Child = tuple[BaseProcess, Connection]


def start_child(work: Callable[..., None], arguments: tuple[Any, ...], name: str) -> Child:
    """Start a daemon that runs `work(*arguments, pipe)`; the process, and the other end of its pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    packed = pickle.dumps((work, arguments))
    process = context.Process(target=_begin, args=(packed, theirs), name=name, daemon=True)
    with _without_keyboard(), _without_main():
        process.start()
    theirs.close()
    return process, ours


def _begin(packed: bytes, pipe: Connection) -> None:
    """Unpacking imports what the work needs, torch and timm nearly always: those first."""
    import_networks()
    work, arguments = pickle.loads(packed)
    work(*arguments, pipe)


def call_in_child(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)` in a process of its own, which then ends: what it took of a GPU is free again.

    Raises:
        StudyError: the function raised an error of ours, whose text it has, or its process died.
    """
    process, pipe = start_child(_answer, (function, arguments), function.__name__)
    try:
        good, value = pipe.recv()
    except EOFError:
        process.join()
        raise StudyError(
            f"the process that tries the device ended with exit code {process.exitcode}; --device cpu does without it"
        ) from None
    finally:
        pipe.close()
        process.join()
    if not good:
        raise StudyError(value)
    found: T = value
    return found


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...], pipe: Connection) -> None:
    try:
        answer = True, function(*arguments)
    except RebornError as error:
        answer = False, str(error)
    pipe.send(answer)
    pipe.close()


@contextmanager
def _without_keyboard() -> Iterator[None]:
    """A child that starts inside never sees Ctrl-C, which a terminal sends to all: the supervisor tells it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """A child that starts inside does not run the caller's script again, as `spawn` would without a `__main__` guard.

    Workers need nothing of it: they are told everything by name.
    """
    before = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before
