"""Optuna's journal file with three additions: many changes in one write, no torn line after a crash, and a replay in
a third of the time.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from pydantic_core import from_json

from reborn_nas.errors import StudyError
from reborn_nas.study.store.replay import Replay

__all__ = ["open_journal", "together"]

LONGEST_LINE = 1 << 26
"""Bytes; a file with a longer line is not a journal file."""

CHUNK = 1 << 20
"""Bytes per read."""

READ = b"copy_of|phase|record"
"""User attributes of a trial from which records are read."""

UNREAD = re.compile(
    rb'\{"op_code":(?:[579],|8,"worker_id":"[^"]*","trial_id":\d+,"user_attr":\{"(?!(?:' + READ + rb')"))'
)
"""Beginnings of lines of parameters, intermediate values, system attributes and other user attributes."""

LOCK_GRACE = 1
"""Seconds after which Optuna's lock is taken from a writer that died while holding it; a write takes milliseconds.

Our writers also hold the kernel's lock on the file, which is released when its holder dies. Optuna's lock is then
either left over, or held by a process without ours, such as a dashboard that writes a note.
"""


def open_journal(path: Path, *, read_only: bool = False, results_only: bool = False) -> JournalStorage:
    """The journal at the absolute `path` (Optuna's lock spins on a relative one), created if it is missing.

    Args:
        read_only: it must exist, and is never written to.
        results_only: with `read_only`, skip parameters, intermediate values, system attributes and user attributes
            other than `READ`, which are most of a long journal; the records repeat what readers need of them.

    Raises:
        StudyError: the file is not a journal file.
    """
    if not path.parent.is_dir():
        raise StudyError(f"storage journal://{path}: the folder {path.parent} does not exist")
    if path.exists() and not path.is_file():
        raise StudyError(f"{path} is not a file")
    if path.is_file():
        with open(path, "rb") as stream:
            first = stream.readline(LONGEST_LINE)
            if first[:1] not in (b"", b"{") or len(first) == LONGEST_LINE:
                raise StudyError(f"{path} is not an Optuna journal")
    try:
        if not read_only:
            return GatheringJournal(WholeLines(str(path)))
        return GatheringJournal(ReadLines(str(path), UNREAD if results_only else None))
    except (
        ValueError,
        LookupError,
        TypeError,
        AssertionError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise StudyError(f"{path} is not an Optuna journal, or it is damaged: {error!r}") from error


@contextmanager
def together(storage: BaseStorage) -> Iterator[None]:
    """Write the changes made inside the context to a journal at its end, all or none; one by one to other storages.

    Inside the context the storage does not show them yet. Raises UpdateFinishedTrialError at its end if one of them
    changes a trial that has been finished meanwhile.
    """
    if isinstance(storage, GatheringJournal):
        with storage.gathering():
            yield
    else:
        yield


class WholeLines(JournalFileBackend):
    """A journal file to which lines are appended completely or not at all.

    Args:
        unread: pattern of the lines to skip; each is read as None.
    """

    def __init__(self, path: str, unread: re.Pattern[bytes] | None = None) -> None:
        self._own_lock = JournalFileSymlinkLock(path)
        self._own_lock.grace_period = LOCK_GRACE
        self._own_path = path
        self._unread = unread
        self._position = (0, 0)
        self._last = b""
        super().__init__(path, lock_obj=self._own_lock)

    def read_logs(self, log_number_from: int) -> Generator[Any, None, None]:
        """The complete lines from a number on. One that is not JSON is an error if another follows.

        Raises:
            RewrittenError: the last line that was read has changed.
        """
        number, offset = self._position
        if number != log_number_from:
            number, offset, self._last = 0, 0, b""
        with open(self._own_path, "rb", buffering=0) as stream:
            stream.seek(offset - len(self._last))
            if stream.read(len(self._last)) != self._last:
                self._position, self._last = (0, 0), b""
                raise RewrittenError(self._own_path)
            locked = False
            while True:
                try:
                    for line, log in self._complete_lines(stream, offset):
                        number, offset = number + 1, offset + len(line)
                        self._position, self._last = (number, offset), line
                        if number > log_number_from:
                            yield log
                    return
                except ValueError:  # a read during a write can see a part of it
                    if locked:
                        raise
                    _lock(stream, shared=True)
                    locked = True

    def _complete_lines(self, stream: IO[bytes], offset: int) -> Iterator[tuple[bytes, Any]]:
        """Each complete line and its value. The beginning of a line is never joined to a later read's end."""
        passed = self._unread.match if self._unread else None
        size = CHUNK
        broken: ValueError | None = None
        while True:
            stream.seek(offset)
            chunk = stream.read(size)
            complete = chunk.rfind(b"\n") + 1
            if not complete:
                if len(chunk) < size:
                    return  # still being written
                if size >= LONGEST_LINE:
                    raise ValueError(f"a line is longer than {LONGEST_LINE:,} bytes")
                size *= 2
                continue
            for line in chunk[:complete].split(b"\n")[:-1]:
                if broken is not None:
                    raise broken
                log = None
                if passed is None or not passed(line):
                    try:
                        log = _parse(line)
                    except ValueError as error:
                        broken = error
                        continue
                yield line + b"\n", log
            offset += complete

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append `logs`, durable on return. A torn last line that a crash left is removed first.

        Zeros that no reader takes for a line reserve the space first, so that a full disk fails before anybody has read
        a line that would have to be taken back.
        """
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with open(self._own_path, "r+b", buffering=0) as stream:
            _lock(stream)
            self._own_lock.acquire()
            try:
                end = _end_of_lines(stream)
                stream.truncate(end)
                try:
                    for data in (bytes(len(text)), text):
                        stream.seek(end)
                        _write_all(stream, data)
                    os.fsync(stream.fileno())
                except BaseException:  # such as a full disk: remove all of it
                    stream.truncate(end)
                    raise
            finally:
                self._own_lock.release()


class RewrittenError(Exception):
    """Lines that were read have disappeared from the file: a disk failed after they had been written."""


class ReadLines(WholeLines):
    """A read-only journal file."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refused."""
        raise StudyError(f"{self._own_path} is open for reading only")


class GatheringJournal(JournalStorage):
    """A journal storage that can collect changes and write them at once, with one fsync instead of many."""

    def __init__(self, backend: WholeLines) -> None:
        self._own_backend = backend
        self._gathered = threading.local()
        super().__init__(backend)
        self._replay_result._last_created_trial_id_by_this_process = -1

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """See `together`."""
        if getattr(self._gathered, "logs", None) is not None:
            yield
            return
        self._gathered.logs = []
        try:
            yield
            logs = self._gathered.logs
        finally:
            self._gathered.logs = None
        if logs:
            self.append_together(logs)
            self.replay()

    def _sync_with_backend(self) -> None:
        if not isinstance(self._replay_result, Replay):  # Optuna's, just made
            self._replay_result = Replay(self._worker_id_prefix)
        try:
            super()._sync_with_backend()
        except RewrittenError:
            self._replay_result = Replay(self._worker_id_prefix)
            super()._sync_with_backend()

    def append_together(self, logs: list[dict[str, Any]]) -> None:
        """Write `logs`, all or none; safe to repeat after a failure."""
        with self._thread_lock:
            self._own_backend.append_logs(logs)

    def _write_log(self, op_code: int, extra_fields: Mapping[str, Any]) -> None:
        logs = getattr(self._gathered, "logs", None)
        if logs is None:
            super()._write_log(op_code, dict(extra_fields))
        else:
            logs.append({"op_code": op_code, "worker_id": self._replay_result.worker_id, **extra_fields})

    def replay(self) -> None:
        """Read what was written. A change that came too late raises once, after the others have been read."""
        late: UpdateFinishedTrialError | None = None
        while True:
            try:
                with self._thread_lock:
                    self._sync_with_backend()
            except UpdateFinishedTrialError as error:
                late = error
                continue
            break
        if late is not None:
            raise late


def _parse(line: bytes) -> Any:
    """The JSON value in `line`; pydantic parses it in a third of the time, but not everything that Python writes."""
    try:
        return from_json(line)
    except ValueError:
        return json.loads(line)


def _lock(stream: IO[bytes], *, shared: bool = False) -> None:
    """Lock the open file in the kernel until it is closed or its holder dies; does nothing on Windows."""
    if fcntl is not None:
        fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def _end_of_lines(stream: IO[bytes]) -> int:
    """Where the last complete line ends."""
    size = stream.seek(0, os.SEEK_END)
    end = size
    while end > 0:
        start = max(0, end - 65536)
        stream.seek(start)
        chunk = stream.read(end - start)
        cut = chunk.rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


def _write_all(stream: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]
