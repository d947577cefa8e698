"""Run folders from anywhere: damaged, made up, full of links and pipes, with texts that mean something to a terminal,
a browser or a spreadsheet. No traceback, no hang, no write, no code that runs, no text that is not escaped.

REBORN_NAS_FOLDERS=10000 python -m pytest -m slow tests/study/test_run_folders.py      # more than the suite's share
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reborn_nas.api import report
from reborn_nas.cli.main import main
from reborn_nas.errors import RebornError
from reborn_nas.study import run_search
from tests.study.test_readers import fingerprint
from tests.study.test_run import tiny

FOLDERS = int(os.environ.get("REBORN_NAS_FOLDERS", "600"))
LONGEST = 120
"""Seconds after which a look at a small folder counts as hanging."""

PAYLOADS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\x1b]0;owned\x07\x1b[31mred", "=cmd|' /C calc'!A0",
    "+1+1", "@SUM(1)", "-2+3", "../../escape", "..", "/etc/passwd", "a\nb\r\nc", "'\"`$(touch pwned)", "💥" * 40,
    "x" * 300,
    "\u202eright to left", "\x00nul", "%s%n{}{0}", "NaN", "", "r/evil.py:make", "os:system", "javascript:alert(1)",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e308, -0.0, float("nan"), float("inf"), [], {}, [[]], {"": None}, [None] * 3,
    {"source": "r/evil.py:make"}, 2**63, "1", "complete",
)  # fmt: skip


KEYS = [
    "state", "phase", "key", "arm", "architecture", "accuracy", "seed", "reason", "levels", "parameters",
    "label", "name", "source", "study_name", "record", "plan", "sites", "environment", "digest", "choices",
    "curve", "checkpoint", "count", "block", "mean", "contrast", "backbone", "notes", "values", "extra",
    "config", "settings", "trial_id", "op_code", "device",
]  # fmt: skip
LINES = (
    b"{}\n", b"[]\n", b"null\n", b'{"level":"info","msg":"x"}\n', b"\n", b'{"op_code":99,"worker_id":"x"}\n',
    b'{"op_code":4}\n', b'{"op_code":1,"worker_id":"x","study_id":0}\n', b"\xff\xfe\n", b"[" * 5000 + b"\n",
    b'{"op_code":"4"}\n', b"\x00" * 100_000, b'{"trial":1,"loss":0.5}\n',
    *(
        b'{"op_code":2,"worker_id":"x","study_id":%d,"user_attr":{"reborn_nas:%b":%b}}\n' % (study, key, value)
        for study in range(2)
        for key in (b"plan", b"config", b"settings", b"candidate", b"void", b"finished", b"top")
        for value in (b"[" * 1000 + b"]" * 1000, b"1e400", b"NaN", b'{"":{}}', b"[1]")
    ),
)  # fmt: skip
"""Lines of other programs, and lines that only look like ours."""

NAMES = [
    "study.journal",
    "config.json",
    "plan.json",
    "study.yaml",
    "report",
    "artifacts",
    "curves",
    "checkpoints",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a report, weights, curves and pictures."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run_search(tiny(folder, trials=8, search=4, baseline=2, screen=0, candidate=2)).complete
    report(folder)
    return folder


def put(path: Path, data: bytes) -> None:
    """Write a file of the folder's own, not through a link or into a pipe."""
    if path.is_symlink() or not path.is_file():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    path.write_bytes(data)


