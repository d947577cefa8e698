"""timm's `args.yaml`, the arguments of a training by its `train.py`, as a recipe: honoured or listed, each key."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from reborn_nas.data.augment import MIXING
from reborn_nas.errors import ConfigError
from reborn_nas.training.optimisers import SGD, arguments_of, has_momentum
from reborn_nas.training.recipe.recipe import Recipe
from reborn_nas.training.recipe.schedules import argument_faults, creator

_OF_TIMM = frozenset((
    "opt", "sched", "lr", "aa", "reprob", "bce_loss", "smoothing", "opt_eps", "lr_base", "warmup_lr", "model_ema",
))  # fmt: skip
"""Keys by which such a file is known: a recipe of ours has none of them."""

_DEFAULTS: Mapping[str, Any] = {
    "opt": "sgd", "momentum": 0.9, "weight_decay": 2e-5, "batch_size": 128, "grad_accum_steps": 1, "lr_base": 0.1,
    "lr_base_size": 256, "epochs": 300, "sched": "cosine", "warmup_epochs": 5, "lr_cycle_decay": 0.5,
    "decay_epochs": 90, "hflip": 0.5, "scale": [0.08, 1.0], "ratio": [0.75, 4 / 3], "color_jitter": 0.4,
    "remode": "pixel", "smoothing": 0.1, "clip_mode": "norm", "model_ema_decay": 0.9998,
}  # fmt: skip
"""What `train.py` takes where a file leaves a key out and the default of a recipe or a schedule is another one."""

_SCHEDULE = {
    "warmup_epochs": "warmup_epochs", "warmup_lr": "warmup_lr", "warmup_prefix": "warmup_prefix", "min_lr": "min_lr",
    "lr_noise": "noise", "lr_noise_pct": "noise_pct", "lr_noise_std": "noise_std",
}  # fmt: skip
_CYCLES = {
    "cooldown_epochs": "cooldown_epochs", "lr_cycle_mul": "cycle_mul", "lr_cycle_decay": "cycle_decay",
    "lr_cycle_limit": "cycle_limit",
}  # fmt: skip
_BY_SCHEDULE = {
    "cosine": {**_CYCLES, "lr_k_decay": "k_decay"},
    "tanh": _CYCLES,
    "poly": {**_CYCLES, "lr_k_decay": "k_decay", "decay_rate": "decay_rate"},
    "step": {"decay_epochs": "decay_epochs", "decay_rate": "decay_rate"},
    "multistep": {"decay_milestones": "decay_milestones", "decay_rate": "decay_rate"},
    "wsd": {"decay_epochs": "decay_epochs", "lr_decay_fn": "decay_fn"},
    "rsqrt": {
        "decay_epochs": "decay_epochs", "lr_decay_fn": "decay_fn", "lr_stable_timescale": "stable_timescale",
    },
}  # fmt: skip
"""Schedule → key of the file → argument of `create_scheduler_v2`."""

_IMAGES = (
    "scale", "ratio", "hflip", "vflip", "train_crop_mode", "aa", "color_jitter", "color_jitter_prob",
    "force_color_jitter", "reprob", "remode", "recount", "train_interpolation",
)  # fmt: skip
"""Keys of what is done to single images, which `no_aug` switches off; mixing it leaves."""

_ELSEWHERE = {
    "model": "--backbone {}", "model_kwargs": "--model-arg {}", "pretrained": "--pretrained",
    "initial_checkpoint": "--checkpoint {}", "pretrained_path": "--checkpoint {}", "img_size": "--image-size {}",
    "input_size": "--image-size {}", "drop": "--model-arg drop_rate={}", "drop_path": "--model-arg drop_path_rate={}",
    "drop_block": "--model-arg drop_block_rate={}", "gp": "--model-arg global_pool={}",
    "bn_momentum": "--model-arg bn_momentum={}", "bn_eps": "--model-arg bn_eps={}", "seed": "--seed {}",
    "data_dir": "--dataset folder:{}", "data": "--dataset folder:{}", "dataset": "--dataset", "device": "--device {}",
    "torchcompile": "--compile", "grad_checkpointing": "--recompute",
}  # fmt: skip
"""Keys that belong to the study, not to the recipe → the flag that sets them."""

_HOUSEKEEPING = frozenset((
    "log_interval", "recovery_interval", "checkpoint_hist", "workers", "save_images", "pin_mem", "no_prefetcher",
    "output", "experiment", "eval_metric", "local_rank", "use_multi_epochs_loader", "log_wandb", "wandb_project",
    "wandb_tags", "wandb_resume_id", "use_prefetcher", "world_size", "rank", "distributed",
    "validation_batch_size", "val_interval",
    "worker_seeding", "dataset_download", "dataset_trust_remote_code", "class_map", "train_split", "val_split",
    "data_group", "train_num_samples", "val_num_samples", "input_key", "target_key", "input_img_mode",
    "prefetcher", "fuser", "torchscript", "device_modules", "synchronize_step", "no_ddp_bb", "sync_bn", "dist_bn",
    "log_file", "tta", "num_classes", "in_chans", "crop_pct", "mean", "std", "interpolation", "config",
))  # fmt: skip
"""Keys of the bookkeeping, the loading and the evaluation, which the study does in its own way."""


_CONDITIONAL = frozenset((
    *MIXING, *_IMAGES, *_SCHEDULE, *_CYCLES, "lr_k_decay", "decay_rate", "decay_epochs", "decay_milestones",
    "lr_decay_fn", "lr_stable_timescale", "patience_epochs", "patience", "bce_sum", "bce_target_thresh",
    "bce_pos_weight", "model_ema_decay", "model_ema_warmup", "lr_base", "lr_base_size", "lr_base_scale", "amp_dtype",
    "amp_impl", "clip_mode", "opt_eps", "opt_betas", "momentum",
))  # fmt: skip
"""Keys that mean something beside others only: where they have not been taken, they had no effect in timm either."""

_SWITCHES = {
    "kd_": "kd_model_name", "distill_loss_": "kd_model_name", "task_loss_": "kd_model_name",
    "naflex_": "naflex_loader", "train_size_": "train_img_sizes", "train_batch_sizes": "train_img_sizes",
    "variable_batch_": "train_img_sizes", "layer_decay_": "layer_decay", "model_ema_": "model_ema",
    "torchcompile_": "torchcompile",
}  # fmt: skip
"""How keys begin → the key without which they had no effect."""


def _above(low: float) -> Callable[[Any], bool]:
    return lambda value: _number(value) and value > low


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "opt": ("the name of an optimizer", lambda value: isinstance(value, str)),
    "sched": ("the name of a schedule, or null", lambda value: value is None or isinstance(value, str)),
    "aa": ("the name of a policy, or null", lambda value: value is None or isinstance(value, str)),
    "batch_size": ("a whole number ≥ 1", lambda value: type(value) is int and value >= 1),
    "grad_accum_steps": (
        "a whole number, or null",
        lambda value: value is None or (type(value) is int and value >= 0),
    ),
    "epochs": ("a whole number ≥ 1", lambda value: type(value) is int and value >= 1),
    "momentum": ("a number ≥ 0", lambda value: _number(value) and value >= 0),
    "lr": ("a number ≥ 0, or null", lambda value: value is None or (_number(value) and value >= 0)),
    "lr_base": ("a number above 0", _above(0)),
    "lr_base_size": ("a number above 0", _above(0)),
    "lr_base_scale": ("linear, sqrt or empty", lambda value: value in (None, "", "linear", "sqrt")),
    "opt_kwargs": ("a map, or null", lambda value: value is None or isinstance(value, Mapping)),
    "model_kwargs": ("a map, or null", lambda value: value is None or isinstance(value, Mapping)),
}
"""Key → its rule; the values of the others are checked as the recipe's."""


