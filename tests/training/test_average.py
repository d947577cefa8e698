"""Averaged weights and undecayed parameters, against sums written out; a stopped training goes on with its mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from reborn_nas.errors import ConfigError, TrainingError
from reborn_nas.training import FileCheckpoint, Recipe, evaluate, get_recipe, train
from tests.training.test_loop import run, weights
from tests.training.toys import small_net, squares

ONE_STEP = Recipe(
    epochs=4, batch_size=10_000, learning_rate=0.05
)  # a step an epoch, so the callback sees them all


def state(model: nn.Module) -> torch.Tensor:
    return torch.cat([v.detach().flatten() for v in model.state_dict().values() if v.is_floating_point()])


def test_the_network_ends_with_the_mean_of_its_steps() -> None:
    images, model = squares(), small_net(classes=4)
    mean = state(model).clone()

    def look(epoch: int, metrics: object) -> None:
        nonlocal mean
        d = min(0.25, epoch / (9 + epoch))  # step t = epoch − 1
        mean = d * mean + (1 - d) * state(model)

    result = run(model, images, replace(ONE_STEP, ema=0.25), on_epoch=look)
    torch.testing.assert_close(state(model), mean, atol=1e-6, rtol=1e-5)
    for part, indices in (("test", images.test),):
        assert result.correct[part] == evaluate(model, images, indices).correct
    plain = small_net(classes=4)
    run(plain, images, ONE_STEP)
    assert not torch.allclose(state(plain), state(model))


def test_a_stopped_training_goes_on_with_its_mean(tmp_path: Path) -> None:
    images = squares()
    whole, broken = small_net(classes=4), small_net(classes=4)
    run(whole, images, replace(ONE_STEP, ema=0.9))

    class Stop(Exception):
        pass

    def stop(epoch: int, metrics: object) -> None:
        if epoch == 2:
            raise Stop

    place = FileCheckpoint(tmp_path / "state")
    with pytest.raises(Stop):
        run(broken, images, replace(ONE_STEP, ema=0.9), on_epoch=stop, checkpoint=place)
    again = small_net(classes=4)
    run(again, images, replace(ONE_STEP, ema=0.9), checkpoint=place)
    assert torch.equal(state(again), state(whole))
    with pytest.raises(TrainingError, match="another training"):
        run(small_net(classes=4), images, replace(ONE_STEP, ema=0.8), checkpoint=place)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan"), True])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"ema is in \[0, 1\)"):
        get_recipe("fast", ema=decay)


def test_parameters_without_decay_only_follow_their_gradient() -> None:
    """A weight that no image reaches has no gradient but the decay's: decayed it shrinks, spared it stays."""

    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 4)
            self.spared = nn.Parameter(torch.ones(3, 3))
            self.decayed = nn.Parameter(torch.ones(3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1)) + 0 * self.spared.sum() + 0 * self.decayed.sum()

    images, model = squares(), Blind()
    recipe = Recipe(epochs=1, batch_size=10_000, learning_rate=0.5, weight_decay=0.1, schedule="constant", momentum=0,
                    nesterov=False)  # fmt: skip
    train(model, images, train_indices=images.pool, evaluate={}, recipe=recipe, seed=0, undecayed=["spared"])
    assert torch.equal(model.spared, torch.ones(3, 3))
    torch.testing.assert_close(model.decayed, torch.full((3, 3), 0.95))
    assert len(weights(model)) > 18