def device(path: Path) -> None:
    """A device that never ends, or a socket where the right to make one is lacking."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        with socket.socket(socket.AF_UNIX) as made, contextlib.suppress(OSError):  # a name that is too long
            made.bind(str(path))


class Forger:
    """Makes a run folder out of a whole one, by chance."""

    def __init__(self, whole: Path, victim: Path, seed: int) -> None:
        self.chance, self.whole, self.victim = random.Random(seed), whole, victim
        self.odd = self.chance.choice((PAYLOADS, ODD, (*PAYLOADS, *ODD)))

    def make(self, run: Path) -> None:
        shutil.copytree(self.whole, run, symlinks=True)
        (run / "evil.py").write_text(f"open({str(self.victim / 'pwned')!r}, 'w')\n")
        for _ in range(self.chance.randint(1, 3)):
            self.chance.choice(
                (self.lines, self.lines, self.bytes, self.config, self.files, self.values, self.values)
            )(run)

    def value(self) -> Any:
        return self.chance.choice(self.odd)

    def values(self, run: Path) -> None:
        """Other values somewhere in the journal's lines, many of one kind or a few."""
        path = run / "study.journal"
        lines = path.read_bytes().splitlines() if path.is_file() and not path.is_symlink() else []
        keys = self.chance.sample(KEYS, 2)
        share = self.chance.choice((0.02, 0.3, 1.0))

        def changed(value: Any) -> Any:
            if isinstance(value, dict):
                return {
                    (str(self.value()) if self.chance.random() < 0.002 else key): self.value()
                    if key in keys and self.chance.random() < share
                    else changed(inner)
                    for key, inner in value.items()
                }
            return [changed(one) for one in value] if isinstance(value, list) else value

        found = []
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                found.append(json.dumps(changed(json.loads(line))).encode())
        put(path, b"\n".join(found) + b"\n")

    def lines(self, run: Path) -> None:
        """Lines lost, repeated, torn, in another order, of another program, or no lines."""
        path = run / "study.journal"
        lines = (
            path.read_bytes().splitlines(keepends=True) if path.is_file() and not path.is_symlink() else []
        )
        kind = self.chance.randrange(7)
        if lines and kind < 2:
            del lines[self.chance.randrange(len(lines))]
        elif lines and kind == 2:
            lines.insert(self.chance.randrange(len(lines)), self.chance.choice(lines))
        elif lines and kind == 3:
            lines[-1] = lines[-1][: self.chance.randrange(len(lines[-1]))]
        elif kind == 4:
            self.chance.shuffle(lines)
        elif kind == 5:
            lines.insert(self.chance.randrange(len(lines) + 1), self.chance.choice(LINES))
        else:
            lines = lines[: self.chance.randrange(len(lines) + 1)]
        put(path, b"".join(lines))

    def bytes(self, run: Path) -> None:
        """Bytes changed in any file."""
        files = [path for path in sorted(run.rglob("*")) if path.is_file() and not path.is_symlink()]
        if not files:
            return
        path = self.chance.choice(files)
        data = bytearray(path.read_bytes())
        for _ in range(self.chance.randint(1, 5)):
            if data:
                data[self.chance.randrange(len(data))] = self.chance.randrange(256)
        path.write_bytes(data)

    def config(self, run: Path) -> None:
        """Another config.json."""
        path = run / "config.json"
        config: Any = {}
        if not path.is_symlink() and path.is_file():
            with contextlib.suppress(ValueError, RecursionError):  # damaged before
                config = json.loads(path.read_bytes())
        storages = (
            f"sqlite:///{self.victim}/mine.db", f"journal://{self.victim}/mine.journal", "postgresql://h/db",
            "sqlite:///../x.db", "journal:///dev/zero", "mysql://u:p@h/d", f"journal://{run}/../run/study.journal",
        )  # fmt: skip
        key = self.chance.choice(("storage", "study", "digest", "name"))
        config = config if isinstance(config, dict) else {}
        config[key] = self.chance.choice(storages) if key == "storage" else self.value()
        put(path, json.dumps(config).encode())

    def files(self, run: Path) -> None:
        """A pipe, a folder or a link in a file's place, or foreign files beside it."""
        path = run / self.chance.choice(NAMES)
        kind = self.chance.randrange(7)
        if kind < 5:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1:
            path.symlink_to(self.victim / self.chance.choice(("mine.db", "diary", "nothing", ".")))
        elif kind == 2:
            path.symlink_to(path.name)  # to itself
        elif kind == 3:
            path.mkdir()
        elif kind == 4:
            device(path)
        else:
            folder = run / self.chance.choice(("artifacts", "report", "checkpoints/search-sampled", "curves"))
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                for name in ("passwords.txt", "-rf", "=1+1", "a b.svg", "x" * 200):
                    (folder / name).write_bytes(self.chance.randbytes(64))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """What must not change."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "diary").write_text("dear diary")
    (home / "mine.db").write_bytes(b"SQLite format 3\x00 or so")
    (home / "mine.journal").write_text('{"op_code":0,"worker_id":"x","study_name":"mine","directions":[2]}\n')
    return home


@contextlib.contextmanager
def in_time(what: str) -> Iterator[None]:
    """Fails where a look takes too long."""

    def late(*_: Any) -> None:
        raise AssertionError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def printable(text: str) -> bool:
    """No control characters but line ends and tabs, and nothing that turns the direction of writing."""
    return not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def looked_at(run: Path, out: Path, words: list[str]) -> str:
    """What a verb says of the folder."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        assert main(words) in (0, 2)
    said = stdout.getvalue() + stderr.getvalue()
    assert "Traceback" not in said
    assert printable(said), ascii(said)
    return said


def escaped(page: Path) -> None:
    """Nothing of the payloads is markup in the report or a formula in its tables."""
    html = (page / "index.html").read_text()
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert 'href="javascript:' not in html
    for path in page.glob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text())):
            for cell in row:
                number = re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?%?", cell)
                assert number or not cell.startswith(("=", "+", "@", "-", "\t", "\r")), (path.name, cell)


def sweep(whole: Path, victim: Path, tmp_path: Path, count: int, reports: int, first: int = 0) -> None:
    before = fingerprint(victim)
    run, out = tmp_path / "run", tmp_path / "out"
    for seed in range(first, first + count):
        Forger(whole, victim, seed).make(run)
        there = fingerprint(run)
        try:
            with in_time(f"folder {seed}"):
                looked_at(run, out, ["status", str(run)])
                looked_at(run, out, ["status", str(run), "--json"])
                if reports and (seed - first) % max(1, count // reports) == 0:
                    looked_at(run, out, ["report", str(run), "--out", str(out)])
                    if (out / "index.html").is_file():
                        escaped(out)
                    looked_at(run, out, ["export", str(run), "--out", str(out / "model"), "--force"])
            assert fingerprint(run) == there, "it was written to"
            assert fingerprint(victim) == before
        except BaseException as error:
            error.add_note(f"run folder of seed {seed}")
            raise
        shutil.rmtree(run)
        shutil.rmtree(out, ignore_errors=True)


def test_forged_folders(whole: Path, victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep(whole, victim, tmp_path, 16, 1)


@pytest.mark.slow
def test_many_forged_folders(
    whole: Path, victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep(whole, victim, tmp_path, FOLDERS, FOLDERS // 20, first=1000)


@pytest.mark.parametrize("before", ["nothing", "a brace", "a run"])
def test_a_gigabyte_of_garbage_is_refused_without_reading_it(
    whole: Path, tmp_path: Path, before: str
) -> None:
    journal = (whole / "study.journal").read_bytes()
    with open(tmp_path / "study.journal", "wb") as stream:
        stream.write({"nothing": b"garbage", "a brace": b"{", "a run": journal}[before])
        stream.truncate(1 << 30)  # a sparse file: zeros
    with pytest.raises(RebornError, match="not an Optuna journal"), in_time("a gigabyte"):
        report(tmp_path)
