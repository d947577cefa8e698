"""Recipes in YAML files: our own, and the `args.yaml` that timm's `train.py` writes beside a training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reborn_nas.documents import read_yaml, yaml_fault
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.training.recipe.presets import RECIPES, get_recipe
from reborn_nas.training.recipe.recipe import Recipe
from reborn_nas.training.recipe.timm_args import is_timms, read_args

BASE = "base"
"""Key of a file: the recipe whose values hold for what it leaves out."""


def is_file(name: object) -> bool:
    """Whether a recipe's name is that of a file."""
    return isinstance(name, str) and name.lower().endswith((".yaml", ".yml"))


def read_recipe(path: str | Path) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe in a file, called by the file's name, and messages for the user.

    A file of ours has the fields of `Recipe`, and `base`, whose values hold for the others ("fast").

    Raises:
        ConfigError: there is no such file, or its recipe has faults.
    """
    file = Path(path)
    data = _read(file)
    name = data.get("name") or (file.parent.name if file.stem == "args" and file.parent.name else file.stem)
    try:
        if is_timms(data):
            return read_args(data, str(name))
        return from_settings({**data, "name": name}), ()
    except ConfigError as error:
        raise ConfigError(f"recipe file {file} has faults:", error.faults or [str(error)]) from None


def from_settings(data: Mapping[str, Any]) -> Recipe:
    """A recipe from its fields and `base`; what is null is none, whatever the base has. Raises ConfigError."""
    base = data.get(BASE, "fast")
    if base not in RECIPES:
        raise ConfigError(f"{BASE}: {unknown_name('recipe', str(base), RECIPES)}")
    changes = {"name": "custom", **{key: value for key, value in data.items() if key != BASE}}
    recipe = get_recipe(base)
    if none := [key for key, value in changes.items() if value is None]:
        recipe = Recipe.from_dict({**recipe.to_dict(), **dict.fromkeys(none)})
    return recipe.changed(changes)


def _read(file: Path) -> dict[str, Any]:
    try:
        data = read_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"recipe file {file} does not exist; recipes by name: {', '.join(RECIPES)}"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"recipe file {file}, {yaml_fault(error)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"recipe file {file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"recipe file {file} is a mapping of settings, such as learning_rate: 0.05")
    return {key: _number(value) for key, value in data.items()}


def _number(value: Any) -> Any:
    """`5e-4`, which YAML 1.1 reads as text."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    if isinstance(value, list):
        return [_number(one) for one in value]
    return {key: _number(one) for key, one in value.items()} if isinstance(value, Mapping) else value