def is_timms(data: Mapping[str, Any]) -> bool:
    """Whether a file's mapping is timm's."""
    return len(_OF_TIMM & data.keys()) >= 2


class _Args:
    """The values of a file, and which of them have been taken."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data, self.taken = data, set[str]()
        self.left: dict[str, str] = {}

    def get(self, key: str) -> Any:
        self.taken.add(key)
        value = self.data.get(key)
        return _DEFAULTS.get(key) if value is None and key not in self.data else value

    def leave(self, key: str, why: str = "") -> None:
        """Not honoured, though it was looked at."""
        self.taken.discard(key)
        self.left[key] = why


def read_args(data: Mapping[str, Any], name: str) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe of an `args.yaml`, and notes that name every key which it does not hold, with its value.

    Raises:
        ConfigError: with all faults: the optimizer or the schedule cannot be had here.
    """
    faults = [
        f"{key} is {rule}, not {data[key]!r}"
        for key, (rule, holds) in _RULES.items()
        if key in data and not holds(data[key])
    ]
    if faults:
        raise ConfigError("timm's arguments have faults:", faults)
    args = _Args(data)
    batch = args.get("batch_size") * (args.get("grad_accum_steps") or 1)
    settings: dict[str, Any] = {
        "name": name, "batch_size": batch, "learning_rate": _rate(args, batch),
        "weight_decay": args.get("weight_decay"),
        "decay_norms_and_biases": False, "label_smoothing": args.get("smoothing"), "init": "default",
        **_optimizer(args), **_schedule(args), **_loss(args), "augment": _augment(args), **_arithmetic(args),
    }  # fmt: skip
    if args.get("no_aug"):
        mixing = {key: value for key, value in settings["augment"].items() if key in MIXING}
        settings |= {"augment": mixing, "flip": False}
        args.taken -= set(_IMAGES)
        for key in _IMAGES:
            args.left.pop(key, None)
    settings["crop_padding"] = 0
    if args.get("model_ema"):
        settings["ema"] = args.get("model_ema_decay")
        if args.data.get("model_ema_warmup"):
            args.leave("model_ema_warmup", "the average forgets its start at a pace of its own")
    recipe = Recipe.from_dict({key: value for key, value in settings.items() if value is not None})
    return recipe, _notes(args, name, recipe.ema)


