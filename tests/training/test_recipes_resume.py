"""Trainings with mixing, augmentations, soft losses, timm's schedules and layer decay: resumed, captured, refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import nn

import reborn_nas as rn
from reborn_nas.data import NO_AUGMENTATION, ImageSet, plan_parts, split
from reborn_nas.data.images import assemble
from reborn_nas.errors import TrainingError
from reborn_nas.training import (
    FileCheckpoint,
    Recipe,
    TrainingResult,
    batch_sizes,
    draw_weights,
    loop,
    train,
)
from reborn_nas.training.step.step import TrainingStep
from tests.training.test_optimisers import resumed
from tests.training.test_recorded import Recording
from tests.training.toys import small_net, squares

EVERYTHING: dict[str, Any] = {
    "scale": [0.5, 1.0], "hflip": 0.3, "vflip": 0.1, "aa": "rand-m6-mstd0.5-inc1", "color_jitter": 0.2, "reprob": 0.3,
    "remode": "pixel", "mixup": 0.4, "cutmix": 1.0, "mixup_mode": "elem", "mixup_off_epoch": 3,
}  # fmt: skip
RECIPES = {
    "everything": {"augment": EVERYTHING, "loss": "bce", "loss_args": {"target_threshold": 0.2}},
    "torchvision": {"augment": {"aa": "trivialaugment", "color_jitter": [0.1, 0.1, 0.1, 0.1]}, "ema": 0.9},
    "batch": {"augment": {"mixup": 0.2, "cutmix": 1.0}, "label_smoothing": 0.1},
    "pair": {
        "augment": {"cutmix": 1.0, "mixup_mode": "pair", "cutmix_minmax": [0.2, 0.8]},
        "optimizer": "lamb",
    },
    "weights": {"class_weights": "balanced", "schedule": "cosine", "schedule_args": {"warmup_epochs": 1}},
    "by step": {"schedule": "cosine", "schedule_args": {"step_on_epochs": False, "cooldown_epochs": 1}},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_stopped_training_goes_on_to_the_same_bits(name: str) -> None:
    resumed(Recipe(epochs=4, batch_size=40, learning_rate=0.01, **RECIPES[name]))


AT_ONCE = Recipe(
    epochs=4, batch_size=32, learning_rate=0.01, optimizer="lookahead_adan", optimizer_args={"caution": True},
    weight_decay=0.05, decay_norms_and_biases=False, layer_decay=0.8, clip_grad=0.5, ema=0.9, label_smoothing=0.1,
    loss="bce", loss_args={"target_threshold": 0.2, "sum": True}, augment=EVERYTHING, schedule="cosine",
    schedule_args={"warmup_epochs": 1, "noise": [0.4, 0.9], "noise_std": 0.2, "step_on_epochs": False},
)  # fmt: skip


class Killed(BaseException):
    """As a signal: nothing of ours catches it."""


def everything(checkpoint: FileCheckpoint | None = None, **more: Any) -> tuple[nn.Module, TrainingResult]:
    """A training by `AT_ONCE`, with dropout, drop path and another metric than the accuracy."""
    network = timm.create_model(
        "resnet10t", num_classes=3, drop_rate=0.2, drop_path_rate=0.2, channels=(8, 8, 8, 8), stem_width=8,
        stem_type="", zero_init_last=False,
    )  # fmt: skip
    draw_weights(network, "kaiming", 3)
    return network, trained(AT_ONCE, colours(), network, checkpoint=checkpoint, metric="macro_f1", **more)


@pytest.fixture(scope="module")
def unbroken() -> tuple[nn.Module, TrainingResult]:
    return everything()


@pytest.mark.parametrize("batches", [None, 2])
def test_all_of_it_at_once_goes_on_to_the_same_bits(
    batches: int | None,
    unbroken: tuple[nn.Module, TrainingResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after the second epoch, or after two batches of the third one."""
    whole, told = unbroken
    step, steps = TrainingStep.__call__, 0

    def counted(self: TrainingStep, *batch: Any) -> None:
        nonlocal steps
        steps += 1
        if batches is not None and steps > 2 * per_epoch + batches:
            raise Killed
        step(self, *batch)

    def ended(epoch: int, metrics: object) -> None:
        if batches is None and epoch == 2:
            raise Killed

    per_epoch = len(batch_sizes(len(split(colours(), block=0, seed=0).train), AT_ONCE.batch_size))
    monkeypatch.setattr(TrainingStep, "__call__", counted)
    with pytest.raises(Killed):
        everything(FileCheckpoint(tmp_path / "state"), on_epoch=ended)
    monkeypatch.undo()
    torch.manual_seed(99)  # another process has other generators
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    again, same = everything(FileCheckpoint(tmp_path / "state"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    without = [{k: v for k, v in row.items() if k != "seconds"} for row in told.curve]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in same.curve] == without
    assert (same.value, same.error, same.correct) == (told.value, told.error, told.correct)
    assert len({row["train_loss"] for row in told.curve}) == 4


def colours(count: int = 120, side: int = 32) -> ImageSet:
    """RGB noise; the brightest channel is the class."""
    draws = torch.Generator().manual_seed(7)
    pixels = torch.randint(0, 150, (count, 3, side, side), generator=draws, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    pixels[torch.arange(count), labels] += 60
    parts = plan_parts(labels, "abc", name="colours", train=torch.arange(count))
    return assemble("colours", lambda kept: pixels[kept], labels, "abc", parts, NO_AUGMENTATION)


def trained(
    recipe: Recipe, images: ImageSet | None = None, model: nn.Module | None = None, **more: Any
) -> TrainingResult:
    images = images or squares()
    own = split(images, block=0, seed=0)
    net = model or small_net(classes=images.num_classes)
    parts = {"validation": own.validation}
    return train(net, images, train_indices=own.train, evaluate=parts, recipe=recipe, seed=1, **more)


@pytest.mark.parametrize("name", ["everything", "batch", "weights", "by step", "layers"])
def test_the_step_is_captured_as_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is random comes ahead of the step: a recorded step, which runs none of our code, trains the same network."""

    def step(*arguments: Any, **named: Any) -> TrainingStep:
        return TrainingStep(*arguments, tensor_rate=True, **named)

    monkeypatch.setattr(loop, "TrainingStep", step)
    recipe = Recipe(epochs=3, batch_size=40, learning_rate=0.01, **RECIPES.get(name, {"layer_decay": 0.5}))
    recorder = Recording()
    one, other = layered(), layered()
    assert trained(recipe, model=one, recorder=recorder).form == "cuda-graph"
    assert recorder.replays > 0
    trained(recipe, model=other)
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def layered() -> nn.Module:
    """With a `group_matcher`, as timm's networks have."""
    net: Any = small_net(classes=4)
    net.group_matcher = lambda coarse=False: {"stem": r"^0", "blocks": r"^(\d+)"}
    return net  # type: ignore[no-any-return]


def test_an_optimizer_that_cannot_be_captured_trains_eagerly_with_the_reason() -> None:
    result = trained(Recipe(epochs=1, batch_size=40, **RECIPES["pair"]), recorder=Recording())
    assert result.form == "eager (no CUDA graph: optimizer lamb reads the device or keeps state in Python)"


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_layer_decay_is_timms(name: str, held: bool) -> None:
    """Two steps, the rates in Python or in a tensor as on a GPU, against timm's own groups."""
    ours, theirs = layered().train(), layered().train()
    recipe = Recipe(
        optimizer=name,
        layer_decay=0.5,
        decay_norms_and_biases=False,
        weight_decay=0.1,
        momentum=0.9,
        learning_rate=0.1,
    )
    step = TrainingStep(ours, recipe, "fp32", torch.device("cpu"), tensor_rate=held)
    step.follow([0.1, 0.05])
    optimizer = create_optimizer_v2(
        theirs, opt=name, lr=0.1, weight_decay=0.1, momentum=0.9, layer_decay=0.5, fused=True
    )
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert len(scales) > 3
    for rate in (0.1, 0.05):
        images, labels = torch.randn(8, 1, 8, 8), torch.randint(4, (8,))
        step(images, labels)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(images), labels).backward()
        optimizer.step()
    for (path, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=path)


def test_a_layer_decay_resumes_and_a_blocks_own_weights_have_its_rate() -> None:
    net = rn.convert(timm.create_model("resnet10t", num_classes=4), "reborn", (3, 32, 32), seed=0)
    step = TrainingStep(net, Recipe(layer_decay=0.5), "fp32", torch.device("cpu"))
    scales = {id(p): group["lr_scale"] for group in step.optimiser.param_groups for p in group["params"]}
    named = dict(net.named_parameters())
    block = {path: scales[id(p)] for path, p in named.items() if path.startswith("layer2.0.")}
    assert any("deconv" in path for path in block)
    assert len(set(block.values())) == 1
    assert scales[id(named["fc.weight"])] == 1


def test_a_network_without_named_layers_has_no_layer_decay() -> None:
    with pytest.raises(TrainingError, match="no group_matcher"):
        trained(Recipe(epochs=1, batch_size=40, layer_decay=0.5))


def test_drop_path() -> None:
    """The network's own, which survives the conversion."""
    net = timm.create_model("resnet10t", num_classes=4, in_chans=1, drop_path_rate=0.5, zero_init_last=False)
    converted = rn.convert(net, "reborn", (1, 32, 32), seed=0).train()
    assert sum(type(module).__name__ == "DropPath" for module in converted.modules()) >= 3
    image = torch.randn(16, 1, 32, 32)
    assert not torch.equal(converted(image), converted(image))
    converted.eval()
    assert torch.equal(converted(image), converted(image))


def of(channels: int, classes: str) -> ImageSet:
    pixels = torch.randint(
        256, (80, channels, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(80) % len(classes)
    parts = plan_parts(labels, classes, name="made", train=torch.arange(80))
    return assemble("made", lambda kept: pixels[kept], labels, classes, parts, squares().augmentation)


@pytest.mark.parametrize(
    ("settings", "channels", "message"),
    [
        ({"augment": {"aa": "randaugment"}}, 2, "these have 2 channels"),
        ({"class_weights": [1.0, 2.0, 3.0]}, 1, "3 weights for 4 classes"),
        (
            {"loss": "bce", "loss_args": {"target_threshold": 0.02}, "label_smoothing": 0.1},
            1,
            "all classes would be right",
        ),
    ],
)
def test_what_the_images_show(settings: dict[str, Any], channels: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        trained(Recipe(epochs=1, batch_size=20, **settings), of(channels, "abcd"), small_net(channels, 4))


def test_mixing_needs_two_classes() -> None:
    from dataclasses import replace

    from reborn_nas.training.suits import check_recipe

    with pytest.raises(TrainingError, match="there is one"):
        check_recipe(Recipe(augment={"mixup": 0.2}), replace(squares(), classes=("a",)), small_net())
