"""A study through Optuna's gRPC proxy: the same results as without, though the proxy dies on the way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from reborn_nas.study.plan.designs import Run
from reborn_nas.study.store.storage import connect, open_run
from reborn_nas.study.worker.loop import Worker
from reborn_nas.study.worker.progress import SilentProgress
from reborn_nas.study.worker.stop import Stopper
from tests.study.conftest import FakeObjective, make_bench
from tests.study.proxy import Proxy
from tests.study.toy import SITES, phases, results

pytest.importorskip("grpc")


def complete(folder: Path, url: str, objective: FakeObjective) -> bool:
    """One worker, from an empty storage to the end of the plan."""
    store = open_run(connect(url), "toy", create=True)
    with Stopper() as stopper:
        context = make_bench(folder, sites=SITES)
        return Worker(context, store, phases(), objective, SilentProgress(), stopper).work(lead=True)


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
