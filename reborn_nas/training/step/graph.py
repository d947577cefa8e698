"""The whole step as one CUDA graph: learning rate, forward, backward and optimiser for one launch; judging likewise.

A graph is used only after it has been compared with eager steps on this device (`Replay.prove`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from reborn_nas.training.step.hidden_state import HiddenState
from reborn_nas.training.step.step import TrainingStep

WARM_UP = 3
"""Eager steps before a capture, in which cuDNN chooses its kernels and lazy buffers are made; the graph is compared
with their result.
"""

MODE = "thread_local"
"""Of a capture's errors: other threads may use CUDA meanwhile."""

TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 3e-2}
"""By how much a replay may differ from eager steps, as a share of what these change: kernels that add in whatever order
comes round differ a little, also between two eager repetitions.
"""

Batch = tuple[torch.Tensor, torch.Tensor]
Step = Callable[[torch.Tensor, torch.Tensor], Any]


class Recorder(Protocol):
    """What captures work on a device; CUDA's below."""

    def warm_up(self, steps: Sequence[Callable[[], Any]]) -> None:
        """Run `steps` outside of the stream that will be captured."""

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        """Capture `work` without running it; the result runs it on the same memory."""


class CudaRecorder:
    """`torch.cuda.CUDAGraph`. What it records shares one pool of memory, as no two graphs run at a time.

    Warm-up and capture have one stream of their own: torch's default for captures belongs to the GPU on which the
    process captured first, and a shared pool wants its captures on one stream. Graphs that failed or only served to
    end a failed capture live as long as the recorder: destroying one clears the cuBLAS workspaces of its stream,
    which other graphs may still use.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: Any = None
        self._side: Any = None
        self._kept: list[Any] = []

    def _stream(self) -> Any:
        if self._side is None:
            self._side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return self._side

    def warm_up(self, steps: Sequence[Callable[[], Any]]) -> None:
        """On a side stream, as capturing demands; the last step may not wait for the device.

        Raises:
            RuntimeError: it does. What cannot be captured is found here, before a capture begins that would break:
                torch 2.11 and 2.12 do not recover from every broken capture.
        """
        side = self._stream()
        side.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.stream(side):
                for step in steps[:-1]:
                    step()
                with _no_waiting():
                    steps[-1]()
        finally:
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
        except BaseException:  # an interrupt in the middle leaves the same behind
            self._kept.append(graph)
            self._end_capture()
            raise
        self._pool = graph.pool()  # type: ignore[no-untyped-call]
        return graph.replay

    def _end_capture(self) -> None:
        """Capture next to nothing: after a broken capture torch 2.11 believes that it goes on, until one ends well.

        Meanwhile dropout outside of a graph fails ("Offset increment outside graph capture").
        """
        scratch = torch.cuda.CUDAGraph()
        self._kept.append(scratch)
        with contextlib.suppress(RuntimeError):
            side, tensor = self._stream(), torch.zeros(1, device=self.device)
            graph = torch.cuda.graph(scratch, stream=side, capture_error_mode=MODE)
            with torch.cuda.stream(side), graph:
                tensor.zero_()


@contextlib.contextmanager
def _no_waiting() -> Any:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Replay:
    """Work on a batch that is replayed; batches of another size than the captured one run eagerly.

    The work reads the images and labels from buffers of its own, so that a replay needs two copies and nothing else.

    Args:
        work: runs on one batch.
        batches: of one shape; the graph is compared with eager work on them, `WARM_UP` times in turn.
        before: the state that the work changes.
    """

    def __init__(self, work: Step, batches: Sequence[Batch], before: Snapshot) -> None:
        self.work, self._before = work, before
        self._batches = [batches[k % len(batches)] for k in range(WARM_UP)]
        images, labels = batches[0]
        self.images, self.labels = torch.empty_like(images), torch.empty_like(labels)
        self.replay: Callable[[], None] | None = None

    def prove(self, recorder: Recorder, precision: str) -> None:
        """Capture the work, and compare three replays with three eager steps from the same state and seed.

        The state is then as it was before, whatever happens.

        Raises:
            RuntimeError: the network cannot be captured, or its replay computes something else.
        """
        try:
            recorder.warm_up(self._eager_steps())
            if changes := self._before.hidden.changes():
                raise RuntimeError("; ".join(changes[:3]) + ", which a CUDA graph would not repeat")
            expected = self._before.taken()
            self._before.restore()
            self.record(recorder)
            self._before.restore()
            self._seed()
            for images, labels in self._batches:
                self(images, labels)
            got = self._before.taken()
            self._compare(expected, got, precision)
        finally:
            self._batches.clear()
            self._before.restore()

    def record(self, recorder: Recorder) -> None:
        """Capture the work as it is."""
        self.replay = recorder.record(lambda: self.work(self.images, self.labels))

    def _seed(self) -> None:
        torch.manual_seed(0)

    def _eager_steps(self) -> list[Callable[[], None]]:
        def step(images: torch.Tensor, labels: torch.Tensor) -> None:
            self.images.copy_(images)
            self.labels.copy_(labels)
            self.work(self.images, self.labels)

        self._seed()
        return [lambda batch=batch: step(*batch) for batch in self._batches]  # type: ignore[misc]

    def _compare(
        self, expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor], precision: str
    ) -> None:
        differences = relative_differences(self._before.saved, expected, got)
        name = max(differences, key=lambda key: differences[key])
        if differences[name] > TOLERANCE[precision]:
            raise RuntimeError(
                f"{WARM_UP} replayed steps differ from {WARM_UP} eager ones by {differences[name]:.1e} of their "
                f"change, most in {name}"
            )

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
        RuntimeError: the network cannot be captured, or its replay trains another network; the state is as before.
    """

    def __init__(self, step: TrainingStep, batches: Sequence[Batch], recorder: Recorder) -> None:
        super().__init__(step, batches, StepSnapshot(step))
        self._step = step
        self.prove(recorder, step.precision)

    def record(self, recorder: Recorder) -> None:
        """Capture the step, which makes gradients of its own."""
        self._step.optimiser.zero_grad(set_to_none=True)
        super().record(recorder)


