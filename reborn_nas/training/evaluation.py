"""How many images a network classifies rightly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reborn_nas.data import ImageSet, Resident
from reborn_nas.training.device.precision import arithmetic, resolve_precision
from reborn_nas.training.device.selection import empty_cache, is_out_of_memory
from reborn_nas.training.result import Evaluation
from reborn_nas.training.step.graph import Recorder, Replay, Snapshot
from reborn_nas.training.step.step import logits_of

BATCH = 500
"""Images at once, at most; part of no result, as nothing depends on it in eval mode but rounding."""

BATCH_BYTES = 2**30
"""Memory that one batch's maps may take, at most; large images are judged in smaller batches."""

MAPS = 3
"""Times the largest operation's inputs and outputs that a forward pass without gradients holds, estimated high."""


def evaluate(
    model: nn.Module,
    images: ImageSet,
    indices: torch.Tensor,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    *,
    batch_size: int | None = None,
    keep_logits: bool = False,
    channels_last: bool = False,
) -> Evaluation:
    """Right answers of `model`, moved to `device`, in eval mode on images `indices`, without augmentation.

    Args:
        batch_size: images at once; by default as many as `BATCH_BYTES` allow.
        keep_logits: also give the logits, float32 (n, classes) on the CPU, in the order of `indices`.
    """
    place = torch.device(device)
    model.to(place)
    precision = resolve_precision(precision, place, model)
    part = Resident(images, indices, place, channels_last=channels_last)
    tally = Tally(model, precision, place, batch_size)
    kept = tally.run(part, keep_logits=keep_logits)
    correct, loss = tally.read()
    n = len(indices)
    return Evaluation(correct, n, loss / max(n, 1), None if kept is None else kept.cpu())


class Tally:
    """Counts right answers and adds up losses on the device; `read` is the only synchronisation.

    Args:
        batch_size: images at once; by default as many as `BATCH_BYTES` allow, found at the first batch.
        keep: images of the largest part whose logits `kept` shall hold; 0 keeps none.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: str,
        device: torch.device,
        batch_size: int | None = None,
        *,
        keep: int = 0,
    ) -> None:
        self.model, self.precision, self.device = model, precision, device
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(2, device=device, dtype=kind)  # right answers, losses
        self.kept = Kept(keep, device) if keep else None
        self._batch_size = batch_size
        self._replay: Replay | None = None

    def capture(self, recorder: Recorder, part: Resident) -> None:
        """Replay the judging of batches like those of `part` from now on.

        Raises:
            RuntimeError: the network cannot be captured, or its replay judges otherwise; it is judged as before.
        """
        size = self.batch_size(part)
        if len(part) < size:
            return
        batches = [batch for batch, _ in zip(part.ordered(size), range(len(part) // size))][:2]
        buffers = {f"buffer {name}": tensor for name, tensor in self.model.named_buffers()}
        with self._judging():
            kept = {} if self.kept is None else self._made(self.kept, batches[0][0], buffers)
            before = Snapshot({"sums": self.sums, **kept, **buffers}, self.model, self.device)
            replay = Replay(self.step, batches, before)
            replay.prove(recorder, self.precision)
        self._replay = replay

    def _made(
        self, kept: Kept, images: torch.Tensor, buffers: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The tensors of `kept`, whose width is known once the network has run; a graph knows only their addresses."""
        before = Snapshot(buffers, self.model, self.device)
        with arithmetic(self.precision, self.device):
            kept.make(logits_of(self.model(images))[0].shape[1])
        before.restore()
        return kept.tensors()

    def release(self) -> None:
        """Judge eagerly from now on: a captured graph holds its memory, and this object in a circle."""
        self._replay = None

    def batch_size(self, part: Resident) -> int:
        """Images of `part` at once."""
        if self._batch_size is None:
            images, _ = next(part.ordered(1))
            with self._judging():
                each = self._bytes_of_an_image(images)
            self._batch_size = max(1, min(BATCH, BATCH_BYTES // max(1, each)))
        return self._batch_size

    def _bytes_of_an_image(self, images: torch.Tensor) -> int:
        before = Snapshot({}, self.model, self.device)
        try:
            with _LargestOperation(self.model) as largest, arithmetic(self.precision, self.device):
                self.model(images)
        finally:
            before.restore()
        return MAPS * largest.bytes

    def run(self, part: Resident, *, keep_logits: bool = False) -> torch.Tensor | None:
        """Start from zero and go once through `part`; the network's mode is restored.

        Where the device's memory does not hold a batch, it goes through `part` again in batches of half the size.
        """
        while True:
            size = self.batch_size(part)
            try:
                return self._run(part, size, keep_logits)
            except RuntimeError as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            self.release()
            self._batch_size = size // 2
            empty_cache(self.device)

    def _run(self, part: Resident, size: int, keep_logits: bool) -> torch.Tensor | None:
        self.sums.zero_()
        if self.kept is not None:
            self.kept.rewind()
        kept = []
        with self._judging():
            for images, labels in part.ordered(size):
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
        if self.kept is not None:
            self.kept.add(logits, labels)
        return logits

    def read(self) -> tuple[int, float]:
        """Right answers and the sum of the losses."""
        correct, loss = self.sums.tolist()
        return int(correct), float(loss)


class Kept:
    """The logits of a part on the device, written batch by batch at a place that the device knows, as in a CUDA graph.

    Args:
        images: of the largest part.
    """

    def __init__(self, images: int, device: torch.device) -> None:
        self.images, self.device = images, device
        self.logits: torch.Tensor | None = None
        self.labels = torch.zeros(images, dtype=torch.int64, device=device)
        self._at = torch.zeros((), dtype=torch.int64, device=device)
        self._next = torch.arange(images, device=device)

    def make(self, classes: int) -> None:
        """Room for logits (images, classes), once."""
        if self.logits is None:
            self.logits = torch.zeros(self.images, classes, device=self.device)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What `add` changes."""
        assert self.logits is not None
        return {"kept logits": self.logits, "kept labels": self.labels, "kept at": self._at}

    def rewind(self) -> None:
        """The next batch is the first of a part."""
        self._at.zero_()

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Keep one batch behind the last one."""
        self.make(logits.shape[1])
        assert self.logits is not None
        rows = (self._at + self._next[: len(labels)]) % self.images
        self.logits.index_copy_(0, rows, logits)
        self.labels.index_copy_(0, rows, labels)
        self._at += len(labels)

    def of(self, images: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of a part that `Tally.run` went through."""
        assert self.logits is not None
        return self.logits[:images], self.labels[:images]


class _LargestOperation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes of maps that one operation within reads and writes; parameters of `model` do not count."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self._weights = {parameter.data_ptr() for parameter in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        found = [leaf for leaf in tree_leaves((args, made)) if isinstance(leaf, torch.Tensor)]
        maps = [one for one in found if one.ndim > 2 and one.data_ptr() not in self._weights]
        self.bytes = max(self.bytes, sum(one.numel() * one.element_size() for one in maps))
        return made
