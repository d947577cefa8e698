"""Says when a storage keeps silent: somebody who waits should know what for."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["asking", "is_asking"]

SAY_AFTER, SAY_EVERY = 4.0, 30.0
"""Seconds without an answer after which that is said, and said again."""

LOOK = 0.5

_log = logging.getLogger("reborn_nas.study")


@dataclass
class Question:
    """A call that has no answer yet; `trouble` is what its last try ended in."""

    what: str
    began: float
    trouble: str = ""
    said: float | None = None


class Listener:
    """Watches the questions of all threads from one of its own, which starts with the first of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[int, Question] = {}
        self._thread: threading.Thread | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._open.clear)

    @contextmanager
    def asking(self, what: str) -> Iterator[Question]:
        """Inside, `what` is asked; a question within a question is the outer one."""
        thread = threading.get_ident()
        outer = self._open.get(thread)
        if outer is not None:
            yield outer
            return
        question = self._open[thread] = Question(what, self._clock())
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._listen, name="silence", daemon=True)
            self._thread.start()
        try:
            yield question
            if question.said is not None:
                _log.warning("%s answers again, after %.0f s", what, self._clock() - question.began)
        finally:
            self._open.pop(thread, None)

    def is_asking(self, thread: int | None) -> bool:
        """Whether a thread waits for an answer."""
        return thread in self._open

    def look(self) -> None:
        """Say which questions have had no answer for too long."""
        now = self._clock()
        for question in list(self._open.values()):
            due = question.began + SAY_AFTER if question.said is None else question.said + SAY_EVERY
            if now >= due:
                question.said = now
                trouble = f" ({question.trouble})" if question.trouble else ""
                _log.warning(
                    "%s does not answer since %.0f s%s; waiting", question.what, now - question.began, trouble
                )

    def _listen(self) -> None:
        while True:
            time.sleep(LOOK)
            self.look()


_listener = Listener()
asking, is_asking = _listener.asking, _listener.is_asking
