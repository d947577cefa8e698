"""The journal after crashes, full disks and other writers."""

from __future__ import annotations

import errno
import io
import json
import random
from pathlib import Path
from typing import Any

import optuna
import pytest

from reborn_nas.errors import StudyError
from reborn_nas.study.config.urls import mask_url
from reborn_nas.study.store import journal
from reborn_nas.study.store.journal import WholeLines, open_journal, together
from reborn_nas.study.store.storage import connect, open_run


def values(path: Path) -> list[float | None]:
    study = optuna.load_study(study_name="s", storage=open_journal(path))
    return [trial.value for trial in study.get_trials()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "study.journal"
    study = optuna.create_study(study_name="s", storage=open_journal(found))
    for value in (1.0, 2.0):
        study.tell(study.ask(), value)
    return found


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_torn_last_line_costs_nothing_that_was_told(path: Path, cut: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-cut])
    assert values(path) == [1.0, 2.0]
    study = optuna.load_study(study_name="s", storage=open_journal(path))
    study.tell(study.ask(), 3.0)
    assert values(path) == [1.0, 2.0, 3.0]
    assert all(line.endswith(b"}") for line in path.read_bytes().splitlines())


def test_a_worker_that_writes_after_another_died_writing_cuts_its_torn_line(path: Path) -> None:
    alive = optuna.load_study(study_name="s", storage=open_journal(path))
    with open(path, "ab") as stream:
        stream.write(b'{"op_code":4,"study_')
    alive.tell(alive.ask(), 3.0)
    assert values(path) == [1.0, 2.0, 3.0]


def test_a_full_disk_leaves_nothing_half_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.load_study(study_name="s", storage=open_journal(path))
    before = path.read_bytes()

    def full(stream: Any, data: bytes) -> None:
        stream.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write_all", full)
        with pytest.raises(OSError, match="No space"):
            study.ask()
    assert path.read_bytes() == before
    study.tell(study.ask(), 3.0)  # there is room again
    assert values(path) == [1.0, 2.0, 3.0]


def test_a_full_disk_shows_no_reader_lines_that_it_takes_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody reads while a write of many lines fails in the middle; then another worker writes at that place."""
    writer, other, reader = (open_journal(path) for _ in range(3))
    seen = optuna.load_study(study_name="s", storage=reader)
    write = journal._write_all
    room = 300

    def nearly_full(stream: Any, data: bytes) -> None:
        write(stream, data[:room])
        if len(data) > room:
            assert [trial.value for trial in seen.get_trials()] == [1.0, 2.0]
            raise OSError(errno.ENOSPC, "No space left on device")

    study = optuna.load_study(study_name="s", storage=writer)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write_all", nearly_full)
        with pytest.raises(OSError, match="No space"), together(writer):  # noqa: PT012
            for _ in range(3):
                study.enqueue_trial({"x": 1})
    theirs = optuna.load_study(study_name="s", storage=other)
    theirs.tell(theirs.ask(), 3.0)
    assert [trial.value for trial in seen.get_trials()] == [1.0, 2.0, 3.0]


def test_lines_that_a_failing_disk_takes_back_are_forgotten(path: Path) -> None:
    reader = open_journal(path)
    seen = optuna.load_study(study_name="s", storage=reader)
    before = path.read_bytes()
    lost = optuna.load_study(study_name="s", storage=open_journal(path))
    lost.tell(lost.ask(), 7.0)
    assert [trial.value for trial in seen.get_trials()] == [1.0, 2.0, 7.0]
    path.write_bytes(before)
    theirs = optuna.load_study(study_name="s", storage=open_journal(path))
    theirs.tell(theirs.ask(), 3.0)
    assert [trial.value for trial in seen.get_trials()] == [1.0, 2.0, 3.0]
    seen.tell(seen.ask(), 4.0)
    assert values(path) == [1.0, 2.0, 3.0, 4.0]


def test_a_line_is_never_the_beginning_of_one_and_the_end_of_another(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torn line is replaced by another worker's between two readings of the file."""
    whole = path.read_bytes()
    mine, theirs = ({"op_code": 8, "worker_id": worker, "trial_id": 1} for worker in ("mine", "them"))
    torn = whole + json.dumps(mine).encode()[:-9]
    path.write_bytes(torn)

    class Changing(io.FileIO):
        """Once it has been read to its end, the file is another one."""

        def change(self) -> None:
            if self.tell() == len(torn):
                path.write_bytes(whole + json.dumps(theirs).encode() + b"\n")

        def readinto(self, buffer: Any) -> int | None:
            found = super().readinto(buffer)
            self.change()
            return found

        def read(self, size: int | None = -1) -> bytes | None:
            found = super().read(size)
            self.change()
            return found

    def changing(name: str, mode: str, buffering: int = -1) -> Any:
        return Changing(name) if buffering == 0 else io.BufferedReader(Changing(name))

    monkeypatch.setattr(journal, "open", changing, raising=False)
    for _ in range(2):
        logs = list(WholeLines(str(path)).read_logs(0))
        assert logs[len(whole.splitlines()) :] in ([], [theirs])
    assert logs[-1] == theirs


