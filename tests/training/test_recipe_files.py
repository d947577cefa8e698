"""Recipes from YAML files: ours, and timm's args.yaml, whose keys are all honoured or named."""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from timm.optim import optimizer_kwargs  # type: ignore[attr-defined]
from timm.scheduler import create_scheduler_v2, scheduler_kwargs  # type: ignore[attr-defined]

from reborn_nas.errors import ConfigError
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.training import get_recipe, learning_rates, read_recipe

ARGS: dict[str, Any] = {
    "aa": "rand-m6-mstd0.5-inc1", "amp": True, "amp_dtype": "bfloat16", "amp_impl": "native", "aug_repeats": 3,
    "aug_splits": 0, "batch_size": 256, "bce_loss": True, "bce_pos_weight": None, "bce_sum": False,
    "bce_target_thresh": 0.2, "bn_eps": None, "bn_momentum": None, "channels_last": True, "checkpoint_hist": 10,
    "class_map": "", "clip_grad": 1.5, "clip_mode": "norm", "color_jitter": 0.4, "color_jitter_prob": None,
    "cooldown_epochs": 10, "crop_pct": 0.95, "cutmix": 1.0, "cutmix_minmax": None, "data": "/data/imagenet",
    "data_dir": None, "dataset": "", "decay_epochs": 90, "decay_milestones": [90, 180, 270], "decay_rate": 0.1,
    "device": "cuda", "dist_bn": "reduce", "drop": 0.1, "drop_block": None, "drop_path": 0.05, "epoch_repeats": 0.0,
    "epochs": 100, "experiment": "", "gaussian_blur_prob": None, "gp": None, "grad_accum_steps": 1,
    "grad_checkpointing": False, "grayscale_prob": None, "hflip": 0.5, "img_size": 160, "in_chans": None,
    "initial_checkpoint": "", "interpolation": "bicubic", "jsd_loss": False, "layer_decay": None, "log_interval": 50,
    "lr": None, "lr_base": 0.008, "lr_base_scale": "", "lr_base_size": 2048, "lr_cycle_decay": 0.5, "lr_cycle_limit": 1,
    "lr_cycle_mul": 1.0, "lr_k_decay": 1.0, "lr_noise": None, "lr_noise_pct": 0.67, "lr_noise_std": 1.0, "mean": None,
    "min_lr": 1e-6, "mixup": 0.1, "mixup_mode": "batch", "mixup_off_epoch": 0, "mixup_prob": 1.0,
    "mixup_switch_prob": 0.5, "model": "resnet50", "model_ema": False, "model_ema_decay": 0.9998,
    "model_ema_warmup": False, "model_kwargs": {}, "momentum": 0.9, "no_aug": False, "opt": "lamb", "opt_betas": None,
    "opt_eps": 1e-6, "opt_kwargs": {}, "output": "", "patience_epochs": 10, "pretrained": False, "ratio": [0.75, 1.33],
    "recount": 1, "remode": "pixel", "reprob": 0.0, "resplit": False, "scale": [0.08, 1.0], "sched": "cosine",
    "sched_on_updates": False, "seed": 42, "smoothing": 0.0, "start_epoch": None, "std": None,
    "train_interpolation": "random", "vflip": 0.0, "warmup_epochs": 5, "warmup_lr": 1e-4, "warmup_prefix": False,
    "weight_decay": 0.02, "workers": 8,
}  # fmt: skip


def written(folder: Path, changes: dict[str, Any] | None = None, name: str = "args.yaml") -> Path:
    file = folder / name
    file.write_text(yaml.safe_dump({**ARGS, **(changes or {})}))
    return file


def test_every_key_is_named_once_with_its_value(tmp_path: Path) -> None:
    _, notes = read_recipe(written(tmp_path))
    text = " ".join(notes)
    for key in ARGS:
        assert len(re.findall(rf"(?<![\w]){key}=", text)) == 1, key
    lines = dict(note.split(": ", 1) for note in notes if ": " in note)
    assert lines["not honoured"] == "aug_repeats=3, train_interpolation=random (bilinear here)"
    assert "drop_path=0.05 (--model-arg drop_path_rate=0.05)" in lines["of the study, not of its recipe"]
    assert "model=resnet50 (--backbone resnet50)" in lines["of the study, not of its recipe"]
    assert "color_jitter=0.4" in lines["without effect beside the others"]
    assert "decay_rate=0.1" in lines["without effect beside the others"]
    assert "mixup=0.1" in lines["taken"]
    assert "crop_pct=0.95" in lines["loading, evaluation and bookkeeping, which a study does in its own way"]


def test_a_key_of_a_later_timm_is_named(tmp_path: Path) -> None:
    _, notes = read_recipe(written(tmp_path, {"new_thing": 7}))
    assert any(note.startswith("not honoured: ") and "new_thing=7" in note for note in notes)


