"""Who waits for a storage is told so within five seconds, and every thirty after."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from reborn_nas.errors import StudyError
from reborn_nas.study import silence
from reborn_nas.study.silence import Listener
from reborn_nas.study.storage import connect
from reborn_nas.study.watchdog import HungError, Watchdog


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_when_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    listener = Listener(clock)
    times = []
    with listener.asking("storage x") as question:
        with listener.asking("storage x, within") as inner:
            assert inner is question
        for tenth in range(1000):
            clock.now = 100 + tenth / 10
            listener.look()
            if said(caplog):
                times.append(tenth / 10)
        assert times == [4.0, 34.0, 64.0, 94.0]
        question.trouble = "OperationalError"
        clock.now = 230
        listener.look()
        assert said(caplog) == ["storage x does not answer since 130 s (OperationalError); waiting"]
    assert said(caplog) == ["storage x answers again, after 130 s"]
    with listener.asking("storage x"):
        clock.now += 3.9
        listener.look()
    listener.look()
    assert said(caplog) == []


def test_a_database_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that takes the connection and says nothing."""
    pytest.importorskip("psycopg2")
    monkeypatch.setattr(silence, "SAY_AFTER", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://me:hunter2@127.0.0.1:{server.getsockname()[1]}/db?connect_timeout=2"
        with pytest.raises(StudyError):
            connect(url)
    first = said(caplog)[0]
    assert first.startswith(f"storage {url.replace('hunter2', '***')} does not answer since")


def test_a_lock_that_somebody_holds_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(silence, "SAY_AFTER", 0.0)
    storage = connect(f"journal://{tmp_path}/study.journal")
    with open(tmp_path / "study.journal", "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        change = threading.Thread(target=storage.create_new_study, args=((2,),))
        change.start()
        until = time.monotonic() + 60
        while not (found := said(caplog)):
            assert time.monotonic() < until
            time.sleep(0.05)
        fcntl.flock(stream, fcntl.LOCK_UN)
    change.join()
    assert "does not answer" in found[0]
    assert "answers again" in said(caplog)[-1]
    assert len(storage.get_all_studies()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_questions_of_its_own() -> None:
    with silence.asking("outer"):
        child = os.fork()
        if child == 0:
            os._exit(1 if silence.is_asking(threading.get_ident()) else 0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_training_that_waits_for_its_storage_does_not_hang() -> None:
    logging.getLogger("reborn_nas.study").disabled = True
    try:
        with Watchdog(lambda: 0.2, None), silence.asking("storage"):
            time.sleep(1.0)
    finally:
        logging.getLogger("reborn_nas.study").disabled = False
    with pytest.raises(HungError), Watchdog(lambda: 0.2, None):
        time.sleep(30)
