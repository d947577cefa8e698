"""States of trainings in an S3 bucket: another machine goes on from them; a bucket that is away costs epochs only."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from optuna.artifacts.exceptions import ArtifactNotFound

from reborn_nas.errors import ConfigError, StudyError, TrainingError
from reborn_nas.study import StudyConfig
from reborn_nas.study.config.values import parse_bucket
from reborn_nas.study.setup.context import StudyContext
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.trainer.checkpoints import BucketCheckpoint, SavedState, open_bucket
from reborn_nas.study.trainer.objective import Stopped
from reborn_nas.training import TrainingState
from tests.study.test_resuming import numbers, train
from tests.study.test_run import tiny

STATE = TrainingState(3, {"model/w": torch.arange(4.0)}, [{"epoch": 1.0}], "x", 1.5)


class Memory:
    """An artifact store in memory, as Optuna's protocol has it."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.away = False

    def open_reader(self, artifact_id: str) -> BinaryIO:
        self._answer()
        if artifact_id not in self.objects:
            raise ArtifactNotFound(artifact_id)
        return io.BytesIO(self.objects[artifact_id])

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._answer()
        self.objects[artifact_id] = content_body.read()

    def remove(self, artifact_id: str) -> None:
        self._answer()
        self.objects.pop(artifact_id, None)

    def _answer(self) -> None:
        if self.away:
            raise RuntimeError("EndpointConnectionError")


def test_a_state_comes_back_as_it_was() -> None:
    store = Memory()
    kept = BucketCheckpoint(store, "toy/states/one.safetensors")
    assert kept.load() is None
    kept.save(STATE)
    assert list(store.objects) == ["toy/states/one.safetensors"]
    back = BucketCheckpoint(store, "toy/states/one.safetensors").load()
    assert back is not None
    assert torch.equal(back.tensors["model/w"], STATE.tensors["model/w"])
    assert replace(back, tensors=STATE.tensors) == STATE
    kept.discard()
    assert store.objects == {}


def test_a_damaged_state_is_dropped() -> None:
    store = Memory()
    kept = BucketCheckpoint(store, "one")
    kept.save(STATE)
    store.objects["one"] = store.objects["one"][:-3]
    with pytest.raises(TrainingError, match="checkpoint one cannot be read"):
        kept.load()
    assert SavedState(kept).load() is None
    assert store.objects == {}


def test_a_bucket_that_is_away_keeps_what_it_has_and_ends_no_training() -> None:
    store = Memory()
    saved = SavedState(BucketCheckpoint(store, "one"))
    saved.save(STATE)
    store.away = True
    assert saved.load() is None
    saved.save(STATE)
    saved.discard()
    store.away = False
    assert list(store.objects) == ["one"]
    assert saved.load() is not None


@pytest.mark.parametrize(
    ("url", "parts"),
    [("s3://states", ("states", "")), ("s3://my.bucket/a/b_c/", ("my.bucket", "a/b_c"))],
)
def test_urls(url: str, parts: tuple[str, str]) -> None:
    assert parse_bucket(url) == parts
    assert StudyConfig(artifacts=url).artifacts == url


@pytest.mark.parametrize(
    "url", ["s3://", "s3://key:secret@bucket", "s3://Bucket", "s3://b/a?x=1", "gs://bucket"]
)
def test_faulty_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="artifacts"):
        StudyConfig(artifacts=url)


def test_a_folder_is_a_folder() -> None:
    assert StudyConfig(artifacts=Path("/shared/states")).artifacts == "/shared/states"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StudyContext:
    return make_context(tiny(tmp_path_factory.mktemp("context"), epochs=4, artifacts="s3://states/here"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Amazon's service in memory, with a bucket."""
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="states")
        yield client


def test_another_machine_goes_on_from_the_bucket(context: StudyContext, tmp_path: Path, s3: Any) -> None:
    with pytest.raises(Stopped):
        train(context, tmp_path / "one", stop_after=2)
    (kept,) = s3.list_objects_v2(Bucket="states")["Contents"]
    assert kept["Key"].startswith("here/convnet5-digits/states/screen-3~")
    epochs: list[int] = []
    resumed = train(context, tmp_path / "two", epochs=epochs)
    assert epochs == [3, 4]
    assert s3.list_objects_v2(Bucket="states")["KeyCount"] == 0
    assert numbers(resumed) == numbers(train(context, tmp_path / "three"))


def test_a_bucket_that_is_not_there_is_told_before_any_training(s3: Any) -> None:
    with pytest.raises(StudyError, match=r"artifacts s3://nobodys cannot be reached") as caught:
        open_bucket("s3://nobodys")
    assert "testing" not in str(caught.value)
