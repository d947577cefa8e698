"""The captured step, against a stand-in for CUDA's graphs that works on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from reborn_nas.data import Augmentation, split
from reborn_nas.training import Recipe, TrainingResult, train
from tests.training.toys import small_net, squares


class StandIn:
    """Like a CUDA graph, `record` runs nothing, and a replay works on the same memory as at the capture."""

    def __init__(self) -> None:
        self.warmed = self.replays = 0

    def warm_up(self, work: Callable[[], Any]) -> None:
        self.warmed += 1
        work()

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
    def warm_up(self, work: Callable[[], Any]) -> None:
        work()
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
    from reborn_nas.training.step import TrainingStep

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


@pytest.mark.gpu
def test_a_real_graph_trains_like_eager_steps() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    images = squares()
    own = split(images, block=0, seed=0)
    losses = {}
    for graph in (False, True):
        result = train(
            small_net(classes=4),
            images,
            train_indices=own.train,
            evaluate={"validation": own.validation},
            recipe=Recipe(epochs=3, batch_size=40, learning_rate=0.05, precision="fp32"),
            seed=3,
            device="cuda",
            graph=graph,
        )
        assert result.form == ("cuda-graph" if graph else "eager")
        losses[graph] = [row["train_loss"] for row in result.curve]
    assert losses[True] == pytest.approx(losses[False], rel=1e-2)
