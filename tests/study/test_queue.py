"""Leases, fencing, double attempts: no result counts twice, no run is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from reborn_nas.architecture import Architecture
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.store.attempts import AttemptCounts, Attempts, LeaseWatch, _started, identity, lives
from reborn_nas.study.store.outcome import outcome_of
from reborn_nas.study.store.queue import DIED, SILENT, Claim, RunQueue
from reborn_nas.study.store.reading import read_records
from reborn_nas.study.store.storage import RunStore, connect, open_run
from tests.study.conftest import fake_record

SITES = ("layer0.act",)
LABELS = {"screen": {"layer0.act": ("original", "relu")}, "search": {"layer0.act": ("original", "relu")}}
PHASES = ("screen", "search")


class Clock:
    """A clock that is advanced by hand."""

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


def held(queue: RunQueue) -> Claim:
    """The one run of a new plan, claimed by `queue`."""
    queue.enqueue(runs(1))
    claim = queue.claim(PHASES)
    assert claim is not None
    return claim


def finish(queue: RunQueue, claim: Claim) -> bool:
    record = fake_record(claim.run, Architecture("toy", {}))
    return queue.finish(claim, record, outcome_of(record, learns_pruned=True))


def later(queue: RunQueue, clock: Clock, seconds: int) -> int:
    """What the queue reaps in so many seconds, looking every few seconds as workers do."""
    reaped = queue.reap()
    for _ in range(0, seconds, 10):
        clock.now += 10
        reaped += queue.reap()
    return reaped


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
    blind._index = lambda phase: Attempts(())  # type: ignore[method-assign]
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
    claim = held(slow)
    elsewhere(store, claim)
    assert later(other, clock, 40) == 0
    assert later(other, clock, 10) == 1
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


def test_a_process_that_is_stopped_here_loses_its_lease_and_not_its_standing(store: RunStore) -> None:
    """It is alive, so it has not died over the run; it is idle, so its lease expires."""
    clock = Clock()
    slow, other = RunQueue(store, LABELS), RunQueue(store, LABELS, LeaseWatch(45, clock))
    claim = held(slow)
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        here = {**identity(), "pid": worker.pid, "started": _started(worker.pid), "beat": "x"}
        store.storage.set_trial_user_attr(claim.trial_id, "lease", here)
        assert [later(other, clock, 40) for _ in range(3)] == [0, 0, 0]
        os.kill(worker.pid, signal.SIGSTOP)
        os.waitpid(worker.pid, os.WUNTRACED)
        assert [later(other, clock, 40) for _ in range(2)] == [0, 1]
    finally:
        worker.kill()
        worker.wait()
    trials = [trial for study in store.studies() for trial in study.get_trials(deepcopy=False)]
    assert [trial.user_attrs.get("ended") for trial in trials] == [SILENT]


@pytest.mark.parametrize(
    "lease", [None, {}, {"pid": "x", "started": "1"}, {"pid": os.getpid(), "started": ""}]
)
def test_a_holder_of_which_nothing_is_known_is_not_seen_to_live(lease: dict[str, object] | None) -> None:
    """As where the system tells nothing of its processes: its worker died, and the run counts that."""
    assert not lives(lease)
    assert lives(identity())


def test_a_beat_keeps_the_lease_and_a_clock_ahead_does_not_end_it(store: RunStore) -> None:
    clock = Clock()
    holder, other = RunQueue(store, LABELS), RunQueue(store, LABELS, LeaseWatch(45, clock))
    claim = held(holder)
    for beat in range(5):
        elsewhere(store, claim, beat)
        assert later(other, clock, 40) == 0
    assert finish(holder, claim)


def test_no_lease_expires_while_the_storage_is_unreachable(store: RunStore) -> None:
    clock = Clock()
    holder, other = RunQueue(store, LABELS), RunQueue(store, LABELS, LeaseWatch(45, clock))
    claim = held(holder)
    elsewhere(store, claim)
    assert other.reap() == 0
    clock.now += 300  # the database was away: no heartbeat could be written or read
    assert other.reap() == 0
    elsewhere(store, claim, beat=1)
    assert later(other, clock, 40) == 0
    assert later(other, clock, 46) == 1  # now it is gone indeed


def test_a_dead_process_of_this_host_is_seen_at_once(store: RunStore) -> None:
    holder, other = RunQueue(store, LABELS), RunQueue(store, LABELS)
    claim = held(holder)
    holder.beat(claim, 0)
    assert other.reap() == 0  # this very process lives
    store.storage.set_trial_user_attr(claim.trial_id, "lease", {**identity(), "started": "1", "beat": 0})
    assert other.reap() == 1  # another process had that pid


def test_a_record_without_its_state_is_told_by_the_reaper(store: RunStore) -> None:
    clock = Clock()
    holder, other = RunQueue(store, LABELS), RunQueue(store, LABELS, LeaseWatch(45, clock))
    claim = held(holder)
    elsewhere(store, claim)
    record = fake_record(claim.run, Architecture("toy", {}))
    result = outcome_of(record, learns_pruned=True)
    store.storage.set_trial_user_attr(
        claim.trial_id, "record", {**record.to_dict(), "told": result.to_dict()}
    )
    other.reap()
    assert later(other, clock, 46) == 1
    assert other.enqueue(runs(1)) == 0  # not trained again
    trial = store.study("screen").get_trials()[0]
    assert (trial.state.name, trial.value) == ("COMPLETE", record.accuracy)


def test_a_run_that_kills_its_workers_is_told_as_failed(store: RunStore) -> None:
    queue = RunQueue(store, LABELS)
    for _ in range(5):
        assert queue.enqueue(runs(1)) == 1
        claim = queue.claim(PHASES)
        assert claim is not None
        queue.give_back(claim, DIED)
    assert queue.enqueue(runs(1)) == 0
    (record,) = read_records(store)
    assert record.state == "failed"
    assert "died 5 times" in record.reason


def test_a_run_that_gets_further_each_time_is_not_what_kills_its_workers(store: RunStore) -> None:
    """Preempted ever again: only deaths in a row at one place count."""
    queue = RunQueue(store, LABELS)
    for attempt in range(12):
        assert queue.enqueue(runs(1)) == 1, attempt
        claim = queue.claim(PHASES)
        assert claim is not None
        if 0 < attempt < 8:
            assert queue.resumed(claim, 10 * attempt)
        queue.give_back(claim, DIED)  # the eighth attempt's is the first of five at one place
    assert queue.enqueue(runs(1)) == 0
    (record,) = read_records(store)
    assert record.state == "failed"


def test_the_sampler_learns_of_a_run_that_kills_its_workers(store: RunStore) -> None:
    queue = RunQueue(store, LABELS, outcome=lambda record: outcome_of(record, learns_pruned=True))
    slot = Run("search/0", "search", "sampled", seed=1)
    for _ in range(5):
        assert queue.enqueue([slot]) == 1
        claim = queue.claim(["search"])
        assert claim is not None
        trial = optuna.trial.Trial(store.study("search"), claim.trial_id)
        trial.suggest_categorical("layer0.act", LABELS["search"]["layer0.act"])
        queue.give_back(claim, DIED)
    assert queue.enqueue([slot]) == 0
    last = store.study("search").get_trials()[-1]
    assert last.state.name == "PRUNED"
    assert set(last.params) == {"layer0.act"}
    assert last.system_attrs["constraints:failed"] == 1.0


def test_a_machine_that_falls_silent_says_little_about_the_run(store: RunStore) -> None:
    queue = RunQueue(store, LABELS)
    for attempt in range(21):
        assert queue.enqueue(runs(1)) == (attempt < 20)
        claim = queue.claim(PHASES)
        if claim is not None:
            queue.give_back(claim, SILENT)
    (record,) = read_records(store)
    assert record.state == "failed"


def test_a_long_plan_is_put_in_by_and_by(store: RunStore) -> None:
    queue = RunQueue(store, LABELS)
    assert queue.enqueue(runs(6), most=4) == 4
    assert queue.enqueue(runs(6), most=4) == 2
    claim = queue.claim(PHASES)
    assert claim is not None
    assert claim.run.key == "screen/0"
    assert finish(queue, claim)
    assert queue.counts() == AttemptCounts(waiting=5, running=0, ended=1)


def test_one_leads_at_a_time_and_who_dies_leading_is_replaced(store: RunStore) -> None:
    watch = LeaseWatch()
    with store.leading(watch) as mine:
        assert mine
        mark = store.attribute("leading")
        store.keep("leading", {**mark, "pid": 1, "started": _started(1), "beat": "x"})  # a process that lives
        with store.leading(watch) as second:
            assert not second
        store.keep("leading", {**mark, "started": "1", "beat": "x"})  # one that does not
        with store.leading(watch) as third:
            assert third
    assert store.attribute("leading") is None


def test_interruptions_are_no_losses(store: RunStore) -> None:
    queue = RunQueue(store, LABELS)
    for _ in range(7):
        assert queue.enqueue(runs(1)) == 1
        claim = queue.claim(PHASES)
        assert claim is not None
        queue.give_back(claim)
    assert read_records(store) == []


def test_what_an_earlier_search_of_this_process_held_is_free_again(store: RunStore) -> None:
    earlier, now = RunQueue(store, LABELS), RunQueue(store, LABELS)
    claim = held(earlier)
    earlier.beat(claim, 0)
    assert now.reap() == 0, "it is being trained in this process"
    earlier.abandon(claim)  # the storage was away, and the search ended
    assert now.reap() == 1
    assert now.enqueue(runs(1)) == 1
    assert not finish(earlier, claim)
