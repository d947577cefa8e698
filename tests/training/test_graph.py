"""The captured step, against a stand-in for CUDA's graphs that works on the CPU."""

from __future__ import annotations

import contextlib
import gc
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reborn_nas.data import Augmentation, split
from reborn_nas.training import Recipe, TrainingResult, train
from reborn_nas.training.step.graph import CudaRecorder
from tests.training.toys import small_net, squares


class StandIn:
    """Like a CUDA graph, `record` runs nothing, and a replay works on the same memory as at the capture."""

    def __init__(self) -> None:
        self.warmed = self.replays = 0

    def warm_up(self, steps: Sequence[Callable[[], Any]]) -> None:
        self.warmed += 1
        for step in steps:
            step()

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        def replay() -> None:
            self.replays += 1
            work()

        return replay


class Refusing(StandIn):
    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        raise RuntimeError(
            "operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA"
        )


class Breaking(StandIn):
    def warm_up(self, steps: Sequence[Callable[[], Any]]) -> None:
        steps[0]()
        raise RuntimeError("out of memory while warming up")


RECIPE = Recipe(epochs=3, batch_size=40, learning_rate=0.05)


def run(recorder: StandIn | None, monkeypatch: pytest.MonkeyPatch) -> tuple[TrainingResult, torch.Tensor]:
    images = squares(augmentation=Augmentation(2, True))
    own = split(images, block=0, seed=0)
    model = small_net(classes=4, dropout=0.2)
    result = train(
        model,
        images,
        train_indices=own.train,
        evaluate={"validation": own.validation},
        recipe=RECIPE,
        seed=3,
        recorder=recorder,
    )
    state = torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])
    return result, state


@pytest.fixture(params=[False, True], ids=["float rate", "tensor rate"])
def _rate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the learning rate in a tensor, as on a GPU, or as a number."""
    from reborn_nas.training import loop
    from reborn_nas.training.step.step import TrainingStep

    def step(*arguments: Any, **named: Any) -> TrainingStep:
        return TrainingStep(*arguments, tensor_rate=request.param, **named)

    monkeypatch.setattr(loop, "TrainingStep", step)


@pytest.mark.usefixtures("_rate")
def test_a_replayed_step_trains_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """116 images in batches of 40, 40 and 36: the last one runs eagerly between replays."""
    recorder = StandIn()
    eager, expected = run(None, monkeypatch)
    replayed, got = run(recorder, monkeypatch)
    assert (eager.form, replayed.form) == ("eager", "cuda-graph")
    assert recorder.warmed == 1
    assert recorder.replays > 0
    assert torch.equal(got, expected)
    assert [row["train_loss"] for row in replayed.curve] == [row["train_loss"] for row in eager.curve]


def test_a_refused_capture_falls_back_says_so_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = run(None, monkeypatch)
    result, got = run(Refusing(), monkeypatch)
    assert result.form == "eager (no CUDA graph: operation not permitted when stream is capturing)"
    assert torch.equal(got, expected)


def test_a_warm_up_that_breaks_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = run(None, monkeypatch)
    result, got = run(Breaking(), monkeypatch)
    assert "out of memory while warming up" in result.form
    assert torch.equal(got, expected)


class Handles(StandIn):
    """Its replays hold nothing, as those of a CUDA graph hold only memory of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.works: list[Callable[[], Any]] = []
        self.handles: list[weakref.ref[Any]] = []

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        class Handle:
            def __init__(self, works: list[Callable[[], Any]], place: int) -> None:
                self.works, self.place = works, place

            def __call__(self) -> None:
                self.works[self.place]()

        handle = Handle(self.works, len(self.works))
        self.works.append(work)
        self.handles.append(weakref.ref(handle))
        return handle


def test_what_was_captured_goes_with_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch collects no garbage before a capture: a circle would keep a training's memory into the next one."""
    monkeypatch.setattr("reborn_nas.training.evaluation.BATCH", 8)
    recorder = Handles()
    gc.collect()
    gc.disable()
    try:
        result, _ = run(recorder, monkeypatch)
        recorder.works.clear()
        assert result.form == "cuda-graph"
        assert len(recorder.handles) == 2  # the step and the judging
        assert [handle() for handle in recorder.handles] == [None, None]
    finally:
        gc.enable()


