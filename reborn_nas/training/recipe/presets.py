"""The recipes that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reborn_nas.errors import unknown_name
from reborn_nas.training.recipe.recipe import Recipe

PAPER_EPOCHS = {"cifar10": 160, "cifar100": 160}
"""Sec. 4.3: 160 epochs on these, 80 on the rest."""

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "fast": {},
    "paper": {
        "epochs": 80,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "schedule": "step_half",
        "precision": "fp32",
        "init": "xavier",
    },
    "adamw": {
        "learning_rate": 2e-3,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "optimizer": "adamw",
        "decay_norms_and_biases": False,
        "clip_grad": 1.0,
    },
    "a3": {
        "epochs": 100,
        "learning_rate": 2e-3,
        "weight_decay": 0.02,
        "warmup": 0.05,
        "optimizer": "lamb",
        "decay_norms_and_biases": False,
        "loss": "bce",
        "loss_args": {"target_threshold": 0.2},
        "augment": {"scale": [0.08, 1.0], "aa": "rand-m6-mstd0.5-inc1", "mixup": 0.1, "cutmix": 1.0},
    },
    "finetune": {
        "epochs": 20,
        "batch_size": 64,
        "learning_rate": 3e-4,
        "weight_decay": 0.05,
        "warmup": 0.1,
        "label_smoothing": 0.1,
        "optimizer": "adamw",
        "decay_norms_and_biases": False,
        "clip_grad": 1.0,
        "augment": {"scale": [0.35, 1.0]},
    },
}
"""Name → what differs from the defaults of `Recipe`; made into one when it is asked for, as checking some imports timm.

fast: SGD, the default. paper: Cai, Huang and Peng, Sec. 4.3. adamw: ConvNeXt's (Liu et al. 2022), shortened. a3: the
short one of ResNet strikes back (Wightman et al. 2021), whose batches of 2048 and rate of 8e-3 are 128 and, by the
square root rule, 2e-3 here. finetune: of pretrained weights on some thousand photos.
"""


def recipe_names() -> tuple[str, ...]:
    """What `get_recipe` knows."""
    return tuple(RECIPES)


def get_recipe(name: str | Mapping[str, Any], *, dataset: str | None = None, **overrides: Any) -> Recipe:
    """The recipe `name` with some fields replaced; those given as None are left.

    Args:
        name: of a recipe, or a recipe as `Recipe.to_dict` writes it.
        dataset: the paper's recipe trains 160 epochs on CIFAR-10 and CIFAR-100, 80 on everything else.
        overrides: as in `Recipe.changed`.

    Raises:
        UnknownNameError: no such recipe.
        ConfigError: an unknown field or a value out of range.
    """
    if isinstance(name, Mapping):
        recipe = Recipe.from_dict(name)
    elif name in RECIPES:
        recipe = Recipe(name=name, **RECIPES[name])
    else:
        raise unknown_name("recipe", name, RECIPES, hint="or a YAML file with a recipe")
    if name == "paper" and dataset in PAPER_EPOCHS:
        recipe = replace(recipe, epochs=PAPER_EPOCHS[dataset])
    changes = {key: value for key, value in overrides.items() if value is not None}
    return recipe.changed(changes) if changes else recipe
