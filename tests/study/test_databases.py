"""Databases that go away under a study that runs: cut off, silent, renamed, with another password, dropped."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reborn_nas.errors import StudyError
from reborn_nas.study.store.storage import connect, open_run
from tests.study import postgresql
from tests.study.proxy import Network
from tests.study.test_faults import wait_until_told
from tests.study.toy import results, start

pytest.importorskip("psycopg2")
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.usefixtures("short_lease"),
]

AWAY = 3.0
"""Seconds that a database is away; whoever asks it tries again after 0.5, 1, 2, … s."""


class Admin:
    """What an administrator may do to a study's database."""

    def __init__(self, server: postgresql.Server, name: str) -> None:
        import psycopg2

        self.server, self.name = server, name
        self._cursor = psycopg2.connect(server.url)
        self._cursor.autocommit = True
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD 's3cret'")
        self.execute(f"CREATE DATABASE {name} OWNER {name}")
        path = self.ask("SHOW hba_file")
        text = Path(path).read_text()
        Path(path).write_text(f"host all {name} 127.0.0.1/32 scram-sha-256\n{text}")
        self.execute("SELECT pg_reload_conf()")

    @property
    def url(self) -> str:
        return f"postgresql://{self.name}:s3cret@127.0.0.1:{self.server.port}/{self.name}"

    def execute(self, command: str) -> None:
        self._cursor.cursor().execute(command)

    def ask(self, question: str) -> Any:
        cursor = self._cursor.cursor()
        cursor.execute(question)
        return cursor.fetchone()[0]

    def disconnect(self) -> None:
        """End every connection to the database."""
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.name}'")

    def rename(self, old: str, new: str) -> None:
        import psycopg2

        while True:
            self.disconnect()
            try:
                self.execute(f"ALTER DATABASE {old} RENAME TO {new}")
            except psycopg2.errors.ObjectInUse:  # a worker came back in between
                continue
            return

    @contextmanager
    def renamed(self) -> Iterator[None]:
        self.rename(self.name, "elsewhere")
        yield
        self.rename("elsewhere", self.name)

    @contextmanager
    def other_password(self) -> Iterator[None]:
        self.execute(f"ALTER ROLE {self.name} PASSWORD 'other'")
        self.disconnect()
        yield
        self.execute(f"ALTER ROLE {self.name} PASSWORD 's3cret'")

    @contextmanager
    def killed(self) -> Iterator[None]:
        import psycopg2

        self.server.kill()
        yield
        self.server.start()
        self._cursor = psycopg2.connect(self.server.url)
        self._cursor.autocommit = True


@contextmanager
def cut(network: Network) -> Iterator[None]:
    """Connections break, and nobody answers."""
    network.cut()
    yield
    network.mend()


@contextmanager
def frozen(network: Network) -> Iterator[None]:
    """Connections stand, and nothing comes back."""
    network.freeze()
    yield
    network.mend()


@pytest.mark.slow
def test_a_database_that_goes_away_in_five_ways_only_takes_time(
    folder: Path, undisturbed: dict[str, float], server: postgresql.Server
) -> None:
    admin = Admin(server, "study")
    network = Network(server.port)
    processes = [start(folder, admin.url.replace(f":{server.port}/", f":{network.port}/")) for _ in range(2)]
    ways: list[tuple[int, Callable[[], Any]]] = [
        (6, lambda: cut(network)), (14, lambda: frozen(network)), (22, admin.renamed), (30, admin.other_password),
        (38, admin.killed),
    ]  # fmt: skip
    for count, away in ways:
        wait_until_told(folder, admin.url, count)
        with away():
            time.sleep(AWAY)
            assert all(process.is_alive() for process in processes), count
    for process in processes:
        process.join(180)
        assert process.exitcode == 0
    assert results(folder, admin.url) == undisturbed


def test_a_dropped_database_is_named_with_the_reason(
    server: postgresql.Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("reborn_nas.study.store.storage.PATIENCE", 2.0)
    caplog.set_level(logging.WARNING)
    admin = Admin(server, "dropped")
    store = open_run(connect(admin.url), "mine", create=True)
    admin.execute("DROP DATABASE dropped WITH (FORCE)")
    with pytest.raises(StudyError, match=r"has been away .*\"dropped\" does not exist.*Run the same command"):
        store.keep("a", 1)
    admin.execute("CREATE DATABASE dropped OWNER dropped")
    with pytest.raises(StudyError, match="has been away"):  # empty: not what was there
        store.keep("a", 1)
    assert open_run(connect(admin.url), "mine", create=True).attribute("a") is None, "begun anew"
    admin.execute("ALTER ROLE dropped PASSWORD 'other'")
    with pytest.raises(StudyError, match=r"cannot be opened: .*password authentication failed") as caught:
        connect(admin.url)
    assert "s3cret" not in f"{caught.value}{caplog.text}"
