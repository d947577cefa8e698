"""Loss scaling, against torch's own `GradScaler`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from reborn_nas.data import split
from reborn_nas.training import Recipe, TrainingResult, train
from reborn_nas.training.step import step as scaling
from reborn_nas.training.step.step import LossScaler
from tests.training.toys import Kept, small_net, squares


def net() -> tuple[nn.Linear, torch.optim.SGD]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=True)


def test_steps_and_scales_are_those_of_torchs_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps, two of which overflow; the scale doubles after every three good ones in a row."""
    monkeypatch.setattr(scaling, "GROWTH_INTERVAL", 3)
    (model, optimiser), (twin, other) = net(), net()
    for one in (optimiser, other):
        for group in one.param_groups:
            for parameter in group["params"]:
                one.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    ours = LossScaler(torch.device("cpu"))
    theirs: Any = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    scales = []
    for step in range(12):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        x = x * 1e38 if step in (4, 5) else x
        optimiser.zero_grad()
        ours.step(model(x).square().sum(), optimiser, list(model.parameters()))
        other.zero_grad()
        theirs.scale(twin(x).square().sum()).backward()
        theirs.step(other)
        theirs.update()
        scales.append(float(ours.scale))
        assert scales[-1] == theirs.get_scale()
        assert torch.equal(model.weight, twin.weight)
    assert scales[2] == 2.0**17
    assert scales[5] == 2.0**15
    assert scales[-1] == 2.0**17


def small(**more: Any) -> TrainingResult:
    images = squares()
    own = split(images, block=0, seed=0)
    return train(
        more.pop("model", small_net(classes=4)),
        images,
        train_indices=own.train,
        evaluate={"validation": own.validation},
        recipe=Recipe(epochs=4, batch_size=40, learning_rate=0.1, precision=more.pop("precision", "fp16")),
        seed=0,
        **more,
    )


def test_fp16_trains_as_fp32_does() -> None:
    """The squares' corners are learnt, with losses within fp16's rounding of fp32's."""
    lower, full = small(), small(precision="fp32")
    assert lower.precision == "fp16"
    losses = [[row["train_loss"] for row in one.curve] for one in (lower, full)]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    assert losses[0] != losses[1]


def test_an_overflow_is_skipped_and_a_resumed_training_keeps_the_scale() -> None:
    """With a first scale of 2²⁴ the first steps overflow in fp16; the resumed training ends in the same bits."""

    def stop(epoch: int, metrics: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "FIRST", 2.0**24)
        whole, kept = small(), Kept()
        with pytest.raises(KeyboardInterrupt):
            small(checkpoint=kept, on_epoch=stop)
        assert float(kept.state.tensors["scaler/scale"]) < 2.0**24
        resumed = small(checkpoint=kept)
    assert [row["train_loss"] for row in resumed.curve] == [row["train_loss"] for row in whole.curve]
