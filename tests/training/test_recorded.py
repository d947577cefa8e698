"""A replay knows memory and nothing else: steps are recorded operation by operation, as a CUDA graph has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import reborn_nas as rn
from reborn_nas.activations import spare_memory
from reborn_nas.data import Augmentation, split
from reborn_nas.training import Recipe, TrainingResult, evaluation, loop, train
from reborn_nas.training.step.step import TrainingStep
from tests.training.toys import small_net, squares


class Tape(TorchDispatchMode):
    """The operations that run within, with the very tensors that they read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Callable[[], None]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:  # as CUDA does
            raise RuntimeError("operation not permitted when stream is capturing")
        made = func(*args, **named)
        known = {place(tensor) for tensor in tensors((args, named))}
        fresh = tensors(made)

        def again() -> None:
            for old, new in zip(fresh, tensors(func(*args, **named)), strict=True):
                if place(old) not in known:  # views and what was written in place are there already
                    old.copy_(new)

        self.steps.append(again)
        return made


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Recording:
    """Captures by running and writing down; a replay runs none of our code."""

    def __init__(self) -> None:
        self.replays = 0

    def warm_up(self, steps: Sequence[Callable[[], Any]]) -> None:
        for step in steps:
            step()

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        with Tape() as tape:
            work()

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                for again in tape.steps:
                    again()

        return replay


def run(model: nn.Module, recorder: Recording | None, precision: str) -> tuple[TrainingResult, torch.Tensor]:
    """Training in batches of 40 and a rest, judged in batches of 8, with a schedule and dropout."""
    images = squares(augmentation=Augmentation(1, True))
    own = split(images, block=0, seed=0)
    result = train(
        model,
        images,
        train_indices=own.train,
        evaluate={"validation": own.validation},
        recipe=Recipe(epochs=3, batch_size=40, learning_rate=0.1, precision=precision, label_smoothing=0.1),
        seed=3,
        recorder=recorder,
    )
    state = torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])
    return result, state


def network(kind: str) -> nn.Module:
    model = small_net(classes=4, dropout=0.2)
    if kind == "ReLU":
        return model
    converted = rn.convert(model, kind.removesuffix(", sparing"), input_size=(1, 8, 8), seed=0)
    spare_memory(converted, kind.endswith("sparing"))
    return converted


@pytest.mark.parametrize("kind", ["ReLU", "crelu", "reborn", "reborn, sparing"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_was_recorded_trains_to_the_same_bits(
    kind: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning rate, order, augmentation, dropout, batch norm, momentum and sums all lie in memory, or it fails."""

    def step(*arguments: Any, **named: Any) -> TrainingStep:
        return TrainingStep(*arguments, tensor_rate=True, **named)

    monkeypatch.setattr(loop, "TrainingStep", step)
    monkeypatch.setattr(evaluation, "BATCH", 8)
    eager, expected = run(network(kind), None, precision)
    recorder = Recording()
    replayed, got = run(network(kind), recorder, precision)
    assert replayed.form == "cuda-graph"
    assert recorder.replays >= 3 * 3
    assert torch.equal(got, expected)
    assert [{**row, "seconds": 0} for row in replayed.curve] == [{**row, "seconds": 0} for row in eager.curve]


def test_a_rate_outside_of_memory_is_seen_before_it_trains() -> None:
    """With the learning rate in Python every replay has that of the capture: the comparison with eager steps fails."""
    expected = run(network("ReLU"), None, "fp32")[1]
    result, got = run(network("ReLU"), Recording(), "fp32")
    assert result.form.startswith("eager (no CUDA graph: 3 replayed steps differ from 3 eager ones by ")
    assert torch.equal(got, expected)
