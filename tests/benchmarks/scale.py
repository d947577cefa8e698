"""What the framework costs a trial at 1,000 and 10,000 trials, beside bare Optuna doing the same calls.

Both go on with copies of one study that holds that many trials: `ours` is the engine with a training that takes no
time; `bare` asks the next trial, suggests the same parameters with the same sampler, sets the same attributes and
tells the value, on Optuna's own storage. They alternate. Run it with

    python -m tests.benchmarks.scale --trials 1000 10000                # journal, and PostgreSQL where there is one
    python -m tests.benchmarks.scale --part workers --workers 8         # what 8 workers lose on trials that sleep
    python -m tests.benchmarks.scale --part watched                     # what an open dashboard costs them
    python -m tests.benchmarks.scale --part page --trials 2000 10000    # the dashboard's study page
    python -m tests.benchmarks.scale --part read --trials 10000         # reading verbs, beside Optuna's reading
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from reborn_nas.architecture import Architecture
from reborn_nas.records import TrialRecord
from reborn_nas.samplers.registry import make_sampler
from reborn_nas.seeds import derive_seed
from reborn_nas.study.plan.designs import Run, search_runs
from reborn_nas.study.plan.phases import Phase
from reborn_nas.study.setup.context import StudyContext
from reborn_nas.study.store.outcome import outcome_of
from reborn_nas.study.store.storage import RunStore, connect, open_run
from reborn_nas.study.worker.loop import IDLE, Worker
from reborn_nas.study.worker.progress import SilentProgress
from reborn_nas.study.worker.stop import Stopper
from tests.study import postgresql
from tests.study.conftest import fake_record, make_bench

NAME = "scale"
SITES = 33  # as many as ResNet-34 has


def plan(search: int) -> tuple[Phase, ...]:
    counts = {"baseline": 0, "screen": 0, "search": search, "candidate": 0, "confirm": 0, "control": 0}
    return tuple(Phase(name, count) for name, count in counts.items())


def instant(run: Run, architecture: Architecture, on_epoch: Any = None) -> TrialRecord:
    """A training that takes no time, with a record as long as a real one's."""
    environment = dict.fromkeys(("python", "torch", "torchvision", "timm", "optuna"), "1.23.4+cpu")
    return replace(fake_record(run, architecture), environment=environment)


class Asleep:
    """A training that sleeps; `at` collects when each ended."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, run: Run, architecture: Architecture, on_epoch: Any = None) -> TrialRecord:
        time.sleep(self.seconds)
        return instant(run, architecture)


# -- a study that holds many trials, made in seconds ----------------------------------------------------------


def fill(context: StudyContext, trials: int) -> list[FrozenTrial]:
    """Finished trials of the search, parameters drawn at random, as the engine would have left them."""
    import random

    chance = random.Random(0)
    spaces = {
        name: optuna.distributions.CategoricalDistribution(labels)
        for name, labels in context.parameters.items()
    }
    found = []
    for run in search_runs(trials, context.config.seed, 1):
        parameters = {name: chance.choice(space.choices) for name, space in spaces.items()}
        fixed = optuna.trial.FixedTrial(parameters)
        architecture = context.space.suggest(fixed, context.sites, context.spec)
        record = instant(replace(run, parameters=parameters), architecture)
        result = outcome_of(record, learns_pruned=True)
        found.append(
            create_trial(
                state=TrialState[result.state],
                value=result.value,
                params=parameters,
                distributions=spaces,
                user_attrs={
                    **run.to_attributes(),
                    "attempt": 0,
                    "lease": {"host": "host/1/2", "pid": 1, "started": "1", "beat": 0},
                    **result.attributes,
                    "record": {**record.to_dict(), "told": result.to_dict()},
                },
            )
        )
    return found


@functools.cache
def filled(trials: int) -> list[FrozenTrial]:
    """`fill` for the paper's space on `SITES` sites."""
    return fill(make_bench(Path("none"), sites=SITES, space="paper"), trials)


def put(storage: BaseStorage, trials: list[FrozenTrial]) -> None:
    """Write `trials` into the run's main study, in bulk: in a journal, line by line what the engine would have left."""
    from reborn_nas.study.store.journal import together

    store = open_run(storage, NAME, create=True)
    if not isinstance(storage, JournalStorage):
        put_in_tables(storage, store, trials)
        return
    study = store.study("search")
    for first in range(0, len(trials), 500):
        some = trials[first : first + 500]
        with together(storage):
            study.add_trials([waiting(trial) for trial in some])
        with together(storage):
            for trial_id, trial in enumerate(some, first):
                write_result(storage, trial_id, trial)