def test_an_args_yaml_as_a_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "20260101-resnet50-160"
    folder.mkdir()
    recipe, _ = read_recipe(written(folder))
    assert recipe.name == "20260101-resnet50-160"
    assert (recipe.optimizer, recipe.optimizer_args, recipe.clip_grad) == ("lamb", {"eps": 1e-6}, 1.5)
    # lamb scales by the root: .008 · √(256 / 2048)
    assert recipe.learning_rate == pytest.approx(0.008 * (256 / 2048) ** 0.5)
    assert (recipe.loss, recipe.loss_args) == ("bce", {"target_threshold": 0.2})
    assert recipe.augment == {
        "hflip": 0.5, "scale": [0.08, 1.0], "ratio": [0.75, 1.33], "aa": "rand-m6-mstd0.5-inc1", "mixup": 0.1,
        "cutmix": 1.0, "mixup_prob": 1.0, "mixup_switch_prob": 0.5, "mixup_mode": "batch", "mixup_off_epoch": 0,
    }  # fmt: skip
    assert recipe.epochs == 110  # the cooldown is trained too
    assert recipe.decay_norms_and_biases is False


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"warmup_prefix": True, "cooldown_epochs": 0, "sched_on_updates": True},
        {"sched": "step", "decay_epochs": 30, "cooldown_epochs": 0},
        {"sched": "multistep", "decay_milestones": [20, 60], "warmup_epochs": 0},
        {"sched": "poly", "decay_rate": 0.9, "lr_noise": [0.4, 0.9]},
        {"sched": "tanh", "lr_cycle_limit": 2, "epochs": 30},
        {"sched": "constant"},
        {"sched": "none"},
    ],
)
def test_the_rates_are_those_of_timms_loop(changes: dict[str, Any], tmp_path: Path) -> None:
    args = Namespace(**{**ARGS, **changes, "lr": 0.01})
    recipe, _ = read_recipe(written(tmp_path, {**changes, "lr": 0.01}))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler, total = create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=3)
    assert recipe.epochs == total
    expected, updates = [], 0
    for epoch in range(total):
        for _ in range(3):
            expected.append(float(np.float32(optimizer.param_groups[0]["lr"])))
            updates += 1
            if scheduler is not None:
                scheduler.step_update(updates)
        if scheduler is not None:
            scheduler.step(epoch + 1)
    assert learning_rates(recipe, 3) == expected


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({"lr": 0.3}, 0.3),
        ({"opt": "sgd", "opt_eps": None}, 0.008 * 256 / 2048),
        ({"opt": "adamw"}, 0.008 * (256 / 2048) ** 0.5),
        ({"lr_base_scale": "linear"}, 0.008 * 256 / 2048),
        ({"grad_accum_steps": 4}, 0.008 * (1024 / 2048) ** 0.5),
    ],
)
def test_the_learning_rate_that_timm_would_take(changes: dict[str, Any], rate: float, tmp_path: Path) -> None:
    recipe, _ = read_recipe(written(tmp_path, changes))
    assert recipe.learning_rate == pytest.approx(rate)
    assert recipe.batch_size == 256 * changes.get("grad_accum_steps", 1)
    own = optimizer_kwargs(Namespace(**{**ARGS, **changes}))
    assert (recipe.optimizer, recipe.weight_decay) == (own["opt"], own["weight_decay"])


def test_other_settings_of_an_args_yaml(tmp_path: Path) -> None:
    changes = {
        "aa": None, "mixup": 0.0, "cutmix": 0.0, "reprob": 0.25, "model_ema": True, "opt": "sgd", "smoothing": 0.1,
        "bce_loss": False, "amp": False, "clip_mode": "agc", "layer_decay": 0.7, "opt_eps": 1e-6,
    }  # fmt: skip
    recipe, notes = read_recipe(written(tmp_path, changes))
    assert recipe.augment == {
        "hflip": 0.5, "scale": [0.08, 1.0], "ratio": [0.75, 1.33], "color_jitter": 0.4, "reprob": 0.25,
        "remode": "pixel", "recount": 1,
    }  # fmt: skip
    assert (recipe.ema, recipe.precision, recipe.label_smoothing, recipe.layer_decay) == (
        0.9998,
        "fp32",
        0.1,
        0.7,
    )
    assert (recipe.loss, recipe.clip_grad, recipe.nesterov) == ("cross_entropy", None, True)
    left = next(note for note in notes if note.startswith("not honoured"))
    assert "clip_grad=1.5 (clip_mode agc" in left
    assert "opt_eps=1e-06 (sgd has none)" in left
    plain, _ = read_recipe(written(tmp_path, {"no_aug": True, "mixup": 0.0, "cutmix": 0.0}))
    assert (plain.augment, plain.flip, plain.crop_padding) == ({}, False, 0)


IDLE = "without effect beside the others"


def named(notes: tuple[str, ...], key: str) -> list[str]:
    """The lists that name a key."""
    return [note.partition(":")[0] for note in notes if f" {key}=" in note]


