"""Reading never writes: every verb that looks at a run leaves the run, and whatever its folder names, as it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

import reborn_nas as rn
from reborn_nas.cli.main import main
from reborn_nas.errors import ConfigError, StudyError
from reborn_nas.study import SilentProgress, plan_search, run_search
from reborn_nas.study.store.opening import open_store
from reborn_nas.study.store.storage import connect, open_run
from tests.study import postgresql
from tests.study.test_run import tiny

Fingerprint = dict[str, tuple[str, int, int]]


def fingerprint(folder: Path) -> Fingerprint:
    """Every path below `folder`: its bytes' digest, its mode and when it was changed."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        state = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (digest, state.st_mode, state.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run in a journal and one in SQLite, each with its storage in its folder."""
    home = tmp_path_factory.mktemp("runs")
    journal, sqlite = home / "journal", home / "sqlite"
    sqlite.mkdir()
    assert run_search(tiny(journal, trials=8, search=4)).complete
    assert run_search(tiny(sqlite, storage=f"sqlite:///{sqlite}/study.db")).complete
    return {"journal": journal, "sqlite": sqlite}


@contextmanager
def read_only(folder: Path) -> Iterator[bool]:
    """Nothing can be written to `folder`, where this user may mount it so; whether that is the case."""
    mount = shutil.which("mount")
    bound = (
        mount
        and not subprocess.run(
            [mount, "--bind", "-o", "ro", folder, folder], capture_output=True, check=False
        ).returncode
    )
    try:
        yield bool(bound)
    finally:
        if bound:
            subprocess.run(["umount", "-l", folder], check=True)


def recommend(run: Path, out: Path) -> None:
    with pytest.raises(ConfigError, match="at least"):  # too few trainings
        rn.recommend(run)


VERBS: dict[str, Callable[[Path, Path], object]] = {
    "status": lambda run, out: main(["status", str(run)]),
    "status --json": lambda run, out: main(["status", str(run), "--json"]),
    "report": lambda run, out: main(["report", str(run), "--out", str(out / "report")]),
    "export": lambda run, out: main(["export", str(run), "--out", str(out / "model")]),
    "recommend": recommend,
    "load": lambda run, out: rn.study.load_run(run).curve("search/0") is None,
}


@pytest.mark.parametrize("kind", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", VERBS)
def test_a_reading_verb_changes_nothing_and_needs_no_right_to_write(
    verb: str, kind: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[kind], run)
    if kind == "sqlite":
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, "storage": f"sqlite:///{run}/study.db"}))
    before = fingerprint(run)
    with read_only(run):
        assert not VERBS[verb](run, tmp_path)
    assert fingerprint(run) == before
    assert not VERBS[verb](run, tmp_path / "again")
    assert fingerprint(run) == before, "it wrote where it may"


def test_a_plan_of_a_run_changes_nothing(runs: dict[str, Path]) -> None:
    before = fingerprint(runs["journal"])
    assert plan_search(tiny(runs["journal"], trials=8, search=4)).done == 8
    assert fingerprint(runs["journal"]) == before


def test_a_report_that_cannot_be_written_is_one_line(
    runs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["journal"], run)
    with read_only(run) as bound:
        if not bound:
            pytest.skip("needs the right to mount")
        assert main(["report", str(run)]) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "--out" in said


# -- while a search goes on -----------------------------------------------------------------------------------


class Looks(SilentProgress):
    """In the middle of trainings every verb looks at the run; `state` says what must not change meanwhile."""

    def __init__(self, run: Path, out: Path, state: Callable[[], object], looks: int) -> None:
        self.run, self.out, self.state, self.left, self.codes = run, out, state, looks, set[int]()

    def epoch(self, key: str, epoch: int, epochs: int, metrics: object) -> None:
        if self.left <= 0 or key.startswith("baseline") or key == "search/0":  # nothing to export yet
            return
        self.left -= 1
        before = self.state()
        for words in (
            ["status", str(self.run)], ["report", str(self.run), "--out", str(self.out / "report")],
            ["export", str(self.run), "--out", str(self.out / "model"), "--trial", "best", "--force"],
        ):  # fmt: skip
            self.codes.add(main(words))
            assert self.state() == before, words


def rows(url: str) -> dict[str, tuple[int, str]]:
    """Table → how many rows, and a digest of all of them."""
    import psycopg2

    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        found = {}
        for (table,) in cursor.fetchall():
            cursor.execute(
                f"SELECT count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} AS t"
            )
            found[table] = cursor.fetchone()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "epochs", "looks"), [("journal", 5, 20), ("postgresql", 1, 2)])
