"""States of interrupted trainings in an S3 bucket, for machines that share no folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.commands import install_line
from reborn_nas.errors import StudyError, TrainingError
from reborn_nas.study.config.values import parse_bucket

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

    from reborn_nas.training import TrainingState

__all__ = ["BucketCheckpoint", "open_bucket"]

PATIENCE: dict[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": 30,
    "retries": {"total_max_attempts": 3, "mode": "standard"},
}
"""A bucket that does not answer holds a training up for half a minute, not for the ten that boto3 would wait."""


def open_bucket(url: str) -> ArtifactStore:
    """Optuna's artifact store on the bucket of `url`, reached as boto3's environment says.

    Raises:
        StudyError: boto3 is missing, or the bucket cannot be read; no credentials are in the message.
    """
    from optuna.artifacts import Boto3ArtifactStore
    from optuna.artifacts.exceptions import ArtifactNotFound

    bucket, prefix = parse_bucket(url)
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise StudyError(f"artifacts {url}: {error}; {install_line('s3')}") from None
    try:
        store = Boto3ArtifactStore(bucket, boto3.client("s3", config=Config(**PATIENCE)))
        store.client.head_bucket(Bucket=bucket)
        store.open_reader(f"{prefix}/no-such-state".strip("/"))
    except ArtifactNotFound:
        pass
    except Exception as error:  # botocore has a family of its own
        raise StudyError(f"artifacts {url} cannot be reached: {type(error).__name__}: {error}") from None
    return store


class BucketCheckpoint:
    """One training's state in a bucket; on its way it is a file in a temporary folder.

    Args:
        store: Optuna's artifact store.
        key: the object's name in it.
    """

    def __init__(self, store: ArtifactStore, key: str) -> None:
        self._store, self._key = store, key

    def load(self) -> TrainingState | None:
        """The state; None where there is none.

        Raises:
            TrainingError: it is damaged.
            OSError: the bucket cannot be reached.
        """
        from optuna.artifacts.exceptions import ArtifactNotFound

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.safetensors"
            try:
                with self._store.open_reader(self._key) as reader, open(path, "wb") as file:
                    shutil.copyfileobj(reader, file)
            except ArtifactNotFound:
                return None
            except Exception as error:
                raise OSError(f"{type(error).__name__}: {error}") from None
            try:
                return _file(path).load()
            except TrainingError as error:
                raise TrainingError(str(error).replace(str(path), self._key)) from None

    def save(self, state: TrainingState) -> None:
        """Keep `state` in place of the last one. Raises OSError where the bucket cannot be reached."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.safetensors"
            _file(path).save(state)
            try:
                with open(path, "rb") as file:
                    self._store.write(self._key, file)
            except Exception as error:
                raise OSError(f"{type(error).__name__}: {error}") from None

    def discard(self) -> None:
        """Remove the state. Raises OSError where the bucket cannot be reached."""
        try:
            self._store.remove(self._key)
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from None


def _file(path: Path) -> Any:
    from reborn_nas.training import FileCheckpoint

    return FileCheckpoint(path)