def test_together_is_one_write_and_all_or_nothing(path: Path) -> None:
    storage = open_journal(path)
    study = optuna.load_study(study_name="s", storage=storage)
    trial = study.ask()
    before = path.read_bytes()
    with pytest.raises(KeyError), together(storage):  # noqa: PT012
        trial.set_user_attr("a", 1)
        raise KeyError
    assert path.read_bytes() == before
    with together(storage):
        trial.set_user_attr("a", 1)
        trial.set_user_attr("b", 2)
        assert path.read_bytes() == before
    assert study.trials[-1].user_attrs == {"a": 1, "b": 2}


def test_changes_that_come_too_late_are_refused_once_and_the_storage_goes_on(path: Path) -> None:
    mine, theirs = (optuna.load_study(study_name="s", storage=open_journal(path)) for _ in range(2))
    number = mine.ask().number
    theirs.tell(number, state=optuna.trial.TrialState.FAIL)
    storage = mine._storage
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError), together(storage):  # noqa: PT012
        storage.set_trial_user_attr(number, "a", 1)
        storage.set_trial_user_attr(number, "b", 2)
    assert mine.trials[-1].user_attrs == {}
    mine.tell(mine.ask(), 3.0)
    assert values(path) == [1.0, 2.0, None, 3.0]


@pytest.mark.parametrize(
    "content", [b"hello\n", b"{}\n", b'{"op_code": 99, "worker_id": "x"}\n{\n', b"\x00\xff\n"]
)
def test_a_file_that_is_no_journal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.journal").write_bytes(content)
    with pytest.raises(StudyError, match="not an Optuna journal"):
        open_journal(tmp_path / "study.journal")
    assert (tmp_path / "study.journal").read_bytes() == content


def test_a_study_of_another_program_is_not_changed(tmp_path: Path) -> None:
    storage = connect(f"journal://{tmp_path}/study.journal")
    study = optuna.create_study(study_name="theirs", storage=storage)
    study.tell(study.ask(), 1.0)
    with pytest.raises(StudyError, match="not made by reborn-nas"):
        open_run(storage, "theirs", create=True)
    with pytest.raises(StudyError, match=r"no study 'mine'.*theirs"):
        open_run(storage, "mine")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://me:s3cret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql+psycopg2://me:a/b@c@host/db", "postgresql+psycopg2://me:***@host/db"),
        ("mysql://host/db?user=me&password=s3cret", "mysql://host/db?user=me&password=***"),
        ("sqlite:///runs/study.db", "sqlite:///runs/study.db"),
        ("postgresql://host/db", "postgresql://host/db"),
    ],
)
def test_passwords_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_an_unreachable_database_is_an_error_without_its_password() -> None:
    with pytest.raises(StudyError) as caught:
        connect("postgresql://me:s3cret@127.0.0.1:1/db?connect_timeout=1")
    assert "s3cret" not in str(caught.value)
    assert "cannot be opened" in str(caught.value) or "driver is missing" in str(caught.value)


def told_to(storage: optuna.storages.BaseStorage) -> None:
    """All changes of trials in mixed order, with two studies and refused changes."""
    space = optuna.distributions.CategoricalDistribution(("relu", "reborn", None, 3))
    scale = optuna.distributions.FloatDistribution(0.0, 1.0)
    made = optuna.trial.create_trial(
        value=0.5, params={"a": "reborn"}, distributions={"a": space}, user_attrs={"record": {"k": ["v"]}}
    )
    for name in ("one", "two"):
        study = optuna.create_study(study_name=name, storage=storage)
        study.enqueue_trial({"a": "relu"}, user_attrs={"key": "x"})
        study.add_trial(made)
        waiting = study.ask()
        running = study.ask()
        for trial in (waiting, running):
            trial.suggest_categorical("a", space.choices)
            trial.suggest_float("b", 0.0, 1.0)
            trial.report(0.25, 1)
            trial.set_user_attr("record", {"architecture": {"choices": {"a": "relu"}}, "n": [1, 2.5, None]})
            trial.set_user_attr("record", {"key": "again"})
            trial.set_constraint("params", -0.5)
        with pytest.raises(ValueError, match="CategoricalDistribution"):
            storage.set_trial_param(
                running._trial_id, "a", 0, optuna.distributions.CategoricalDistribution("xy")
            )
        with pytest.raises(ValueError, match="distribution"):
            storage.set_trial_param(running._trial_id, "a", 0.5, scale)
        study.tell(waiting, 0.75)
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            storage.set_trial_param(waiting._trial_id, "c", 0.5, scale)
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            storage.set_trial_user_attr(waiting._trial_id, "late", 1)
        study.tell(running, state=optuna.trial.TrialState.PRUNED)
    optuna.delete_study(study_name="one", storage=storage)


