"""Judging: several parts an epoch, batches bounded by bytes, halved where memory ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from reborn_nas.data import Resident, split
from reborn_nas.training import Recipe, evaluation, train
from reborn_nas.training.evaluation import Tally, evaluate
from tests.training.toys import small_net, squares

CPU = torch.device("cpu")


def test_each_part_of_an_epoch_has_its_own_numbers() -> None:
    """The last epoch's numbers are those of the finished network, part by part."""
    images = squares()
    own = split(images, block=0, seed=0)
    parts = {"first": own.validation[:11], "second": own.validation[11:31], "third": own.train[:7]}
    model = small_net(classes=4)
    result = train(
        model,
        images,
        train_indices=own.train,
        evaluate=parts,
        recipe=Recipe(epochs=2, batch_size=40, learning_rate=0.01),
        seed=0,
        every_epoch=tuple(parts),
    )
    found = {part: evaluate(model, images, indices, precision="fp32") for part, indices in parts.items()}
    for part, expected in found.items():
        assert result.curve[-1][f"{part}_accuracy"] == expected.correct / expected.n
        assert result.curve[-1][f"{part}_loss"] == pytest.approx(expected.loss, rel=1e-6)
    assert len({round(one.loss, 6) for one in found.values()}) == 3


def tally(model: nn.Module) -> tuple[Tally, Resident]:
    images = squares()
    return Tally(model, "fp32", CPU), Resident(images, torch.arange(200), CPU)


def test_the_batch_is_as_large_as_its_maps_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the first batch norm reads and writes 8 × 8 × 8 floats, 4,096 bytes, three times; all others less."""
    largest = 8 * 8 * 8 * 4 * 2
    counted, part = tally(small_net(classes=4))
    monkeypatch.setattr(evaluation, "BATCH_BYTES", 20 * 3 * largest)
    assert counted.batch_size(part) == 20
    for limit, expected in ((1, 1), (2**30, 500)):
        monkeypatch.setattr(evaluation, "BATCH_BYTES", limit)
        assert tally(small_net(classes=4))[0].batch_size(part) == expected


def test_looking_at_one_image_changes_nothing() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x

    parts = list(small_net(classes=4))
    model = nn.Sequential(Counting(), *parts).train()
    counted, part = tally(model)
    counted.batch_size(part)
    assert model[0].calls == 0
    assert model.training


class Small(nn.Module):
    """A device with memory for `room` images."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.net, self.room, self.error = small_net(classes=4), room, error
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> Any:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise self.error
        return self.net(x)


def test_memory_that_ends_halves_the_batch_and_counts_every_image_once() -> None:
    model = Small(60, RuntimeError("CUDA error: out of memory"))
    whole, part = tally(model.net)
    whole.run(part)
    counted, _ = tally(model)
    counted.run(part)
    # 500 and 250 at once are the whole part; 125 do not fit, nor do 62
    assert model.sizes == [200, 200, 125, 62, *[31] * 6, 14]
    assert counted.read()[0] == whole.read()[0]
    assert counted.read()[1] == pytest.approx(whole.read()[1], rel=1e-6)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), RuntimeError("CUDA error: out of memory")]
)
def test_other_errors_and_a_single_image_that_does_not_fit_are_raised(error: Exception) -> None:
    counted, part = tally(Small(0, error))
    counted._batch_size = 4
    with pytest.raises(RuntimeError, match=str(error)):
        counted.run(part)
