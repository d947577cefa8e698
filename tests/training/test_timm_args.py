"""An args.yaml against what timm's own factories make of the same arguments, and what is said of the rest."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from timm.optim import create_optimizer_v2, optimizer_kwargs  # type: ignore[attr-defined]

from reborn_nas.errors import ConfigError
from reborn_nas.training import Recipe, read_recipe
from reborn_nas.training.step.step import TrainingStep
from tests.training.test_recipe_files import ARGS, IDLE, named, written

LATER: dict[str, Any] = {
    "kd_model_name": None, "kd_distill_type": "logit", "kd_temperature": 4.0, "distill_loss_weight": None,
    "naflex_loader": False, "naflex_max_seq_len": 576, "naflex_train_seq_lens": [128, 256], "train_img_sizes": None,
    "train_size_schedule": "constant", "train_size_random_mix": 0.1, "variable_batch_loss_scale": "none",
    "layer_decay_min_scale": 0, "layer_decay_no_opt_scale": None, "model_ema_force_cpu": False,
    "torchcompile": None, "torchcompile_mode": None, "split_bn": False, "head_init_scale": None,
    "head_init_bias": None, "input_size": None,
}  # fmt: skip
"""Arguments of later versions of train.py with their defaults: the features that they belong to are off."""


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ("resnet18", {"opt": "sgd", "opt_eps": None, "momentum": 0.85}),
        ("resnet18", {"opt": "momentum", "opt_eps": None}),
        ("resnet18", {"opt": "lamb"}),
        ("resnet18", {"opt": "lars", "opt_eps": None}),
        ("resnet18", {"opt": "lookahead_rmsproptf", "opt_eps": 1e-3}),
        ("efficientnet_b0", {"opt": "rmsproptf", "opt_eps": 1e-3, "weight_decay": 1e-5}),
        ("convnext_atto", {"opt": "adamw", "opt_betas": [0.9, 0.95], "layer_decay": 0.8}),
        ("vit_tiny_patch16_224", {"opt": "lion", "opt_betas": [0.9, 0.99], "opt_eps": None, "layer_decay": 0.75}),
        ("regnetx_002", {"opt": "adamw", "opt_eps": None, "opt_kwargs": {"amsgrad": True}}),
        ("levit_128s", {"opt": "adafactorbv", "opt_eps": None}),
    ],
)  # fmt: skip
def test_parameters_are_grouped_as_by_timm(network: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Each parameter has the optimizer, the weight decay, the share of the rate and the arguments that it has there."""
    args = Namespace(**{**ARGS, **changes, "lr": 0.01})
    model = timm.create_model(network, num_classes=5)
    theirs = create_optimizer_v2(model, **optimizer_kwargs(args), **args.opt_kwargs)
    recipe, _ = read_recipe(written(tmp_path, {**changes, "lr": 0.01}))
    ours = TrainingStep(model, recipe, "fp32", torch.device("cpu")).optimiser
    assert type(ours) is type(theirs)
    expected, got = by_parameter(theirs), by_parameter(ours)
    assert got == expected
    assert len({values["weight_decay"] for values in got.values()}) == 2