LATER = ("lease", "params", "macs", "seconds", "digest", "record")
"""User attributes that a trial gets after it was claimed."""


def waiting(trial: FrozenTrial) -> FrozenTrial:
    attributes = {key: value for key, value in trial.user_attrs.items() if key not in LATER}
    return create_trial(state=TrialState.WAITING, user_attrs=attributes)


def write_result(storage: BaseStorage, trial_id: int, trial: FrozenTrial) -> None:
    """Claim, suggestions, attributes, result."""
    storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    for name, value in trial.params.items():
        space = trial.distributions[name]
        storage.set_trial_param(trial_id, name, space.to_internal_repr(value), space)
    for key in LATER:
        storage.set_trial_user_attr(trial_id, key, trial.user_attrs[key])
    storage.set_trial_state_values(trial_id, trial.state, trial.values)


def put_in_tables(storage: BaseStorage, store: RunStore, trials: list[FrozenTrial]) -> None:
    """Optuna's own inserts take 50 ms a trial: these are the same rows in bulk."""
    from optuna.storages._rdb import models

    backend: Any = getattr(storage, "_backend", storage)
    study_id = store.study("search")._study_id
    session = backend.scoped_session()
    session.bulk_insert_mappings(
        models.TrialModel,
        [
            {"number": number, "study_id": study_id, "state": trial.state,
             "datetime_start": trial.datetime_start, "datetime_complete": trial.datetime_complete}
            for number, trial in enumerate(trials)
        ],
    )  # fmt: skip
    session.flush()
    ids = [row[0] for row in session.query(models.TrialModel.trial_id).order_by(models.TrialModel.number)]
    kinds: dict[Any, list[dict[str, Any]]] = {
        models.TrialValueModel: [],
        models.TrialParamModel: [],
        models.TrialUserAttributeModel: [],
    }
    for trial_id, trial in zip(ids, trials):
        for name, value in trial.params.items():
            space = trial.distributions[name]
            kinds[models.TrialParamModel].append(
                {"trial_id": trial_id, "param_name": name, "param_value": space.to_internal_repr(value),
                 "distribution_json": optuna.distributions.distribution_to_json(space)}
            )  # fmt: skip
        for key, value in trial.user_attrs.items():
            kinds[models.TrialUserAttributeModel].append(
                {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            )
        kinds[models.TrialValueModel].append(
            {"trial_id": trial_id, "objective": 0, "value": trial.value,
             "value_type": models.TrialValueModel.TrialValueType.FINITE}
        )  # fmt: skip
    for model, rows in kinds.items():
        session.bulk_insert_mappings(model, rows)
    session.commit()


# -- cost a trial ---------------------------------------------------------------------------------------------


class Ours:
    """Our engine on a storage that holds `done` trials."""

    def __init__(self, context: StudyContext, url: str, done: int, more: int) -> None:
        began = time.perf_counter()
        self.times: list[float] = []
        store = open_run(connect(url), NAME, create=True)
        self.engine = Worker(context, store, plan(done + more), instant, SilentProgress(), Stopper())
        self.engine.schedule.lead()
        self.resume = time.perf_counter() - began
        self.cpu: list[float] = []

    def one(self) -> None:
        """Claim, propose, tell one run."""
        began, cpu = time.perf_counter(), time.process_time()
        assert self.engine.step(lead=True)
        self.times.append(time.perf_counter() - began)
        self.cpu.append(time.process_time() - cpu)


class Bare:
    """Optuna's own calls on a copy: ask a waiting trial, suggest, set the attributes, tell."""

    def __init__(
        self, context: StudyContext, storage: Callable[[], BaseStorage], done: int, more: int
    ) -> None:
        began = time.perf_counter()
        self.times: list[float] = []
        self.context = context
        self.number = done
        self.study = optuna.load_study(study_name=NAME, storage=storage())
        self.runs = {run.key: run for run in search_runs(done + more, context.config.seed, 1)}
        for run in list(self.runs.values())[done:]:
            self.study.enqueue_trial({}, user_attrs=run.to_attributes())
        self.resume = time.perf_counter() - began
        self.cpu: list[float] = []

    def one(self) -> None:
        """One trial."""
        began, cpu = time.perf_counter(), time.process_time()
        run = self.runs[f"search/{self.number}"]
        self.study.sampler = make_sampler(self.context.config.sampler, derive_seed(0, "sampler", run.key))
        trial = self.study.ask()
        trial.set_user_attr("lease", {"host": "host/1/2", "pid": 1, "started": "1", "beat": 0})
        architecture = self.context.space.suggest(trial, self.context.sites, self.context.spec)
        record = instant(replace(run, parameters=trial.params), architecture)
        result = outcome_of(record, learns_pruned=True)
        for key, value in result.attributes.items():
            trial.set_user_attr(key, value)
        trial.set_user_attr("record", {**record.to_dict(), "told": result.to_dict()})
        self.study.tell(trial, result.value)
        self.number += 1
        self.times.append(time.perf_counter() - began)
        self.cpu.append(time.process_time() - cpu)


def measure(ours: Callable[[], Ours], bare: Callable[[], Bare], title: str, rounds: int) -> None:
    rivals = {"ours": ours(), "bare": bare()}
    for number in range(rounds + 1):
        for rival in rivals.values():
            rival.one()
            if number == 0:
                rival.times.clear()  # the first fills caches
                rival.cpu.clear()
    line = f"{title:34}"
    middle = {}
    for name, rival in rivals.items():
        middle[name] = statistics.median(rival.times)
        spread = statistics.quantiles(rival.times, n=4)
        line += f" | {name} {middle[name]:.3f} s [{spread[0]:.3f}, {spread[2]:.3f}]"
        line += f" (cpu {statistics.median(rival.cpu):.3f}), opening {rival.resume:.1f} s"
    print(f"{line} | ours/bare {middle['ours'] / middle['bare']:.2f}", flush=True)


def cost(trials: list[int], samplers: list[str], rounds: int, storages: list[str]) -> None:
    for done in trials:
        for sampler in samplers:
            with tempfile.TemporaryDirectory() as name:
                context = make_bench(Path(name), sites=SITES, space="paper", sampler=sampler)
                rows = filled(done)
                if "journal" in storages:
                    cost_on_journal(context, rows, Path(name), rounds)
                if "postgresql" in storages:
                    cost_on_postgresql(context, rows, rounds)


def cost_on_journal(context: StudyContext, rows: list[FrozenTrial], folder: Path, rounds: int) -> None:
    put(connect(f"journal://{folder}/ours.journal"), rows)
    shutil.copy(folder / "ours.journal", folder / "bare.journal")
    size = (folder / "bare.journal").stat().st_size / 1e6
    done, more = len(rows), rounds + 1
    measure(
        lambda: Ours(context, f"journal://{folder}/ours.journal", done, more),
        lambda: Bare(
            context, lambda: JournalStorage(JournalFileBackend(f"{folder}/bare.journal")), done, more
        ),
        f"journal, {context.config.sampler}, {done:,} trials ({size:.0f} MB)",
        rounds,
    )


def cost_on_postgresql(context: StudyContext, rows: list[FrozenTrial], rounds: int) -> None:
    with database() as server:
        if server is None:
            return
        put(connect(server.url), rows)
        other = copy_database(server)
        done, more = len(rows), rounds + 1
        measure(
            lambda: Ours(context, server.url, done, more),
            lambda: Bare(context, lambda: RDBStorage(driver(other)), done, more),
            f"PostgreSQL, {context.config.sampler}, {done:,} trials",
            rounds,
        )


@contextmanager
def database() -> Iterator[postgresql.Server | None]:
    programs = postgresql.programs()
    if programs is None:
        print("PostgreSQL: no server is installed")
    with nullcontext() if programs is None else postgresql.running(programs) as server:
        yield server


@contextmanager
def place(kind: str) -> Iterator[tuple[Path, str | None]]:
    """A run folder and the URL of an empty storage of that kind; None where there is none here."""
    with tempfile.TemporaryDirectory() as name:
        if kind == "journal":
            yield Path(name), f"journal://{name}/study.journal"
            return
        with database() as server:
            yield Path(name), None if server is None else server.url


def driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg2://")


def copy_database(server: postgresql.Server) -> str:
    """A copy of the server's database; its URL."""
    import psycopg2

    connection = psycopg2.connect(server.url.replace("/postgres", "/template1"))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres'")
    cursor.execute("CREATE DATABASE bare TEMPLATE postgres")
    connection.close()
    return server.url.replace("/postgres", "/bare")


# -- resuming a killed study ----------------------------------------------------------------------------------


def resume(trials: list[int], storages: list[str]) -> None:
    """Seconds from opening the storage of a killed study to the first claim, in a fresh process each."""
    for done in trials:
        for kind in storages:
            with place(kind) as (folder, url):
                if url is None:
                    continue
                put(connect(url), filled(done - 10))
                times = []
                for _ in range(5):
                    child = multiprocessing.get_context("fork").Process(
                        target=killed, args=(folder, url, done)
                    )
                    child.start()
                    child.join()
                    times.append(float((folder / "seconds").read_text()))
                print(
                    f"resume of a killed study, {kind}, {done:,} trials: median {statistics.median(times):.2f} s "
                    f"of {[round(one, 2) for one in times]}",
                    flush=True,
                )


def killed(folder: Path, url: str, done: int) -> None:
    """Open, lead, claim one run, say how long it took, and die holding it."""
    context = make_bench(folder, sites=SITES, space="paper")
    began = time.perf_counter()
    store = open_run(connect(url), NAME, create=True)
    engine = Worker(context, store, plan(done), instant, SilentProgress(), Stopper())
    engine.schedule.lead()
    claim = engine.queue.claim(["search"])
    assert claim is not None
    engine.queue.beat(claim, 0)
    (folder / "seconds").write_text(str(time.perf_counter() - began))
    os.kill(os.getpid(), signal.SIGKILL)


# -- many workers ---------------------------------------------------------------------------------------------


def one_worker(folder: Path, url: str, total: int, sleep: float, start: Any, ends: Any) -> None:
    context = make_bench(folder, sites=5, sampler="random")
    store = open_run(connect(url), NAME, create=True)
    engine = Worker(context, store, plan(total), Asleep(sleep), SilentProgress(), Stopper())
    start.wait()
    began = last = time.perf_counter()
    done = 0
    while not engine.schedule.complete():  # as `Worker.work` does
        if engine.step(lead=True):
            done += 1
            last = time.perf_counter()
        else:
            time.sleep(IDLE)
    ends.put((done, last - began))


def workers(counts: list[int], each: int, sleep: float, storages: list[str]) -> None:
    """Throughput of each of K workers over that of one, on trainings that sleep."""
    for kind in storages:
        alone = 0.0
        for count in counts:
            with place(kind) as (folder, url):
                if url is None:
                    continue
                rate = throughput(folder, url, count, each, sleep)
                alone = alone or rate
                print(
                    f"{kind}, {count} workers, {each * count} trials of {sleep:g} s: {rate:.4f} trials/s a worker, "
                    f"{100 * (1 - rate / alone):.1f} % less than one alone "
                    f"({100 * (1 - rate * sleep):.1f} % less than sleep alone)",
                    flush=True,
                )


def throughput(folder: Path, url: str, count: int, each: int, sleep: float) -> float:
    """Trials a second and worker of `count` workers together."""
    context = multiprocessing.get_context("fork")
    start, ends = context.Barrier(count), context.SimpleQueue()
    open_run(connect(url), NAME, create=True)
    children = [
        context.Process(target=one_worker, args=(folder, url, each * count, sleep, start, ends))
        for _ in range(count)
    ]
    for child in children:
        child.start()
    rates = [done / seconds for done, seconds in (ends.get() for _ in children)]
    for child in children:
        child.join()
    return statistics.mean(rates)


def watched(count: int, each: int, sleep: float, storages: list[str]) -> None:
    """What an open dashboard, whose page asks for news every other second, costs `count` workers that write."""
    for kind in storages:
        rates = {}
        for open_page in (False, True):
            with place(kind) as (folder, url):
                if url is None:
                    continue
                open_run(connect(url), NAME, create=True)
                answers = multiprocessing.get_context("fork").Value("i", 0)
                with dashboard(folder, url) if open_page else nullcontext("") as base:
                    viewer = multiprocessing.get_context("fork").Process(
                        target=look, args=(base, answers), daemon=True
                    )
                    viewer.start()
                    rates[open_page] = throughput(folder, url, count, each, sleep)
                    if open_page and not viewer.is_alive():
                        raise RuntimeError("the dashboard failed to answer")
                    viewer.terminate()
        if rates:
            print(
                f"{kind}, {count} workers, {sleep:g} s a trial: {rates[False]:.4f} trials/s a worker, with the "
                f"dashboard open {rates[True]:.4f}: {100 * (1 - rates[True] / rates[False]):.1f} % less; "
                f"{answers.value} answers, none failed",
                flush=True,
            )


def look(base: str, answers: Any) -> None:
    """A page that is open: it asks again and again for the trials that are new."""
    while base:
        json.load(urllib.request.urlopen(f"{base}/api/studies"))
        study = study_id(base)
        json.load(urllib.request.urlopen(f"{base}/api/studies/{study}?after=0"))
        answers.value += 1
        time.sleep(2)


# -- the dashboard's study page -------------------------------------------------------------------------------


@contextmanager
def dashboard(folder: Path, url: str | None = None) -> Iterator[str]:
    """Our dashboard over a run, in a process of its own; where it listens."""
    from reborn_nas.study.result.dashboard import serve_dashboard

    (folder / "config.json").write_text(json.dumps({"study": NAME, "storage": url}))
    child = multiprocessing.get_context("fork").Process(
        target=serve_dashboard, args=(folder,), kwargs={"port": PORT}, daemon=True
    )
    child.start()
    base = f"http://127.0.0.1:{PORT}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{base}/api/studies").read()
                break
            except OSError:
                time.sleep(0.1)
        yield base
    finally:
        child.terminate()
        child.join()


