"""A storage URL's password is told to nobody: not on the screen, not in a log, a file, the storage or the dashboard."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy.engine import make_url

from reborn_nas.cli.main import main
from reborn_nas.errors import ConfigError
from reborn_nas.records import TrialRecord
from reborn_nas.study import status
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.config.flags import resume_command
from reborn_nas.study.config.urls import mask_url, without_secrets
from reborn_nas.study.store.opening import open_store
from reborn_nas.study.trainer.objective import Objective
from tests.study import postgresql

SECRET = "hunter2"
URLS = (
    f"postgresql://me:{SECRET}@127.0.0.1:1/db",
    f"postgresql://me:a/{SECRET}@x@127.0.0.1:1/db",
    f"postgresql://me:%40{SECRET}@127.0.0.1:1/db?connect_timeout=2",
    f"postgresql+psycopg2://me@127.0.0.1:1/db?password={SECRET}&sslmode=prefer",
    f"postgresql://me@127.0.0.1:1/db?sslmode=prefer&sslpassword={SECRET}",
    f"postgresql://me:{SECRET}@[::1]:1/db",
    f"mysql+nosuchdriver://me:{SECRET}@127.0.0.1:1/db",
    f"sqlite://me:{SECRET}@nowhere/x",
    f"postgresql://me:{SECRET}@127.0.0.1:noport/db",
    f"postgresql://me@server:{SECRET}@127.0.0.1:1/db",  # as Azure names users
    f"postgresql://me of ours:{SECRET}@127.0.0.1:1/db",
    f"postgresql://me:x@{SECRET}/y@127.0.0.1:1/db",
    f"postgresql://me@127.0.0.1:1/db?password={SECRET}",
    f"postgresql://me@127.0.0.1:1/db?options=-c%20x%3D{SECRET}",
    f"postgresql://me:{SECRET}%2F{SECRET}@127.0.0.1:1/db?password=%7B{SECRET}",
    f"postgresql://me:ü{SECRET}💥@127.0.0.1:1/db",
    f"postgresql://me:{SECRET}@127.0.0.1:1/db?service={SECRET}&passfile=/home/me/{SECRET}",
    f"mysql://me:{SECRET}@[::1]:1/db?ssl_key={SECRET}",
    f"grpc://me:{SECRET}@127.0.0.1:1",
)
HIDDEN_WHOLE = (
    f"postgresql://me:x@{SECRET}?y@127.0.0.1:1/db",
    f"postgresql:/me:{SECRET}@127.0.0.1:1",
    f"postgresql://domain/me:{SECRET}@127.0.0.1:1/db",
    f"postgresql:/127.0.0.1/db?password=x@{SECRET}",
    f"postgresql:me:{SECRET}@127.0.0.1",
)
"""URLs of which nobody can tell what in them is the user's name."""


@pytest.mark.parametrize("url", URLS)
def test_masked(url: str) -> None:
    masked = mask_url(url)
    assert SECRET not in masked
    assert "me" in masked
    assert masked.startswith(url.partition("://")[0])
    config = StudyConfig(storage=url)
    assert SECRET not in str(config.to_dict())
    assert SECRET not in f"{config!r} {config}"
    assert SECRET not in resume_command(config)


@pytest.mark.parametrize("url", HIDDEN_WHOLE)
def test_what_cannot_be_read_is_hidden_whole(url: str) -> None:
    assert SECRET not in mask_url(url)
    assert mask_url(url).startswith("postgresql:")
    assert without_secrets(f"failed: {url}, {SECRET}", url) == "", "whatever a driver says of it"


@pytest.mark.parametrize("setting", ["device", "contrast", "name", "stem", "trials", "storage"])
def test_a_url_in_the_wrong_place_is_hidden(setting: str) -> None:
    given = URLS[0] if setting != "storage" else HIDDEN_WHOLE[1]
    with pytest.raises(ConfigError) as caught:
        StudyConfig(**{setting: given})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_a_driver_s_words_hold_it_neither_plain_nor_coded(url: str) -> None:
    try:
        read = make_url(url)
        words = [
            str(read.password),
            quote(str(read.password)),
            *map(str, read.query.values()),
            str(dict(read.query)),
        ]
    except ValueError:
        words = []
    assert SECRET not in without_secrets(f"cannot connect to {url}: " + ", ".join(words), url)


