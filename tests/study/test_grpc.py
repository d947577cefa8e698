"""A study through Optuna's gRPC proxy: the same results as without, though the proxy dies on the way."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reborn_nas.study.engine import Engine
from reborn_nas.study.progress import SilentProgress
from reborn_nas.study.runs import Run
from reborn_nas.study.stopping import Stopper
from reborn_nas.study.storage import connect, open_run
from tests.study.conftest import FakeObjective, make_bench
from tests.study.toy import SITES, phases, results

pytest.importorskip("grpc")

SERVER = """
import sys
import optuna
storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(sys.argv[1]))
optuna.storages.run_grpc_proxy_server(storage, host="127.0.0.1", port=int(sys.argv[2]))
"""


class Proxy:
    """Optuna's own proxy over a journal, in a process of its own."""

    def __init__(self, journal: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._command = [sys.executable, "-c", SERVER, str(journal), str(self.port)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def complete(folder: Path, url: str, objective: FakeObjective) -> bool:
    """One worker, from an empty storage to the end of the plan."""
    store = open_run(connect(url), "toy", create=True)
    with Stopper() as stopper:
        bench = make_bench(folder, sites=SITES)
        return Engine(bench, store, phases(), objective, SilentProgress(), stopper).work(lead=True)


def test_a_study_through_the_proxy_which_dies_on_the_way(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    assert complete(folder, f"journal://{plain}/study.journal", FakeObjective())
    proxy = Proxy(folder / "study.journal")

    def cut(run: Run, number: int) -> None:
        if number == 10:
            proxy.kill()
            threading.Timer(1.0, proxy.start).start()

    objective = FakeObjective(before=cut)
    try:
        assert complete(folder, f"grpc://127.0.0.1:{proxy.port}", objective)
    finally:
        proxy.kill()
    assert results(folder, None) == results(plain, None)
    assert set(objective.calls.values()) == {1}
