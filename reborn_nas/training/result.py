"""What a training left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch


class Evaluation(NamedTuple):
    """A network's outcome on some images: right answers, images, mean loss, and the logits where asked for."""

    correct: int
    n: int
    loss: float
    logits: torch.Tensor | None = None

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.correct / self.n if self.n else 0.0


@dataclass(frozen=True)
class TrainingResult:
    """What a training left, beside the trained network.

    Args:
        accuracy: part → share of right answers after the last epoch, in [0, 1].
        correct, n: part → right answers, images.
        curve: one dict an epoch: epoch (from 1), train_loss, learning_rate (of its last step), seconds, and
            `<part>_accuracy`, `<part>_loss` of the parts judged every epoch.
        train_loss_sum: sum of the epochs' mean training losses.
        epochs: epochs trained.
        seconds: wall seconds, evaluations included.
        precision: "fp32", "bf16" or "fp16".
        form: how the steps ran: "eager", "cuda-graph", or "eager (why there is no graph)".
        device: where.
        batch_size: images a step, smaller than asked for where the set is.
        notes: messages for the user.
        value, error: part → value of another metric than the accuracy that the training was judged by, and its standard
            error over images.
    """

    accuracy: Mapping[str, float]
    correct: Mapping[str, int]
    n: Mapping[str, int]
    curve: list[dict[str, float]]
    train_loss_sum: float
    epochs: int
    seconds: float
    precision: str
    form: str
    device: str
    batch_size: int
    notes: tuple[str, ...] = field(default=())
    value: Mapping[str, float] = field(default_factory=dict)
    error: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {**self.__dict__, "notes": list(self.notes)}
