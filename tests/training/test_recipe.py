"""Recipes as data, their learning rates by hand, and how an epoch is cut."""

from __future__ import annotations

import json
import math

import pytest

from reborn_nas.data import Augmentation
from reborn_nas.errors import ConfigError, UnknownNameError
from reborn_nas.training import Recipe, batch_sizes, get_recipe, learning_rates, recipe_names


def test_the_paper_recipe_is_section_4_3() -> None:
    recipe = get_recipe("paper")
    assert recipe.batch_size == 64
    assert recipe.momentum == 0.9
    assert recipe.weight_decay == 5e-4
    assert not recipe.nesterov
    assert recipe.init == "xavier"
    assert recipe.label_smoothing == 0
    assert {
        name: get_recipe("paper", dataset=name).epochs for name in ("cifar10", "cifar100", "svhn", "mnist")
    } == {
        "cifar10": 160,
        "cifar100": 160,
        "svhn": 80,
        "mnist": 80,
    }


@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
def test_the_papers_learning_rate_epoch_by_epoch(dataset: str) -> None:
    recipe = get_recipe("paper", dataset=dataset)
    rates = learning_rates(recipe, 3)
    half = recipe.epochs // 2
    assert len(rates) == 3 * recipe.epochs
    assert rates == pytest.approx([0.001] * 3 * half + [0.0001] * 3 * half, rel=1e-7)


def test_of_an_odd_number_of_epochs_the_middle_one_is_of_the_first_half() -> None:
    rates = learning_rates(get_recipe("paper", epochs=3), 2)
    assert rates == pytest.approx([1e-3] * 4 + [1e-4] * 2, rel=1e-7)


def test_the_fast_recipe() -> None:
    recipe = get_recipe("fast")
    assert (recipe.epochs, recipe.nesterov, recipe.schedule, recipe.label_smoothing) == (
        30,
        True,
        "one_cycle",
        0,
    )
    assert (recipe.precision, recipe.channels_last) == ("auto", True)
    assert recipe_names() == ("fast", "paper", "adamw", "a3", "finetune")


def test_one_cycle_by_hand() -> None:
    rates = learning_rates(Recipe(epochs=2, learning_rate=1.0, warmup=0.2), 5)
    # the middles of the ten steps lie at .05, .15, … .95; up to .2 it rises, then half a cosine
    rise = [0.05 / 0.2, 0.15 / 0.2]
    fall = [
        (1 + math.cos(math.pi * (t - 0.2) / 0.8)) / 2
        for t in (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
    ]
    assert rates == pytest.approx(rise + fall, abs=1e-6)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_one_cycle_at_the_ends_of_warmup(warmup: float) -> None:
    rates = learning_rates(Recipe(epochs=3, learning_rate=0.5, warmup=warmup), 7)
    assert rates == sorted(rates, reverse=warmup == 0)
    assert all(0 < rate <= 0.5 for rate in rates)


def test_a_constant_rate() -> None:
    assert learning_rates(Recipe(epochs=2, schedule="constant", learning_rate=0.25), 2) == [0.25] * 4


@pytest.mark.parametrize(
    ("images", "batch", "sizes"),
    [
        (717, 64, [64] * 11),  # 13 left over, under a quarter of 64
        (80, 64, [64, 16]),
        (79, 64, [64]),
        (64, 64, [64]),
        (40, 64, [40]),
        (1, 64, [1]),
        (5, 1, [1] * 5),
        (5, 4, [4]),  # one image alone has no batch statistics
        (0, 4, []),
    ],
)
def test_how_an_epoch_is_cut(images: int, batch: int, sizes: list[int]) -> None:
    assert batch_sizes(images, batch) == sizes


def test_json_restores_a_recipe() -> None:
    for name in recipe_names():
        recipe = get_recipe(name, epochs=7, flip=False)
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_overrides_given_as_none_are_left() -> None:
    assert get_recipe("fast", epochs=None, batch_size=32) == get_recipe("fast", batch_size=32)
    assert get_recipe("fast", batch_size=32).batch_size == 32


def test_augmentation_overrides() -> None:
    own = Augmentation(4, True)
    assert Recipe().augmentation(own) == own
    assert Recipe(crop_padding=0, flip=False).augmentation(own) == Augmentation(0, False)
    assert Recipe(flip=False).augmentation(own) == Augmentation(4, False)


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe(epochs=-1, batch_size=0, learning_rate=0.0, schedule="zigzag")
    assert len(caught.value.faults) == 4
    assert "recipe.epochs is a whole number in [0, 100,000], not -1" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 2.5),
        ("epochs", True),
        ("batch_size", "64"),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("label_smoothing", 1.0),
        ("precision", "fp8"),
        ("init", "he"),
        ("warmup", 1.1),
        ("crop_padding", -1),
        ("flip", "yes"),
        ("nesterov", 1),
        ("channels_last", None),
    ],
)
def test_bad_values_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"recipe\.{field} is"):
        Recipe(**{field: value})  # type: ignore[arg-type]


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ConfigError, match="nesterov needs momentum"):
        Recipe(momentum=0.0)


def test_unknown_recipes_and_fields_are_told() -> None:
    with pytest.raises(UnknownNameError, match="did you mean paper"):
        get_recipe("papers")
    with pytest.raises(ConfigError, match="unknown keys lr"):
        get_recipe("fast", lr=0.1)