def live_bytes() -> int:
    """Of all tensors that Python holds, each storage once: what an allocator would count."""
    gc.collect()
    found = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    return sum({one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in found}.values())


@pytest.mark.slow
def test_thirty_trainings_leave_no_more_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots, warm-up and the comparison with eager steps hold copies of everything, for their time only."""
    monkeypatch.setattr("reborn_nas.training.evaluation.BATCH", 8)
    run(StandIn(), monkeypatch)
    before = live_bytes()
    for _ in range(29):
        run(StandIn(), monkeypatch)
    assert live_bytes() == before


class FakeCuda:
    """What `CudaRecorder` calls of torch.cuda, and in which order; captures break where `broken` says so."""

    def __init__(self, broken: int = 0) -> None:
        self.said: list[str] = []
        self.modes: list[Any] = []
        self.broken = broken
        self.current = "default"

    def graph(self, graph: Any, pool: Any = None, stream: Any = None, capture_error_mode: str = "") -> Any:
        @contextlib.contextmanager
        def capture() -> Iterator[None]:
            self.said.append(f"capture on {stream.name}, pool {pool}, {capture_error_mode}")
            self.current = stream.name
            yield
            if self.broken:
                self.broken -= 1
                raise RuntimeError("operation failed due to a previous error during capture")

        return capture()

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = itertools.count()
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", self.modes.append)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream("default"))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device=None: Stream(f"{device} {next(names)}"))
        monkeypatch.setattr(
            torch.cuda, "CUDAGraph", lambda: SimpleNamespace(pool=lambda: (0, 7), replay=lambda: None)
        )


class Stream(SimpleNamespace):
    def __init__(self, name: str) -> None:
        super().__init__(name=name)

    def wait_stream(self, other: Stream) -> None:
        pass


def test_captures_of_a_device_share_its_stream_and_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never torch's default for captures, which stays on the GPU of the process's first one."""
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    recorder = CudaRecorder(torch.device("meta", 1))
    streams: list[str] = []
    recorder.warm_up([lambda: streams.append(cuda.current)])
    for _ in range(2):
        recorder.record(lambda: streams.append(cuda.current))
    assert streams == ["meta:1 0"] * 3
    assert cuda.said == [f"capture on meta:1 0, pool {pool}, thread_local" for pool in (None, (0, 7))]
    assert cuda.current == "default"
    assert cuda.modes == ["error", 0]  # within the last step of the warm-up


def test_the_main_stream_waits_for_a_warm_up_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would read memory that the side stream still writes."""
    cuda, waited = FakeCuda(), []
    cuda.install(monkeypatch)
    monkeypatch.setattr(Stream, "wait_stream", lambda self, other: waited.append((self.name, other.name)))
    recorder = CudaRecorder(torch.device("meta", 0))
    with pytest.raises(ZeroDivisionError):
        recorder.warm_up([lambda: 1 / 0])
    assert waited == [("meta:0 0", "default"), ("default", "meta:0 0")]


def test_an_interrupt_within_a_capture_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    cuda.install(monkeypatch)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CudaRecorder(torch.device("meta", 0)).record(interrupt)
    assert len(cuda.said) == 2  # the second capture ends the first


def test_a_broken_capture_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves torch's stream context open and its generator capturing: the next capture that ends well heals it."""
    cuda = FakeCuda(broken=1)
    cuda.install(monkeypatch)
    recorder = CudaRecorder(torch.device("meta", 0))
    with pytest.raises(RuntimeError, match="during capture"):
        recorder.record(lambda: None)
    assert len(cuda.said) == 2
    assert cuda.current == "default"
    cuda.broken = 2  # nor may the mending hide the first fault
    with pytest.raises(RuntimeError, match="during capture"):
        recorder.record(lambda: None)
