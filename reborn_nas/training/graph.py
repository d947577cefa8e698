"""The whole step as one CUDA graph: forward, backward and optimiser for one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from reborn_nas.training.step import TrainingStep

WARM_UP = 3
"""Steps before a capture, in which cuDNN chooses its kernels and lazy buffers come into being."""

Step = Callable[[torch.Tensor, torch.Tensor], Any]


class Recorder(Protocol):
    """What captures work on a device; CUDA's below, a stand-in in the tests."""

    def warm_up(self, work: Callable[[], Any]) -> None:
        """Run `work` outside of the stream that will be captured."""

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        """Capture `work` without running it; the result runs it on the same memory."""


class CudaRecorder:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def warm_up(self, work: Callable[[], Any]) -> None:
        """On a side stream, as capturing demands."""
        side: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream(self.device).wait_stream(side)

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        """Other threads may use CUDA meanwhile ("thread_local")."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        return graph.replay


class GraphStep:
    """A training step that is replayed; batches of another size than the captured one run eagerly.

    The step reads the images and labels from buffers of its own and the learning rate from the step's tensor, so
    that a replay needs two copies and nothing else.

    Raises:
        RuntimeError: the network cannot be captured; its state is then as it was before.
    """

    def __init__(
        self, step: TrainingStep, images: torch.Tensor, labels: torch.Tensor, recorder: Recorder
    ) -> None:
        self.step = step
        self.images, self.labels = torch.empty_like(images), torch.empty_like(labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        before = _Snapshot(step)
        try:
            recorder.warm_up(self._several)
            before.restore()
            step.optimiser.zero_grad(set_to_none=True)
            self.replay = recorder.record(lambda: step(self.images, self.labels))
        finally:
            before.restore()

    def _several(self) -> None:
        for _ in range(WARM_UP):
            self.step(self.images, self.labels)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Train on one batch."""
        if images.shape != self.images.shape:
            self.step(images, labels)
            return
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.replay()


class _Snapshot:
    """All that a step changes, copied back into the same memory: a captured graph knows only addresses."""

    def __init__(self, step: TrainingStep) -> None:
        self.step = step
        self.live = [*step.parameters, *step.momenta(), *step.model.buffers(), step.loss_sum]
        self.saved = [tensor.detach().clone() for tensor in self.live]

    @torch.no_grad()
    def restore(self) -> None:
        for live, saved in zip(self.live, self.saved, strict=True):
            live.copy_(saved)