def test_a_journal_reads_as_optuna_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    live = open_journal(path)
    told_to(live)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    theirs = optuna.load_study(study_name="two", storage=optuna.storages.JournalStorage(backend)).trials
    assert len(theirs) == 3
    for storage in (live, open_journal(path)):
        assert optuna.load_study(study_name="two", storage=storage).trials == theirs


def test_only_results_are_those_of_the_complete_journal(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    live = open_journal(path)
    told_to(live)
    whole = optuna.load_study(study_name="two", storage=live)
    results = optuna.load_study(
        study_name="two", storage=open_journal(path, read_only=True, results_only=True)
    )
    assert results.user_attrs == whole.user_attrs

    def told(study: optuna.Study) -> list[Any]:
        return [
            (t.number, t.state, t.values, t.user_attrs.get("record"), t.datetime_complete)
            for t in study.get_trials()
        ]

    assert told(results) == told(whole)
    assert any(trial.params for trial in whole.trials[1:])
    trial = whole.ask()  # later lines are read from the end of the last read
    trial.suggest_float("c", 0.0, 1.0)
    trial.report(1.0, 1)
    trial.set_user_attr("record", 1)
    whole.tell(trial, 0.5)
    assert told(results) == told(whole)
    with open(path, "ab") as stream:
        stream.write(b'{"op_code":8,"trial')  # a line that is being written
        stream.flush()
        assert told(results) == told(whole)


@pytest.mark.parametrize("unread", [False, True])
def test_a_line_that_is_not_json_is_reported(path: Path, unread: bool) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"{broken\n", *lines[2:]]))
    with pytest.raises(StudyError, match="not an Optuna journal, or it is damaged"):
        open_journal(path, read_only=True, results_only=unread)


def test_every_line_is_read_as_python_s_own_parser_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    chance = random.Random(0)
    floats = [chance.uniform(-1, 1) * 10.0 ** chance.randint(-320, 308) for _ in range(20_000)]
    odd = [
        float("nan"),
        float("inf"),
        -0.0,
        5e-324,
        10**400,
        "\udc80",
        "\x00",
        "💥",
        {"": {"a": []}},
        True,
        None,
    ]
    lines = [json.dumps(one) for one in (floats, odd, {"a": 1})]
    lines += [
        '{"a":1,"a":2}',
        "1e400",
        "[" * 500 + "]" * 500,
        f'{{"long":"{"x" * 99999}"}}',
        ' {"a" : 1.0}\r',
    ]
    path.write_text("".join(line + "\n" for line in lines), newline="")
    found = list(WholeLines(str(path)).read_logs(0))
    assert [repr(one) for one in found] == [repr(json.loads(line)) for line in lines]


def test_a_trial_that_was_read_never_changes(path: Path) -> None:
    storage = open_journal(path)
    study = optuna.load_study(study_name="s", storage=storage)
    for _ in range(2):  # the second trial's distributions are known
        trial = study.ask()
        read = []
        for number in range(3):
            trial.suggest_categorical(f"p{number}", ("x", "y"))
            trial.set_user_attr(f"u{number}", number)
            storage.set_trial_system_attr(trial._trial_id, f"s{number}", number)
            read.append(storage.get_trial(trial._trial_id))
        sizes = [
            {len(part) for part in (one.params, one.distributions, one.user_attrs, one.system_attrs)}
            for one in read
        ]
        assert sizes == [{1}, {2}, {3}]


def test_trials_share_their_distributions(path: Path) -> None:
    study = optuna.load_study(study_name="s", storage=open_journal(path))
    for _ in range(2):
        trial = study.ask()
        trial.suggest_categorical("p", ("x", "y"))
        study.tell(trial, 1.0)
    one, other = optuna.load_study(study_name="s", storage=open_journal(path)).get_trials(deepcopy=False)[-2:]
    assert one.distributions["p"] is other.distributions["p"]