PORT = 18080


def study_id(base: str) -> int:
    rows = json.load(urllib.request.urlopen(f"{base}/api/studies"))["study_summaries"]
    return int(next(row["study_id"] for row in rows if row["study_name"] == NAME))


def page(trials: list[int]) -> None:
    """What the browser asks for when the study's page opens: the study's details with all its trials."""
    for done in trials:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            put(connect(f"journal://{folder}/study.journal"), filled(done))
            with dashboard(folder) as base:
                study = study_id(base)
                times, size = [], 0
                for _ in range(5):
                    began = time.perf_counter()
                    size = len(urllib.request.urlopen(f"{base}/api/studies/{study}?after=0").read())
                    times.append(time.perf_counter() - began)
            print(
                f"dashboard's study page, {done:,} trials: first {times[0]:.2f} s, then median "
                f"{statistics.median(times[1:]):.2f} s; {size / 1e6:.1f} MB",
                flush=True,
            )


# -- reading --------------------------------------------------------------------------------------------------

BARE = """
import sys, optuna
backend = optuna.storages.journal.JournalFileBackend(sys.argv[1] + "/study.journal")
optuna.load_study(study_name=sys.argv[2], storage=optuna.storages.JournalStorage(backend)).get_trials(deepcopy=False)
"""
TELL = """
import atexit, re, sys, time
peak = lambda: re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
atexit.register(lambda: print(time.process_time(), peak(), file=sys.stderr))
"""
VERB = "import sys; from reborn_nas.cli.main import main; sys.exit(main(sys.argv[1:]))"


