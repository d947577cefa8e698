"""The whole step as one CUDA graph: learning rate, forward, backward and optimiser for one launch; judging likewise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch

from reborn_nas.training.step import TrainingStep

WARM_UP = 3
"""Steps before a capture, in which cuDNN chooses its kernels and lazy buffers come into being."""

MODE = "thread_local"
"""Of a capture's errors: other threads may use CUDA meanwhile."""

Step = Callable[[torch.Tensor, torch.Tensor], Any]


class Recorder(Protocol):
    """What captures work on a device; CUDA's below, a stand-in in the tests."""

    def warm_up(self, work: Callable[[], Any]) -> None:
        """Run `work` outside of the stream that will be captured."""

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        """Capture `work` without running it; the result runs it on the same memory."""


class CudaRecorder:
    """`torch.cuda.CUDAGraph`. What it records shares one pool of memory, as no two graphs run at a time.

    Warm-up and capture have one stream of their own: torch's default for captures belongs to the GPU on which the
    process captured first, and a shared pool wants its captures on one stream.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: Any = None
        self._side: Any = None

    def _stream(self) -> Any:
        if self._side is None:
            self._side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return self._side

    def warm_up(self, work: Callable[[], Any]) -> None:
        """On a side stream, as capturing demands."""
        side = self._stream()
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream(self.device).wait_stream(side)

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        """Capture on the side stream.

        Raises:
            RuntimeError: the work cannot be captured; eager work goes on as before.
        """
        graph, side = torch.cuda.CUDAGraph(), self._stream()
        captured = torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode=MODE)
        try:
            # twice on the stream: where a capture breaks, torch's own context stays there
            with torch.cuda.stream(side), captured:
                work()
        except RuntimeError:
            self._mend()
            raise
        self._pool = graph.pool()  # type: ignore[no-untyped-call]
        return graph.replay

    def _mend(self) -> None:
        """Capture next to nothing: after a broken capture torch 2.11 believes that it goes on, until one ends well.

        Meanwhile dropout outside of a graph fails ("Offset increment outside graph capture").
        """
        side, scratch = self._stream(), torch.zeros(1, device=self.device)
        graph = torch.cuda.graph(torch.cuda.CUDAGraph(), stream=side, capture_error_mode=MODE)
        with contextlib.suppress(RuntimeError), torch.cuda.stream(side), graph:
            scratch.zero_()


class Replay:
    """Work on a batch that is replayed; batches of another size than the captured one run eagerly.

    The work reads the images and labels from buffers of its own, so that a replay needs two copies and nothing else.

    Raises:
        RuntimeError: the work cannot be captured.
    """

    def __init__(self, work: Step, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.work = work
        self.images, self.labels = torch.empty_like(images), torch.empty_like(labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.replay: Callable[[], None] | None = None

    def warm_up(self, recorder: Recorder) -> None:
        """Run the work a few times."""
        recorder.warm_up(self._several)

    def record(self, recorder: Recorder) -> None:
        """Capture it."""
        self.replay = recorder.record(lambda: self.work(self.images, self.labels))

    def _several(self) -> None:
        for _ in range(WARM_UP):
            self.work(self.images, self.labels)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """The work on one batch."""
        if self.replay is None or images.shape != self.images.shape:
            self.work(images, labels)
            return
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.replay()


class GraphStep(Replay):
    """A training step that is replayed; it finds its learning rate on the device.

    Raises:
        RuntimeError: the network cannot be captured; its state is then as it was before.
    """

    def __init__(
        self, step: TrainingStep, images: torch.Tensor, labels: torch.Tensor, recorder: Recorder
    ) -> None:
        super().__init__(step, images, labels)
        before = Snapshot(step)
        try:
            self.warm_up(recorder)
            before.restore()
            step.optimiser.zero_grad(set_to_none=True)
            self.record(recorder)
        finally:
            before.restore()


class Snapshot:
    """All that a step changes, copied back into the same memory: a captured graph knows only addresses."""

    def __init__(self, step: TrainingStep) -> None:
        self.step, self.at = step, step.at
        self.live = step.changed()
        self.saved = [tensor.detach().clone() for tensor in self.live]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back."""
        self.step.at = self.at
        for live, saved in zip(self.live, self.saved, strict=True):
            live.copy_(saved)
