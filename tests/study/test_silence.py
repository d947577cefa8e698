"""Waiting for a storage is logged within five seconds, and every thirty seconds after that."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from reborn_nas.cli.main import main
from reborn_nas.study.store import patience
from reborn_nas.study.store.patience import Listener
from reborn_nas.study.store.storage import connect
from reborn_nas.study.worker.stop import HungError, Watchdog
from tests.study.proxy import Network, Proxy


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_when_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    listener = Listener(clock)
    times = []
    with listener.asking("storage x") as question:
        with listener.asking("storage x, within") as inner:
            assert inner is question
        for tenth in range(1000):
            clock.now = 100 + tenth / 10
            listener.look()
            if logged(caplog):
                times.append(tenth / 10)
        assert times == [4.0, 34.0, 64.0, 94.0]
        question.trouble = "OperationalError"
        clock.now = 230
        listener.look()
        assert logged(caplog) == ["storage x has not answered for 130 s (OperationalError); waiting"]
    assert logged(caplog) == ["storage x answers again, after 130 s"]
    with listener.asking("storage x"):
        clock.now += 3.9
        listener.look()
    listener.look()
    assert logged(caplog) == []


def wait_for(caplog: pytest.LogCaptureFixture, text: str, count: int = 1) -> list[str]:
    """What was logged until `text` came so often."""
    until, found = time.monotonic() + 60, []
    while sum(text in one for one in found) < count:
        assert time.monotonic() < until, found
        time.sleep(0.05)
        found += logged(caplog)
    return found


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is logged at once, and again every second."""
    monkeypatch.setattr(patience, "SAY_AFTER", 0.0)
    monkeypatch.setattr(patience, "SAY_EVERY", 1.0)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("driver", "url"),
    [
        ("psycopg2", "postgresql://me:hunter2@127.0.0.1:{0}/db?connect_timeout=2"),
        ("grpc", "grpc://127.0.0.1:{0}"),
    ],
)
def test_a_worker_whose_database_takes_the_connection_and_never_answers(
    driver: str, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip(driver)
    monkeypatch.setattr("reborn_nas.study.worker.pool.PATIENCE", 2.5)
    monkeypatch.setattr("reborn_nas.study.store.storage.PROXY_READY", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = url.format(server.getsockname()[1])
        assert main(["worker", "--storage", url, "--study", "mine"]) == 2
    lines = logged(caplog)
    assert len(lines) >= 2, "said once only"
    assert all(one.startswith(f"storage {url.replace('hunter2', '***')} has not answered") for one in lines)
    assert "cannot be opened" in capfd.readouterr().err


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("driver", ["psycopg2", "grpc"])
def test_a_database_that_falls_silent_later(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The network swallows what is sent: nothing breaks, and nothing comes."""
    pytest.importorskip(driver)
    monkeypatch.setattr("reborn_nas.study.store.storage.DEADLINE", 1.0)
    with ExitStack() as stack:
        if driver == "grpc":
            proxy = stack.enter_context(Proxy(tmp_path / "study.journal"))
            network = Network(proxy.port)
            url = f"grpc://127.0.0.1:{network.port}"
        else:
            server = request.getfixturevalue("server")
            network = Network(server.port)
            url = server.url.replace(f":{server.port}/", f":{network.port}/")
        storage = connect(url)
        logged(caplog)
        network.freeze()
        call = threading.Thread(target=storage.get_all_studies)
        call.start()
        found = wait_for(caplog, "has not answered", 2)
        network.mend()
        found += wait_for(caplog, "answers again")
        call.join()
    if driver == "grpc":
        assert any("InactiveRpcError" in one for one in found), "a call without a deadline"


def test_what_was_given_up_has_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    listener = Listener(clock)

    def give_up() -> None:
        with listener.asking("storage x"):
            clock.now += 60
            listener.look()
            raise TimeoutError

    with pytest.raises(TimeoutError):
        give_up()
    assert logged(caplog) == ["storage x has not answered for 60 s; waiting"]
    assert not listener.is_asking(threading.get_ident())


def test_a_held_lock_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(patience, "SAY_AFTER", 0.0)
    storage = connect(f"journal://{tmp_path}/study.journal")
    with open(tmp_path / "study.journal", "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        change = threading.Thread(target=storage.create_new_study, args=((2,),))
        change.start()
        wait_for(caplog, "has not answered")
        fcntl.flock(stream, fcntl.LOCK_UN)
    change.join()
    assert "answers again" in logged(caplog)[-1]
    assert len(storage.get_all_studies()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_questions_of_its_own() -> None:
    with patience.asking("outer"):
        child = os.fork()
        if child == 0:
            os._exit(1 if patience.is_asking(threading.get_ident()) else 0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_training_that_waits_for_its_storage_does_not_hang() -> None:
    logging.getLogger("reborn_nas.study").disabled = True
    try:
        with Watchdog(lambda: 0.2, None), patience.asking("storage"):
            time.sleep(1.0)
    finally:
        logging.getLogger("reborn_nas.study").disabled = False
    with pytest.raises(HungError), Watchdog(lambda: 0.2, None):
        time.sleep(30)