class Snapshot:
    """All that a step changes, copied back into the same memory: a captured graph knows only addresses."""

    def __init__(self, changed: Mapping[str, torch.Tensor], model: nn.Module, device: torch.device) -> None:
        self.live = dict(changed)
        self.saved = self.taken()
        self.hidden = HiddenState(model, device)

    def taken(self) -> dict[str, torch.Tensor]:
        """Copies of the tensors as they are now."""
        return {name: tensor.detach().clone() for name, tensor in self.live.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back."""
        self.hidden.restore()
        for name, saved in self.saved.items():
            self.live[name].copy_(saved)


class StepSnapshot(Snapshot):
    """All that a training step changes."""

    def __init__(self, step: TrainingStep) -> None:
        super().__init__(step.changed(), step.model, step.device)
        self._step, self._at = step, step.at

    def restore(self) -> None:
        """See `Snapshot`."""
        super().restore()
        self._step.at = self._at


def relative_differences(
    start: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """How far each tensor of `got` is from `expected`, as a share of the change since `start` (root mean squares).

    A tensor that hardly changes is measured by a hundredth of the mean change of its kind (the first word of its
    name): a bias in front of a batch norm has a gradient of rounding errors. Integers, and NaN on one side only,
    differ by infinity.
    """
    changes = {name: _rms(expected[name].double() - start[name].double()) for name in start}
    kinds: dict[str, list[float]] = {}
    for name, change in changes.items():
        kinds.setdefault(_kind(name), []).append(change)
    floors = {kind: sum(values) / len(values) / 100 for kind, values in kinds.items()}
    found = {}
    for name, before in start.items():
        one, other = expected[name], got[name]
        same = torch.equal(one.isnan(), other.isnan())
        if not before.is_floating_point() or not same:
            found[name] = 0.0 if same and torch.equal(one, other) else float("inf")
            continue
        distance = _rms(one.double().nan_to_num() - other.double().nan_to_num())
        found[name] = distance / (changes[name] + floors[_kind(name)]) if distance else 0.0
    return found


def _kind(name: str) -> str:
    return name.partition(" ")[0]


def _rms(tensor: torch.Tensor) -> float:
    return float(tensor.nan_to_num().square().mean().sqrt()) if tensor.numel() else 0.0
