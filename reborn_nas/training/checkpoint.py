"""A training's state after an epoch, from which it goes on to the same numbers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save

from reborn_nas.errors import TrainingError, blame_machine
from reborn_nas.files import write_atomic

VERSION = 1


@dataclass(frozen=True)
class TrainingState:
    """What is needed to go on after `epoch`. Generators need no state: each epoch seeds its own by its number.

    Args:
        epoch: epochs done.
        tensors: parameters and buffers as `model/<name>`, momenta as `momentum/<number>`, averaged weights as
            `average/<name>`, on the CPU.
        curve: the learning curve so far.
        identity: what the training is of; another one's state is refused.
        seconds: wall seconds so far.
    """

    epoch: int
    tensors: dict[str, torch.Tensor]
    curve: list[dict[str, float]]
    identity: str
    seconds: float


class Checkpoint(Protocol):
    """Where a training keeps its state."""

    def due(self) -> bool:
        """Whether the state after this epoch is wanted; copying it from the device takes time."""

    def load(self) -> TrainingState | None:
        """The last state saved, or None."""

    def save(self, state: TrainingState) -> None:
        """Keep `state` in place of the last one."""


class FileCheckpoint:
    """One safetensors file, with JSON in its header; no pickle. Written completely or not at all.

    Args:
        path: of the file.
        every: epochs from one save to the next.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        self.path = Path(path)
        self.every = every

    def due(self) -> bool:
        """Always."""
        return True

    def load(self) -> TrainingState | None:
        """The state in the file; None where there is none.

        Raises:
            TrainingError: the file is damaged.
            MachineError: the disk cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as archive:
                data: dict[str, Any] = json.loads(archive.metadata()["training"])
                tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
            if data["version"] != VERSION:
                raise ValueError(f"version {data['version']}")
            return TrainingState(
                data["epoch"], tensors, data["curve"], data["identity"], float(data["seconds"])
            )
        except Exception as error:  # safetensors, json and the types within raise many kinds
            blame_machine(error, self.path)
            raise TrainingError(
                f"checkpoint {self.path} cannot be read ({error}); delete it to train from the beginning"
            ) from error

    def save(self, state: TrainingState) -> None:
        """Write `state`, on every `every`-th epoch."""
        if state.epoch % self.every:
            return
        data = {
            "version": VERSION,
            "epoch": state.epoch,
            "curve": state.curve,
            "identity": state.identity,
            "seconds": state.seconds,
        }
        write_atomic(self.path, save(state.tensors, metadata={"training": json.dumps(data)}))

    def discard(self) -> None:
        """Remove the file: the training's result is stored."""
        self.path.unlink(missing_ok=True)
