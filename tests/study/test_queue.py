"""Leases, fencing, double attempts: nobody's result counts twice, nobody's run is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from reborn_nas.architecture import Architecture
from reborn_nas.study.engine import told
from reborn_nas.study.lease import LeaseWatch, identity
from reborn_nas.study.queue import Claim, Run, RunQueue
from reborn_nas.study.reading import read_records
from reborn_nas.study.storage import RunStore, connect, open_run
from tests.study.conftest import fake_record

SITES = ("layer0.act",)
LABELS = {"screen": {"layer0.act": ("original", "relu")}, "search": {}}
PHASES = ("screen", "search")


class Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def runs(count: int) -> list[Run]:
    blank = Architecture("toy", {}).to_dict()
    return [
        Run(
            f"screen/{index}",
            "screen",
            "design",
            index,
            architecture=blank,
            parameters={"layer0.act": "relu"},
        )
        for index in range(count)
    ]


def open_store(folder: Path, kind: str) -> RunStore:
    url = {"journal": f"journal://{folder}/study.journal", "sqlite": f"sqlite:///{folder}/study.db"}[kind]
    return open_run(connect(url), "toy", create=True)


@pytest.fixture(params=["journal", "sqlite"])
def store(folder: Path, request: pytest.FixtureRequest) -> RunStore:
    return open_store(folder, request.param)


def finish(queue: RunQueue, claim: Claim) -> bool:
    record = fake_record(claim.run, Architecture("toy", {}))
    return queue.finish(claim, record, told(record, learns_pruned=True))


def elsewhere(store: RunStore, claim: Claim, beat: int = 0) -> None:
    """Make the claim's lease that of a process on another host."""
    store.storage.set_trial_user_attr(
        claim.trial_id, "lease", {"host": "far", "pid": 1, "started": "1", "beat": beat}
    )


def test_each_run_is_claimed_once_by_two_workers(store: RunStore) -> None:
    one, two = RunQueue(store, LABELS), RunQueue(store, LABELS)
    assert one.enqueue(runs(6)) == 6
    assert two.enqueue(runs(6)) == 0
    keys = []
    for queue in (one, two, two, one, two, one):
        claim = queue.claim(PHASES)
        assert claim is not None
        queue.beat(claim, 0)
        keys.append(claim.run.key)
        assert finish(queue, claim)
    assert keys == [f"screen/{index}" for index in range(6)]
    assert one.claim(PHASES) is None
    assert one.enqueue(runs(6)) == 0


def test_two_workers_that_enqueue_at_once_do_not_train_twice(store: RunStore) -> None:
    one, two = RunQueue(store, LABELS), RunQueue(store, LABELS)
    one.enqueue(runs(2))
    # what a second leader adds that looked before the first one wrote
    blind = RunQueue(store, LABELS)
    blind._attempts = lambda phase: {}  # type: ignore[method-assign]
    assert blind.enqueue(runs(2)) == 2
    done = []
    while (claim := two.claim(PHASES)) is not None:
        finish(two, claim)
        done.append(claim.run.key)
    assert sorted(done) == ["screen/0", "screen/1"]
    assert len(read_records(store)) == 2


def test_the_result_of_a_worker_that_was_cut_off_is_dropped(store: RunStore) -> None:
    clock = Clock()
    slow, other = RunQueue(store, LABELS), RunQueue(store, LABELS, LeaseWatch(45, clock))
    slow.enqueue(runs(1))
    claim = slow.claim(PHASES)
    assert claim is not None
    elsewhere(store, claim)
    assert other.reap() == 0  # seen for the first time
    clock.now = 46
    assert other.reap() == 1
    other.enqueue(runs(1))
    second = other.claim(PHASES)
    assert second is not None
    assert second.attempt == 1
    assert second.run == claim.run
    assert not finish(slow, claim)  # it comes back, with the token of a finished trial
    assert claim.lost
    assert finish(other, second)
    assert not finish(slow, claim)
    assert [record.key for record in read_records(store)] == ["screen/0"]


def test_a_beat_keeps_the_lease_and_a_clock_ahead_does_not_end_it(store: RunStore) -> None:
    clock = Clock()
    holder, other = RunQueue(store, LABELS), RunQueue(store, LABELS, LeaseWatch(45, clock))
    holder.enqueue(runs(1))
    claim = holder.claim(PHASES)
    assert claim is not None
    for beat in range(5):
        elsewhere(store, claim, beat)
        assert other.reap() == 0
        clock.now += 44
    assert finish(holder, claim)


def test_a_dead_process_of_this_host_is_seen_at_once(store: RunStore) -> None:
    holder, other = RunQueue(store, LABELS), RunQueue(store, LABELS)
    holder.enqueue(runs(1))
    claim = holder.claim(PHASES)
    assert claim is not None
    holder.beat(claim, 0)
    assert other.reap() == 0  # this very process lives
    store.storage.set_trial_user_attr(claim.trial_id, "lease", {**identity(), "started": "1", "beat": 0})
    assert other.reap() == 1  # another process had that pid


def test_a_record_without_its_state_is_told_by_the_reaper(store: RunStore) -> None:
    clock = Clock()
    holder, other = RunQueue(store, LABELS), RunQueue(store, LABELS, LeaseWatch(45, clock))
    holder.enqueue(runs(1))
    claim = holder.claim(PHASES)
    assert claim is not None
    elsewhere(store, claim)
    record = fake_record(claim.run, Architecture("toy", {}))
    result = told(record, learns_pruned=True)
    store.storage.set_trial_user_attr(
        claim.trial_id, "record", {**record.to_dict(), "told": result.to_dict()}
    )
    other.reap()
    clock.now = 46
    assert other.reap() == 1
    assert other.enqueue(runs(1)) == 0  # not trained again
    trial = store.study("screen").get_trials()[0]
    assert (trial.state.name, trial.value) == ("COMPLETE", record.accuracy)


def test_a_run_that_kills_its_workers_is_told_as_failed(store: RunStore) -> None:
    queue = RunQueue(store, LABELS)
    for _ in range(5):
        assert queue.enqueue(runs(1)) == 1
        claim = queue.claim(PHASES)
        assert claim is not None
        queue.give_back(claim, "lost: its worker is gone")
    assert queue.enqueue(runs(1)) == 0
    (record,) = read_records(store)
    assert record.state == "failed"
    assert "died 5 times" in record.reason


def test_interruptions_are_no_losses(store: RunStore) -> None:
    queue = RunQueue(store, LABELS)
    for _ in range(7):
        assert queue.enqueue(runs(1)) == 1
        claim = queue.claim(PHASES)
        assert claim is not None
        queue.give_back(claim)
    assert read_records(store) == []