@pytest.mark.parametrize("url", [*URLS, *HIDDEN_WHOLE, f"redis://me:{SECRET}@127.0.0.1:1/0"])
@pytest.mark.parametrize(
    "words",
    [
        ("search", "--yes", "--storage"),
        ("worker", "--study", "mine", "--storage"),
        ("status",),
        ("report",),
    ],
    ids=lambda words: words[0],
)
def test_what_cannot_be_opened_is_named_without_it(
    url: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reborn_nas.study.worker.pool.PATIENCE", 0.0)
    monkeypatch.setattr("reborn_nas.study.store.storage.PROXY_READY", 0.0)
    caplog.set_level(logging.DEBUG)
    assert main([*words, url]) == 2
    said = "".join(capfd.readouterr())
    assert SECRET not in said
    assert "Traceback" not in said
    assert SECRET not in caplog.text
    assert not list(tmp_path.rglob("*"))


def test_a_worker_takes_it_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["worker", "--study", "mine"]) == 2
    assert "$REBORN_NAS_STORAGE" in capfd.readouterr().err
    monkeypatch.setenv("REBORN_NAS_STORAGE", f"journal://{tmp_path}/study.journal")
    assert main(["worker", "--study", "mine"]) == 2
    assert "there is no such file" in capfd.readouterr().err


@pytest.mark.slow
def test_nothing_that_a_run_leaves_holds_it(
    tmp_path: Path, server: postgresql.Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    import psycopg2

    secret = "s3cret"
    assert secret in server.url
    folder = tmp_path / "run"
    words = [
        "search",
        "--yes",
        "--space",
        "two_level",
        "--epochs",
        "1",
        "--trials",
        "6",
        "--baseline",
        "2",
        "--screen",
        "0",
    ]
    words += ["--candidate", "2", "--model-arg", "width=0.125", "--run", str(folder), "--storage", server.url]
    monkeypatch.setattr("reborn_nas.study.store.storage.PATIENCE", 2.0)
    train = Objective.__call__

    def dying(self: Objective, *given: Any) -> TrialRecord:
        server.kill()
        return train(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", dying)
        assert main(words) == 2, "the database dies in the middle"
    server.start()
    said = capfd.readouterr()
    assert "has been away" in said.err
    assert main(words) == 0
    assert main(["report", str(folder)]) == 0  # this process has opened it
    monkeypatch.setattr("reborn_nas.study.config.urls._opened", {})
    assert main(["status", str(folder)]) == 2  # the folder alone does not have it
    monkeypatch.setenv("REBORN_NAS_STORAGE", server.url)
    assert status(folder).complete
    assert main(["report", str(folder)]) == 0
    assert secret not in "".join([*said, *capfd.readouterr(), caplog.text])
    for path in [*folder.rglob("*"), *Path(os.environ["XDG_STATE_HOME"]).rglob("*")]:
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    cursor = psycopg2.connect(server.url).cursor()
    cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    rows = 0
    for (table,) in cursor.fetchall():
        cursor.execute(
            f"SELECT count(*), count(*) FILTER (WHERE t::text LIKE '%{secret}%') FROM {table} AS t"
        )
        found = cursor.fetchone()
        assert found[1] == 0, table
        rows += found[0]
    assert rows > 100
    assert open_store(folder).attribute("config")["storage"].endswith("/postgres")


def test_a_faulty_study_file_is_named_without_its_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"trials: 8\nstorage: postgresql://me:{SECRET}@host/db: [\n")
    assert main(["search", "--config", str(path)]) == 2
    said = capfd.readouterr().err
    assert SECRET not in said
    assert "line 2" in said


@pytest.mark.parametrize("url", ["sqlite:///{0}/made.db", "journal://{0}/made.journal"])
def test_reading_makes_no_file_that_a_stranger_names(
    tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"study": "x", "storage": url.format(tmp_path)}))
    assert main(["status", str(tmp_path / "run")]) == 2
    assert "no such file" in capfd.readouterr().err
    assert not list(tmp_path.glob("made*"))
