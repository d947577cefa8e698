"""What a training leaves on disk: the state of an interrupted one, in a folder or a bucket, and kept weights."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from optuna.artifacts import Boto3ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from safetensors.torch import save

from reborn_nas.commands import install_line
from reborn_nas.errors import StudyError, TrainingError
from reborn_nas.files import safe_join, write_atomic
from reborn_nas.records import DIGITS, EXPLORED, TrialRecord
from reborn_nas.study.config.objectives import is_beaten, objective_values
from reborn_nas.study.config.values import parse_bucket
from reborn_nas.training import FileCheckpoint

if TYPE_CHECKING:
    from torch import nn

    from reborn_nas.training import TrainingState

__all__ = [
    "Store",
    "BucketCheckpoint",
    "STATES",
    "SavedState",
    "keep_weights",
    "open_bucket",
]

STATES = "states"
"""Folder of the states in the artifact store."""

EVERY = 60.0
"""Seconds of training that a vanished machine costs at most, and the rest of its epoch."""

_log = logging.getLogger("reborn_nas.study")


class Kept(Protocol):
    """Where one state lies: `training.FileCheckpoint` or `bucket.BucketCheckpoint`. All raise OSError."""

    def load(self) -> TrainingState | None:
        """The state, or None. Raises TrainingError where it is damaged."""

    def save(self, state: TrainingState) -> None:
        """Keep `state` in place of the last one."""

    def discard(self) -> None:
        """Remove it."""


class SavedState:
    """A training's `Checkpoint`: one state, written every minute or so and when the training is asked to stop.

    Nothing that goes wrong with it harms the training: a state that cannot be written is left out, one that cannot
    be read is dropped, and the training starts from its beginning.

    Args:
        kept: where it lies; its name holds the run and everything that the training depends on.
        stopping: whether the training will end after this epoch.
        every: seconds from one write to the next.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        kept: Kept,
        stopping: Callable[[], bool] = lambda: False,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept = kept
        self._stopping = stopping
        self._every = every
        self._clock = clock
        self._last = clock()
        self.resumed = 0
        """Epochs that an earlier attempt had done."""

    def due(self) -> bool:
        """Whether the state of this epoch is to be kept; copying it costs time."""
        return self._clock() - self._last >= self._every or self._stopping()

    def load(self) -> TrainingState | None:
        """The state that an earlier attempt left, or None."""
        try:
            state = self._kept.load()
        except TrainingError as error:
            _log.warning("%s", error)
            self.discard()
            return None
        except OSError as error:
            _log.warning("the training's state cannot be asked for (%s); it begins at its start", error)
            return None
        self.resumed = 0 if state is None else state.epoch
        return state

    def save(self, state: TrainingState) -> None:
        """Keep `state`; where its place refuses it, go on without."""
        self._last = self._clock()
        try:
            self._kept.save(state)
        except OSError as error:
            _log.warning("the training's state cannot be kept (%s); it goes on", error)

    def discard(self) -> None:
        """The training is told: nobody needs its state."""
        try:
            self._kept.discard()
        except OSError:
            return


PATIENCE: dict[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": 30,
    "retries": {"total_max_attempts": 3, "mode": "standard"},
}
"""A bucket that does not answer holds a training up for half a minute, not for the ten that boto3 would wait."""


def open_bucket(url: str) -> Store:
    """Optuna's artifact store on the bucket of `url`, reached as boto3's environment says.

    Raises:
        StudyError: boto3 is missing, or the bucket cannot be read; no credentials are in the message.
    """
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


class Store(Protocol):
    """What is asked of one of Optuna's artifact stores."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The object's bytes. Raises ArtifactNotFound."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Put the bytes in place of the object's."""

    def remove(self, artifact_id: str) -> None:
        """Remove the object."""


class BucketCheckpoint:
    """One training's state in a bucket; on its way it is a file in a temporary folder.

    Args:
        store: Optuna's artifact store.
        key: the object's name in it.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, key

    def load(self) -> TrainingState | None:
        """The state; None where there is none.

        Raises:
            TrainingError: it is damaged.
            OSError: the bucket cannot be reached.
        """
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
    return FileCheckpoint(path)


ROOM = 256 * 2**20
"""Bytes of weights that each folder may hold: within them all are kept, beyond them those that none beats."""


def keep_weights(
    folder: Path,
    record: TrialRecord,
    model: nn.Module,
    save_example: Callable[[Path], None] | None,
    validation: float,
    objectives: Sequence[str] = ("accuracy",),
) -> str:
    """Keep the weights while there is room; without, if no kept training beats this one, in place of some it beats.

    Screen and exploration share their room, so that the best observed training is among those that are kept; equals
    are kept too.

    Args:
        folder: the run folder.
        save_example: writes what the network makes of an example; None where there is none.
        validation: score on the validation part: it ranks, whatever else the training was judged by.
        objectives: of the exploration.

    Returns:
        The file's path relative to the run folder, "" where the weights are not kept. Beside the file lies a batch of
        images with the network's logits.
    """
    if record.phase not in (*EXPLORED, "candidate"):
        return ""
    names = objectives if record.phase in EXPLORED else ("accuracy",)
    costs = objective_values(record, names[1:])
    if costs is None:
        return ""
    group = "search-sampled" if record.phase in EXPLORED else f"{record.phase}-{record.arm}"
    home = safe_join(folder, "checkpoints", group)
    kept = {path: _rank(path, len(names)) for path in home.glob("*.safetensors")} if home.is_dir() else {}
    rank = (round(validation, DIGITS), *costs)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    missing = sum(value.nbytes for value in state.values()) + sum(map(_bytes, kept)) - ROOM
    if missing > 0 and any(is_beaten(rank, other, names) for other in kept.values()):
        return ""
    home.mkdir(parents=True, exist_ok=True)
    words = [record.key.replace("/", "-"), *(f"{cost:.9g}" for cost in costs), f"{rank[0]:.6f}"]
    name = "~".join(words) + ".safetensors"
    if save_example is not None:
        save_example((home / name).with_suffix(".example"))
    about = {"format": "pt", "digest": record.digest, "key": record.key}
    write_atomic(home / name, save(state, metadata=about))
    beaten = [path for path, other in kept.items() if is_beaten(other, rank, names)]
    for path in sorted(beaten, key=lambda one: kept[one]):
        if missing <= 0:
            break
        missing -= _bytes(path)
        path.unlink(missing_ok=True)
        path.with_suffix(".example").unlink(missing_ok=True)
    return f"checkpoints/{home.name}/{name}"


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another worker dropped it
        return 0


def _rank(path: Path, count: int) -> tuple[float, ...]:
    """Accuracy and costs as the file's name tells them; worse than any where it tells none."""
    words = path.name.removesuffix(".safetensors").split("~")
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        return (-float("inf"), *[float("inf")] * (count - 1))
    return (numbers[-1], *numbers[:-1])