def by_parameter(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """What each parameter's group has, but for how it is computed."""
    apart = {"params", "lr", "fused", "foreach", "capturable"}
    found = {}
    for group in optimizer.param_groups:
        values = {key: value for key, value in group.items() if key not in apart}
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        for parameter in group["params"]:
            found[id(parameter)] = {"lr_scale": 1.0, **values}
    return found


def test_what_a_short_file_leaves_out_is_as_in_timms_script(tmp_path: Path) -> None:
    """A file for `--config` has the changed arguments only. The defaults are those that its --help prints."""
    file = tmp_path / "mine.yaml"
    file.write_text("opt: sgd\nreprob: 0.1\nsched: cosine\nlr_cycle_limit: 2\nepochs: 10\nmodel_ema: true\n")
    recipe, _ = read_recipe(file)
    assert (recipe.weight_decay, recipe.learning_rate, recipe.batch_size) == (2e-5, 0.1 * 128 / 256, 128)
    assert (recipe.augment["remode"], recipe.ema, recipe.label_smoothing) == ("pixel", 0.9998, 0.1)
    assert recipe.schedule_args["cycle_decay"] == 0.5
    file.write_text("opt: sgd\nsched: step\n")
    assert read_recipe(file)[0].schedule_args["decay_epochs"] == 90


def test_features_that_are_off_are_no_loss(tmp_path: Path) -> None:
    file = written(tmp_path, {**LATER, "aug_repeats": 0, "train_interpolation": "bilinear"})
    _, notes = read_recipe(file)
    assert not any(note.startswith("not honoured") for note in notes)
    assert named(notes, "naflex_max_seq_len") == named(notes, "kd_temperature") == [IDLE]
    _, notes = read_recipe(written(tmp_path, {**LATER, "kd_model_name": "resnet152"}))
    assert named(notes, "kd_model_name") == named(notes, "kd_temperature") == ["not honoured"]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"split_bn": True}, "not honoured: .*split_bn=true"),
        ({"head_init_bias": -6.9}, "not honoured: .*head_init_bias=-6.9"),
        ({"layer_decay": 0.7, "layer_decay_min_scale": 0.1}, "not honoured: .*layer_decay_min_scale=0.1"),
        ({"opt": "lion", "opt_eps": 1e-6}, r"not honoured: .*opt_eps=1e-06 \(lion has none\)"),
        ({"opt": "rmsproptf", "opt_betas": [0.9, 0.99]}, r"not honoured: .*opt_betas=\S+ \S+ \(rmsproptf has none\)"),
        ({"opt_kwargs": {"fused": True}}, r"not honoured: .*opt_kwargs=.* \(fused: lamb has none here\)"),
        ({"sched": "plateau"}, r"not honoured: .*sched=plateau \(.*the rate is constant\)"),
        ({"input_size": [3, 176, 192]}, r"input_size=\[3, 176, 192\] \(--image-size 192\)"),
        ({"gp": "max"}, r"gp=max \(--model-arg global_pool=max\)"),
        ({"model_kwargs": {"width": 2}}, r"\(--model-arg width=2\)"),
        ({"model_ema": True, "model_ema_decay": 0.99}, r"until it reaches 0.99, after 890 steps"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_key(changes: dict[str, Any], note: str, tmp_path: Path) -> None:
    _, notes = read_recipe(written(tmp_path, changes))
    assert any(re.search(note, line) for line in notes), notes


def test_the_average_reaches_its_decay_when_the_note_says() -> None:
    """By the rule of `Average`: min(decay, (1 + t)/(10 + t))."""
    assert (1 + 889) / (10 + 889) < 0.99 <= (1 + 890) / (10 + 890)


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        (
            {"opt": "lars", "opt_eps": None},
            0.008 * 256 / 2048,
        ),  # by its script only ada… and lamb scale by the root
        ({"lr": 0.0}, 0.008 * (256 / 2048) ** 0.5),  # `if not args.lr`
    ],
)
def test_the_rate_that_its_script_takes(changes: dict[str, Any], rate: float, tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, changes))[0].learning_rate == pytest.approx(rate)


def test_a_rate_for_plateau_is_constant(tmp_path: Path) -> None:
    recipe, _ = read_recipe(written(tmp_path, {"sched": "plateau", "lr": 0.01}))
    assert (recipe.schedule, recipe.schedule_args, recipe.epochs) == ("constant", {}, 100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": "big"}, "batch_size is a whole number ≥ 1, not 'big'"),
        ({"epochs": None}, "epochs is a whole number ≥ 1, not None"),
        ({"momentum": None}, "momentum is a number ≥ 0, not None"),
        ({"lr": "fast"}, "lr is a number ≥ 0, or null, not 'fast'"),
        ({"lr_base_size": 0}, "lr_base_size is a number above 0, not 0"),
        ({"sched": ["cosine"]}, "sched is the name of a schedule, or null"),
        ({"aa": 3}, "aa is the name of a policy, or null, not 3"),
        ({"opt_kwargs": [1]}, "opt_kwargs is a map, or null"),
        ({"opt": 3}, "opt is the name of an optimizer, not 3"),
        ({"warmup_epochs": "five"}, "warm"),
        ({"mixup": "much"}, "mixup is a number"),
        ({"scale": 0.5}, "scale is two shares"),
        ({"clip_grad": "yes"}, "clip_grad is a number"),
        ({"model_ema": True, "model_ema_decay": 1.5}, "ema is in"),
    ],
)
def test_values_of_the_wrong_kind(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(written(tmp_path, changes))


@pytest.mark.slow
def test_whatever_stands_in_a_file_it_is_read_or_has_faults(tmp_path: Path) -> None:
    file = tmp_path / "args.yaml"
    for key in {**ARGS, **LATER}:
        for value in ("text", -1, [1, "a"], {"a": 1}, True, 1e300, float("nan"), 10**9):
            file.write_text(yaml.safe_dump({**ARGS, **LATER, "opt": "adamw", key: value}))
            try:
                recipe, _ = read_recipe(file)
            except ConfigError:
                continue
            assert isinstance(recipe, Recipe)