def _rate(args: _Args, batch: int) -> float:
    """As in `train.py`: `lr`, or `lr_base` scaled by the batch, linearly or by its root for adaptive optimizers."""
    rate = args.get("lr")
    if rate:
        return float(rate)
    base, size, how = args.get("lr_base"), args.get("lr_base_size"), args.get("lr_base_scale")
    if not how:
        how = "sqrt" if any(word in args.get("opt").lower() for word in ("ada", "lamb")) else "linear"
    share = batch / size
    return float(base * (share**0.5 if how == "sqrt" else share))


def _optimizer(args: _Args) -> dict[str, Any]:
    name, kwargs = args.get("opt").lower(), dict(args.get("opt_kwargs") or {})
    momentum = args.get("momentum")
    nesterov = name == SGD and momentum > 0 and bool(kwargs.pop("nesterov", True))
    more = {"eps": args.get("opt_eps"), "betas": args.get("opt_betas")}
    more = {key: value for key, value in more.items() if value is not None} | kwargs
    taken, with_momentum = _arguments(name)
    for key in [key for key in more if taken is not None and key not in taken]:
        where = {"eps": "opt_eps", "betas": "opt_betas"}.get(key, "opt_kwargs")
        args.leave(where, f"{key}: {name} has none here" if where == "opt_kwargs" else f"{name} has none")
        del more[key]
    if not with_momentum:
        args.taken.discard("momentum")
    clip, mode = args.get("clip_grad"), args.get("clip_mode")
    if clip is not None and mode != "norm":
        args.leave("clip_grad", f"clip_mode {mode}; here gradients are clipped by their norm")
        args.leave("clip_mode")
        clip = None
    elif clip is None:
        args.taken.discard("clip_mode")
    return {
        "optimizer": name, "optimizer_args": more, "momentum": momentum,
        "nesterov": nesterov,
        "layer_decay": args.get("layer_decay"), "clip_grad": clip,
    }  # fmt: skip


