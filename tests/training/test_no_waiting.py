"""Nothing waits for the device within an epoch: every call that would is counted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reborn_nas.data import Augmentation, split
from reborn_nas.data.augment.crops import _gathered
from reborn_nas.training import Recipe, train
from tests.training.test_graph import StandIn
from tests.training.toys import small_net, squares

READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")


class Waits(TorchDispatchMode):
    """What a GPU would wait for: values read on the host, and results whose size depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "_local_scalar_dense" in name or "nonzero" in name or "masked_select" in name:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("recorder", [None, StandIn()])
def test_an_epoch_reads_the_device_once_at_its_end(
    recorder: StandIn | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reborn_nas.training.step.step import TrainingStep

    waits = Waits()
    steps: list[int] = []
    plain = TrainingStep.__call__

    def counted(self: TrainingStep, images: torch.Tensor, labels: torch.Tensor) -> None:
        steps.append(len(waits.seen))
        plain(self, images, labels)

    def watched(method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(self: torch.Tensor, *arguments: Any) -> Any:
            waits.seen.append(name)
            return method(self, *arguments)

        return call

    images = squares(augmentation=Augmentation(2, True))
    own = split(images, block=0, seed=0)
    monkeypatch.setattr(TrainingStep, "__call__", counted)
    monkeypatch.setattr("reborn_nas.data.augment.crops._copied", _gathered)  # as on a GPU
    for name in READING:
        monkeypatch.setattr(torch.Tensor, name, watched(getattr(torch.Tensor, name), name))
    ends: list[int] = []
    with waits:
        train(
            small_net(classes=4),
            images,
            train_indices=own.train,
            evaluate={"validation": own.validation},
            recipe=Recipe(epochs=3, batch_size=40, learning_rate=0.05),
            seed=0,
            recorder=recorder,
            on_epoch=lambda epoch, metrics: ends.append(len(waits.seen)),
        )
    assert len(steps) >= 9
    assert [after - before for before, after in itertools.pairwise(ends)] == [1, 1]
    assert waits.seen[ends[0] : ends[2]] == ["tolist", "tolist"]
    # all steps of an epoch were begun with nothing read since the last one
    assert sorted(set(steps[-9:])) == [ends[0] - 1, ends[0], ends[1]]