def test_no_aug_leaves_the_mixing(tmp_path: Path) -> None:
    """`train.py` hands it to the loader alone, and mixes all the same."""
    recipe, notes = read_recipe(
        written(tmp_path, {"no_aug": True, "reprob": 0.25, "train_crop_mode": "rkrc"})
    )
    assert (recipe.augment["mixup"], recipe.augment["cutmix"], recipe.flip) == (0.1, 1.0, False)
    assert not recipe.augment.keys() & {"scale", "hflip", "aa", "reprob", "color_jitter"}
    assert named(notes, "mixup") == ["taken"]
    for key in ("scale", "aa", "reprob", "remode", "train_crop_mode"):
        assert named(notes, key) == [IDLE]


@pytest.mark.parametrize(
    ("changes", "loss", "key", "where"),
    [
        ({}, "bce", "bce_loss", "taken"),
        ({"smoothing": 0.0}, "bce", "bce_loss", "taken"),  # mixed
        ({"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.1}, "bce", "bce_loss", "taken"),
        ({"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}, "cross_entropy", "bce_loss", "not honoured"),
        ({"bce_pos_weight": 2.0}, "bce", "bce_pos_weight", "not honoured"),
        ({"bce_loss": False, "bce_pos_weight": 2.0}, "cross_entropy", "bce_pos_weight", IDLE),
        ({"model_ema": True, "model_ema_warmup": True}, "bce", "model_ema_warmup", "not honoured"),
    ],
)  # fmt: skip
def test_the_loss_that_train_py_would_take(
    changes: dict[str, Any], loss: str, key: str, where: str, tmp_path: Path
) -> None:
    recipe, notes = read_recipe(written(tmp_path, changes))
    assert recipe.loss == loss
    assert named(notes, key) == [where]


def test_sgd_without_momentum(tmp_path: Path) -> None:
    recipe, _ = read_recipe(written(tmp_path, {"opt": "sgd", "momentum": 0.0}))
    assert (recipe.optimizer, recipe.momentum, recipe.nesterov) == ("sgd", 0.0, False)


def test_a_file_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: adamw\nlearning_rate: 0.001\naugment: {mixup: 0.2}\n")
    recipe, notes = read_recipe(file)
    assert recipe == replace(get_recipe("adamw", learning_rate=0.001, augment={"mixup": 0.2}), name="mine")
    assert notes == ()
    file.write_text("learning_rate: 1e-2\nname: other\n")
    recipe, _ = read_recipe(file)
    assert recipe == replace(get_recipe("fast", learning_rate=0.01), name="other")


def test_null_is_none_and_not_what_the_base_has(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: adamw\nclip_grad: null\nname: null\n")
    recipe, _ = read_recipe(file)
    assert get_recipe("adamw").clip_grad == 1.0
    assert recipe == replace(get_recipe("adamw"), clip_grad=None, name="mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: null", r"epochs is a whole number in \[0, 100,000\], not None"),
        ("base: a3\naugment: null", "augment is a map"),
        ("learning_rat: 0.1", "did you mean learning_rate"),
        ("base: adam", "did you mean adamw"),
        ("augment: {mixpu: 1}\nema: 1.5", r"ema is in \[0, 1\)(.|\n)*did you mean mixup"),
        ("- 1", "is a mapping of settings"),
        ("a: [", "line"),
        ("optimizer: adamww", "did you mean adamw"),
        ("optimizer: adamw\noptimizer_args: {beta: 1}", "did you mean betas"),
        ("opt: adamw\nsched: cosin", "did you mean cosine"),
        ("opt: adamww\nsched: cosine", "did you mean adamw"),
    ],
)
def test_a_file_with_faults(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; recipes by name: fast"):
        read_recipe(tmp_path / "none.yaml")


def test_a_study_keeps_the_recipe_not_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, {"lr": 0.01})
    config = StudyConfig(
        recipe=str(file), epochs=6, augment={"aa": None, "reprob": 0.3}, schedule="one_cycle"
    )
    assert any("not honoured" in note for note in config.recipe_notes)
    file.unlink()
    again = StudyConfig(**config.as_given())
    recipe = get_recipe(again.recipe, **again.recipe_overrides)
    assert (recipe.name, recipe.epochs, recipe.optimizer, recipe.schedule) == (
        tmp_path.name,
        6,
        "lamb",
        "one_cycle",
    )
    assert recipe.schedule_args == {}
    assert "aa" not in recipe.augment
    assert recipe.augment["reprob"] == 0.3
    assert recipe.augment["cutmix"] == 1.0


def test_named_arguments_go_with_their_name_and_maps_are_merged() -> None:
    a3 = get_recipe("a3")
    assert get_recipe("a3", loss="cross_entropy").loss_args == {}
    assert get_recipe("a3", loss="bce").loss_args == {"target_threshold": 0.2}
    assert get_recipe("a3", augment={"mixup": 0.4}).augment == {**a3.augment, "mixup": 0.4}
    assert get_recipe("a3", augment={"aa": None}).augment == {
        k: v for k, v in a3.augment.items() if k != "aa"
    }
    cosine = get_recipe("a3", schedule="cosine", schedule_args={"warmup_epochs": 5})
    assert cosine.schedule_args == {"warmup_epochs": 5}