def _arguments(name: str) -> tuple[list[str] | None, bool]:
    """What an optimizer takes beside what the recipe sets, and whether it has a momentum; (None, True) of one that
    there is not, of which the recipe tells.
    """
    if name == SGD:
        return [], True
    try:
        return arguments_of(name), has_momentum(name)
    except Exception:  # an unknown name, or a package that is missing
        return None, True


def _schedule(args: _Args) -> dict[str, Any]:
    name, epochs = args.get("sched"), args.get("epochs")
    if name == "plateau":
        args.leave(
            "sched", "it follows the validation images, which compare networks here; the rate is constant"
        )
    if name in (None, "none", "plateau"):
        return {"schedule": "constant", "epochs": epochs}
    known = {**_SCHEDULE, **_BY_SCHEDULE.get(name, {})}
    more = {ours: args.get(key) for key, ours in known.items()}
    more = {key: value for key, value in more.items() if value is not None and value != []}
    if not more.get("warmup_epochs"):
        for key in ("warmup_epochs", "warmup_lr", "warmup_prefix"):
            more.pop(key, None)
            args.taken.discard(key)
    if args.get("lr_noise") is None:
        for key in ("lr_noise_pct", "lr_noise_std"):
            more.pop(_SCHEDULE[key], None)
            args.taken.discard(key)
    elif args.data.get("seed") is not None:
        more["noise_seed"] = args.data["seed"]
    if args.get("sched_on_updates"):
        more["step_on_epochs"] = False
    if name == "constant":
        name, more = "step", {**more, "decay_epochs": 1, "decay_rate": 1.0}
    return {"schedule": name, "schedule_args": more, "epochs": _all_epochs(name, more, epochs)}


def _all_epochs(name: str, more: Mapping[str, Any], epochs: int) -> int:
    """With cooldown, cycles and a warm-up that comes first, as `train.py` counts them."""
    if name not in _BY_SCHEDULE:
        return epochs  # the recipe says what is wrong with it
    if faults := argument_faults(more):
        raise ConfigError("timm's arguments have faults:", faults)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        total = creator()(optimizer, sched=name, num_epochs=epochs, **{**more, "updates_per_epoch": 1})[1]
    except (TypeError, ValueError, AssertionError, ArithmeticError) as error:
        raise ConfigError(f"sched: timm cannot make {name} with {dict(more)} ({error})") from error
    return int(total)


def _loss(args: _Args) -> dict[str, Any]:
    if not args.get("bce_loss"):
        return {}
    if not args.get("smoothing") and not _mixes(args):
        args.leave("bce_loss", "without smoothing and mixing, train.py takes the cross entropy")
        return {}
    if args.data.get("bce_pos_weight") is not None:
        args.leave("bce_pos_weight", "the two sides of each class weigh the same here")
    more = {"target_threshold": args.get("bce_target_thresh"), "sum": bool(args.get("bce_sum"))}
    return {
        "loss": "bce",
        "loss_args": {key: value for key, value in more.items() if value not in (None, False)},
    }