def test_twenty_looks_of_every_verb_change_no_byte_and_no_row_of_a_search_that_goes_on(
    kind: str, epochs: int, looks: int, tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(
        "reborn_nas.study.worker.loop.BEAT", 1e6
    )  # the search itself writes nothing meanwhile
    url = request.getfixturevalue("server").url if kind == "postgresql" else None
    run = tmp_path / "run"

    def state() -> tuple[object, ...]:
        files = {
            name: mark for name, mark in fingerprint(run).items() if name != "search.log"
        }  # of this process
        return (files, None if url is None else rows(url))

    watched = Looks(run, tmp_path, state, looks)
    assert run_search(tiny(run, trials=8, search=4, epochs=epochs, storage=url), progress=watched).complete
    assert watched.left == 0
    assert watched.codes == {0}
    alone = run_search(tiny(tmp_path / "alone", trials=8, search=4, epochs=epochs))
    assert [(r.key, r.accuracy) for r in rn.study.load_records(run)] == [
        (r.key, r.accuracy) for r in alone.records
    ]


# -- storages of other people ---------------------------------------------------------------------------------


def stranger(folder: Path, storage: str, study: str = "victim") -> Path:
    """A run folder from elsewhere whose config.json names `storage`."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"study": study, "storage": storage}))
    return folder


def sqlite_of(path: Path, kind: str) -> None:
    """A database of the victim's: with studies of Optuna's, with other tables, or no database."""
    if kind == "studies":
        study = optuna.create_study(study_name="victim", storage=f"sqlite:///{path}")
        study.add_trial(optuna.trial.create_trial(value=1.0))
        study._storage.remove_session()
    elif kind == "tables":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE mine (a)")
    else:
        path.write_bytes(b"a diary")


@pytest.mark.parametrize("verb", ["status", "report", "export", "dashboard"])
@pytest.mark.parametrize("kind", ["studies", "tables", "diary"])
def test_a_database_that_a_stranger_s_folder_names_is_named_first_and_stays_as_it_is(
    verb: str, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    home = tmp_path / "home"
    home.mkdir()
    sqlite_of(home / "mine.db", kind)
    before = fingerprint(home)
    run = stranger(tmp_path / "run", f"sqlite:///{home}/mine.db")
    assert (
        main([verb, str(run), *(["--out", str(tmp_path / "out")] if verb in ("report", "export") else [])])
        == 2
    )
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert f"outside of its folder: sqlite:///{home}/mine.db" in caplog.text
    assert fingerprint(home) == before


def test_a_search_into_a_study_of_somebody_else_leaves_the_database_as_it_is(tmp_path: Path) -> None:
    sqlite_of(tmp_path / "mine.db", "studies")
    before = fingerprint(tmp_path)
    with pytest.raises(StudyError, match="not made by reborn-nas"):
        run_search(tiny(tmp_path / "run", storage=f"sqlite:///{tmp_path}/mine.db", name="victim"))
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("storage", ["sqlite:///{0}/new.db", "journal://{0}/new.journal"])
def test_a_dry_run_makes_no_storage(tmp_path: Path, storage: str) -> None:
    plan_search(tiny(tmp_path / "run", storage=storage.format(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_storage_that_is_open_for_reading_takes_no_change(tmp_path: Path) -> None:
    for url in (f"journal://{tmp_path}/s.journal", f"sqlite:///{tmp_path}/s.db"):
        open_run(connect(url), "mine", create=True)
        store = open_run(connect(url, read_only=True), "mine")
        before = fingerprint(tmp_path)
        with pytest.raises(StudyError, match="reading only"):
            store.keep("a", 1)
        with pytest.raises(StudyError, match="reading only"):
            store.study("search").ask()
        assert fingerprint(tmp_path) == before


def test_a_read_only_postgresql_makes_no_tables_and_takes_no_change(server: postgresql.Server) -> None:
    storage = connect(server.url, read_only=True)
    assert storage.get_all_studies() == []
    assert connect(server.url, read_only=True).get_all_studies() == [], "the first look made tables"
    open_run(connect(server.url), "mine", create=True)
    store = open_run(connect(server.url, read_only=True), "mine")
    with pytest.raises(StudyError, match="reading only"):
        store.keep("a", 1)
    engine = store.storage._backend.engine  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="read-only transaction"), engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM studies")


def test_a_run_whose_part_was_deleted_is_told(tmp_path: Path) -> None:
    url = f"journal://{tmp_path}/study.journal"
    open_run(connect(url), "mine", create=True)
    optuna.delete_study(study_name="mine/design", storage=connect(url))
    with pytest.raises(StudyError, match="lacks its part mine/design"):
        open_store(tmp_path, "mine")


# -- the dashboard --------------------------------------------------------------------------------------------


@contextmanager
def serving(run: Path) -> Iterator[str]:
    """The address of `reborn-nas dashboard RUN` in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "reborn_nas.cli.main", "dashboard", str(run), "--port", str(port)],
        env={**os.environ, "PYTHONWARNINGS": "ignore"}, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(address + "/api/studies", timeout=30).close()
            except OSError:
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.2)
            else:
                break
        yield address
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_dashboard_of_a_run_that_cannot_be_written_shows_it(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["journal"], run)
    before = fingerprint(run)
    with read_only(run) as bound:
        if not bound:
            pytest.skip("needs the right to mount")
        with serving(run) as address:
            studies = json.load(urllib.request.urlopen(address + "/api/studies"))["study_summaries"]
            assert {study["study_name"] for study in studies} == {
                "convnet5-digits" + s for s in ("", "/design", "/confirm")
            }
            note = urllib.request.Request(
                f"{address}/api/studies/{studies[0]['study_id']}/note", method="PUT",
                data=json.dumps({"version": 1, "body": "x"}).encode(), headers={"Content-Type": "application/json"},
            )  # fmt: skip
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(note)
    assert fingerprint(run) == before
