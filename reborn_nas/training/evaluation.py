"""How many images a network classifies rightly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from reborn_nas.data import ImageSet, Resident
from reborn_nas.training.graph import Recorder, Replay
from reborn_nas.training.precision import arithmetic, resolve_precision
from reborn_nas.training.result import Evaluation
from reborn_nas.training.step import logits_of

BATCH = 500
"""Images at once; part of no result, as nothing depends on it in eval mode but rounding."""


def evaluate(
    model: nn.Module,
    images: ImageSet,
    indices: torch.Tensor,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    *,
    batch_size: int = BATCH,
    keep_logits: bool = False,
    channels_last: bool = False,
) -> Evaluation:
    """Right answers of `model`, moved to `device`, in eval mode on images `indices`, without augmentation.

    Args:
        keep_logits: also give the logits, float32 (n, classes) on the CPU, in the order of `indices`.
    """
    place = torch.device(device)
    model.to(place)
    precision = resolve_precision(precision, place, model)
    part = Resident(images, indices, place, channels_last=channels_last)
    tally = Tally(model, precision, place)
    kept = tally.run(part, batch_size, keep_logits=keep_logits)
    correct, loss = tally.read()
    n = len(indices)
    return Evaluation(correct, n, loss / max(n, 1), None if kept is None else kept.cpu())


class Tally:
    """Counts right answers and adds up losses on the device; `read` is the only synchronisation."""

    def __init__(self, model: nn.Module, precision: str, device: torch.device) -> None:
        self.model, self.precision, self.device = model, precision, device
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(2, device=device, dtype=kind)  # right answers, losses
        self._replay: Replay | None = None

    def capture(self, recorder: Recorder, part: Resident, batch_size: int) -> None:
        """Replay the judging of batches like those of `part` from now on.

        Raises:
            RuntimeError: the network cannot be captured; it is judged as before.
        """
        if len(part) < batch_size:
            return
        images, labels = next(part.ordered(batch_size))
        with self._judging():
            replay = Replay(self.step, images, labels)
            replay.warm_up(recorder)
            replay.record(recorder)
        self._replay = replay

    def release(self) -> None:
        """Judge eagerly from now on: a captured graph holds its memory, and this object in a circle."""
        self._replay = None

    def run(self, part: Resident, batch_size: int, *, keep_logits: bool = False) -> torch.Tensor | None:
        """Start from zero and go once through `part`; the network's mode is restored."""
        self.sums.zero_()
        kept = []
        with self._judging():
            for images, labels in part.ordered(batch_size):
                if keep_logits:
                    kept.append(self.step(images, labels))
                elif self._replay is not None:
                    self._replay(images, labels)
                else:
                    self.step(images, labels)
        return torch.cat(kept) if keep_logits else None

    @contextlib.contextmanager
    def _judging(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Add one batch; its logits, float32."""
        with arithmetic(self.precision, self.device):
            outputs = self.model(images)
        logits = logits_of(outputs)[0].float()
        self.sums[0] += (logits.argmax(1) == labels).sum()
        self.sums[1] += F.cross_entropy(logits, labels, reduction="sum")
        return logits

    def read(self) -> tuple[int, float]:
        """Right answers and the sum of the losses."""
        correct, loss = self.sums.tolist()
        return int(correct), float(loss)
