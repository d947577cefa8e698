"""Optimizers of timm's: against plain loops, with checkpoints, and their mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[attr-defined]
from torch import nn

from reborn_nas.data import split
from reborn_nas.errors import ConfigError, TrainingError
from reborn_nas.training import Recipe, train
from reborn_nas.training.optimisers import optimiser_faults
from reborn_nas.training.recipe.presets import get_recipe
from reborn_nas.training.recipe.recipe import learning_rates
from reborn_nas.training.step.step import TrainingStep
from tests.training.toys import Kept, small_net, squares

CPU = torch.device("cpu")


def run(model: nn.Module, recipe: Recipe, kept: Kept | None = None, **more: Any) -> torch.Tensor:
    images = squares()
    own = split(images, block=0, seed=0)
    train(
        model,
        images,
        train_indices=own.train,
        evaluate={"validation": own.validation},
        recipe=recipe,
        seed=1,
        checkpoint=kept,
        **more,
    )
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


class Stops(Exception):
    """Raised in the middle of a training."""


def stop(epoch: int, metrics: object) -> None:
    if epoch == 2:
        raise Stops


def resumed(recipe: Recipe) -> None:
    """A training that is broken off after two epochs ends like one that is not, to the bit."""
    whole = run(small_net(classes=4), recipe)
    kept = Kept()
    with pytest.raises(Stops):
        run(small_net(classes=4), recipe, kept, on_epoch=stop)
    assert torch.equal(run(small_net(classes=4, seed=5), recipe, kept), whole)


@pytest.mark.parametrize(
    "name",
    ["sgd", "adam", "adamw", "lion", "rmsproptf", "madgradw", "adabelief", "muon", "lamb", "lookahead_adamw"],
)
def test_a_stopped_training_goes_on_to_the_same_bits(name: str) -> None:
    resumed(Recipe(epochs=4, batch_size=40, learning_rate=1e-3, optimizer=name, clip_grad=1.0, ema=0.9))


@pytest.mark.slow
def test_every_optimizer_that_can_be_made_here_goes_on_to_the_same_bits() -> None:
    slow = {"kron", "kronc", "kronw"}  # they compile for minutes
    names = [name for name in list_optimizers() if name not in slow and not optimiser_faults(name, {})]
    assert len(names) > 70
    for name in names:
        resumed(Recipe(epochs=4, batch_size=40, learning_rate=1e-3, optimizer=name))


def test_adamw_equals_a_plain_loop() -> None:
    """Clipped, without decay on norms and biases, its rates those of the schedule."""
    recipe = get_recipe("adamw", epochs=2, batch_size=32, clip_grad=0.5)
    batches = [(torch.randn(32, 1, 8, 8), torch.randint(4, (32,))) for _ in range(6)]
    rates = learning_rates(recipe, steps=3)
    ours, theirs = small_net(classes=4).train(), small_net(classes=4).train()
    step = TrainingStep(ours, recipe, "fp32", CPU)
    step.follow(rates)
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    plain = [p for p in theirs.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], foreach=False
    )
    for (images, labels), rate in zip(batches, rates, strict=True):
        step(images, labels)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(theirs(images), labels, label_smoothing=0.1).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_another_optimizer_is_the_one_of_timm() -> None:
    recipe = Recipe(batch_size=32, optimizer="lion", weight_decay=0.01, optimizer_args={"betas": [0.8, 0.95]})
    images, labels = torch.randn(32, 1, 8, 8), torch.randint(4, (32,))
    ours, theirs = small_net(classes=4).train(), small_net(classes=4).train()
    step = TrainingStep(ours, recipe, "fp32", CPU)
    step.follow([0.01])
    step(images, labels)
    optimizer = create_optimizer_v2(
        list(theirs.parameters()), opt="lion", lr=0.01, weight_decay=0.01, betas=[0.8, 0.95]
    )
    F.cross_entropy(theirs(images), labels).backward()
    optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_clipped_gradients_with_loss_scaling() -> None:
    """The step with scaled gradients and the one without move the weights alike."""
    images, labels = torch.randn(32, 1, 8, 8), torch.randint(4, (32,))
    ends = []
    for precision in ("fp32", "fp16"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        step = TrainingStep(net, Recipe(clip_grad=0.01, weight_decay=0.0), "fp32", CPU)
        step.follow([1.0])
        if precision == "fp16":
            from reborn_nas.training.step.step import LossScaler

            step.scaler = LossScaler(CPU, 0.01)
        before = net[1].weight.detach().clone()
        step(images, labels)
        ends.append(net[1].weight.detach() - before)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-7)
    moved = float(ends[0].norm())
    assert 0.5 * 0.019 < moved <= 0.0191  # 0.01 by the gradient and 0.9 of it by Nesterov's momentum


def test_a_recipe_without_new_fields_is_what_it_was() -> None:
    assert list(Recipe().to_dict()) == [
        "name", "epochs", "batch_size", "learning_rate", "momentum", "nesterov", "weight_decay", "schedule", "warmup",
        "label_smoothing", "precision", "channels_last", "init", "crop_padding", "flip",
    ]  # fmt: skip
    for name in ("fast", "paper", "adamw"):
        recipe = get_recipe(name)
        assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"optimizer": "adamX"}, "did you mean adam"),
        ({"optimizer": "adahessian"}, "second derivatives"),
        ({"optimizer": "bnbadam"}, "bnbadam cannot be made|needs a package"),
        (
            {"optimizer": "lion", "optimizer_args": {"betaz": 1}},
            "unknown argument of lion 'betaz'; did you mean betas",
        ),
        # what timm itself passes over, and what only a step refuses
        ({"optimizer": "lion", "optimizer_args": {"eps": 1e-6}}, "unknown argument of lion 'eps'"),
        ({"optimizer": "rmsproptf", "optimizer_args": {"betas": [0.9, 0.99]}}, "of rmsproptf 'betas'"),
        ({"optimizer": "adamw", "optimizer_args": {"layer_decay": 0.5}}, "of adamw 'layer_decay'"),
        ({"optimizer": "adamw", "optimizer_args": {"betas": [0.9]}}, "adamw cannot be made with"),
        ({"optimizer": "adopt", "optimizer_args": {"clip_exp": "x"}}, "adopt cannot be made with"),
        ({"optimizer": "lookahead_adamx"}, "did you mean adamax"),
        ({"optimizer": "lion", "optimizer_args": {"lr": 1}}, "the recipe sets by itself"),
        ({"optimizer_args": {"betas": 1}}, "sgd takes none, not betas"),
        ({"optimizer_args": 3}, "is a map"),
        ({"ema": 1.5}, r"in \[0, 1\), not 1.5"),
        ({"clip_grad": 0}, "above 0, or null"),
        ({"decay_norms_and_biases": 1}, "true or false"),
    ],
)
def test_mistakes(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Recipe(**fields)


def test_fp16_needs_an_optimizer_that_skips_steps() -> None:
    with pytest.raises(TrainingError, match="lion cannot skip a step"):
        TrainingStep(small_net(classes=4), Recipe(optimizer="lion"), "fp16", CPU)