def read(trials: list[int]) -> None:
    """CPU seconds and memory of the reading verbs, each in a process of its own, in turn with Optuna's bare reading."""
    for done in trials:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            put(connect(f"journal://{folder}/study.journal"), filled(done))
            (folder / "config.json").write_text(json.dumps({"study": NAME, "storage": None}))
            (folder / "study.yaml").write_text("{}\n")
            commands = {
                "optuna alone": ["-c", BARE, name, NAME],
                "status": ["-c", VERB, "status", name],
                "report": ["-c", VERB, "report", name, "--out", f"{name}/page"],
            }
            found: dict[str, list[tuple[float, float]]] = {what: [] for what in commands}
            for _ in range(3):
                for what, words in commands.items():
                    found[what].append(cost_of(words))
            for what, costs in found.items():
                seconds, memory = (statistics.median(column) for column in zip(*costs))
                print(f"{what}, {done:,} trials: {seconds:.1f} CPU s, {memory:.0f} MB", flush=True)
            began = time.perf_counter()
            with dashboard(folder):
                print(
                    f"dashboard, {done:,} trials: {time.perf_counter() - began:.1f} s to its first answer",
                    flush=True,
                )


def cost_of(words: list[str]) -> tuple[float, float]:
    """CPU seconds and the largest memory in MB of a Python process, as it says at its end."""
    words = [words[0], TELL + words[1], *words[2:]]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    seconds, memory = done.stderr.splitlines()[-1].split()
    return float(seconds), float(memory) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", nargs="+", default=["cost", "resume", "workers", "watched", "page", "read"])
    parser.add_argument("--trials", nargs="+", type=int, default=[1000, 10000])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--storages", nargs="+", default=["journal", "postgresql"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--sleep", type=float, default=2.0)
    parser.add_argument("--each", type=int, default=15)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start; "
        f"optuna {optuna.__version__}, Python {platform.python_version()}"
    )
    if "cost" in args.part:
        cost(args.trials, args.samplers, args.rounds, args.storages)
    if "resume" in args.part:
        resume(args.trials, args.storages)
    if "workers" in args.part:
        workers(args.workers, args.each, args.sleep, args.storages)
    if "watched" in args.part:
        watched(max(args.workers), args.each, args.sleep, args.storages)
    if "page" in args.part:
        page([2000, 10000] if args.trials == [1000, 10000] else args.trials)
    if "read" in args.part:
        read(args.trials)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