def _augment(args: _Args) -> dict[str, Any]:
    found: dict[str, Any] = {"hflip": args.get("hflip")}
    mode = args.get("train_crop_mode")
    if mode not in (None, "", "rrc"):
        args.leave("train_crop_mode", "a random resized crop is taken")
    if args.get("train_interpolation") not in (None, "", "bilinear"):
        args.leave("train_interpolation", "bilinear here")
    found |= {"scale": args.get("scale"), "ratio": args.get("ratio")}
    if found["scale"] is None:
        found["scale"] = _DEFAULTS["scale"]
    if args.get("vflip"):
        found["vflip"] = args.get("vflip")
    if args.get("aa"):
        found["aa"] = args.get("aa")
    jitter = args.get("color_jitter")
    if jitter and found.get("aa") and not args.get("force_color_jitter") and "3a" not in found["aa"]:
        args.taken.discard("color_jitter")  # timm leaves it out beside a policy
    elif jitter:
        found |= {"color_jitter": jitter, "color_jitter_prob": args.get("color_jitter_prob")}
    if args.get("reprob"):
        found |= {key: args.get(key) for key in ("reprob", "remode", "recount")}
    if _mixes(args):
        found |= {key: args.get(key) for key in MIXING}
        if not (found["mixup"] and (found["cutmix"] or found["cutmix_minmax"])):
            found["mixup_switch_prob"] = None
    return {key: value for key, value in found.items() if value is not None and value != []}


def _mixes(args: _Args) -> bool:
    return any(args.data.get(key) for key in ("mixup", "cutmix", "cutmix_minmax"))


def _arithmetic(args: _Args) -> dict[str, Any]:
    """Half precision as this device has it; `channels_last` as it is."""
    amp = args.get("amp")
    args.get("amp_dtype")
    args.get("amp_impl")
    return {"precision": "auto" if amp else "fp32", "channels_last": bool(args.get("channels_last"))}


def _notes(args: _Args, name: str, ema: float) -> tuple[str, ...]:
    """Every key once, with its value."""
    data = args.data
    taken = [key for key in data if key in args.taken]
    rest = [key for key in data if key not in args.taken]
    empty = [key for key in rest if key not in args.left and not data[key]]
    rest = [key for key in rest if key not in empty]
    flags = [key for key in rest if key in _ELSEWHERE]
    kept = [key for key in rest if key in _HOUSEKEEPING]
    idle = [key for key in rest if _idle(data, key) and key not in args.left]
    other = [key for key in rest if key not in {*flags, *kept, *idle}]
    lines = {
        "not honoured": [_pair(data, key, args.left.get(key, "")) for key in other],
        "of the study, not of its recipe": [_pair(data, key, _flag(key, data[key])) for key in flags],
        "taken": [_pair(data, key) for key in taken],
        "without effect beside the others": [_pair(data, key) for key in idle],
        "loading, evaluation and bookkeeping, which a study does in its own way": [
            _pair(data, key) for key in kept
        ],
        "not set": [_pair(data, key) for key in empty],
    }
    notes = [
        f"recipe {name} is made of timm's arguments; its batch_size is one GPU's there, and the whole batch here"
    ]
    if ema:
        steps = max(0, math.ceil((10 * ema - 1) / (1 - ema)))
        notes.append(
            f"model_ema: the average's decay is (1 + t)/(10 + t) in step t until it reaches {ema:g}, after {steps:,} "
            "steps; timm has its value from the first step on"
        )
    if args.get("amp"):
        notes.append("amp: half precision as this device has it; --precision sets it")
    return (*notes, *(f"{what}: {', '.join(pairs)}" for what, pairs in lines.items() if pairs))


def _idle(data: Mapping[str, Any], key: str) -> bool:
    """Whether a key that has not been taken had no effect in timm either."""
    switches = [switch for start, switch in _SWITCHES.items() if key.startswith(start) and key != switch]
    return key in _CONDITIONAL or any(not data.get(switch) for switch in switches)


def _flag(key: str, value: Any) -> str:
    """What sets the same of a study."""
    if key == "model_kwargs":
        return " ".join(f"--model-arg {name}={_short(inner)}" for name, inner in value.items())
    if key == "input_size":
        return f"--image-size {value[-1] if isinstance(value, list) else value}"
    return _ELSEWHERE[key].format(_short(value))


def _pair(data: Mapping[str, Any], key: str, remark: str = "") -> str:
    return f"{key}={_short(data[key])}" + (f" ({remark})" if remark else "")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:79]}…"
