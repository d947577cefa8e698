"""How a network is trained: the recipe, and the learning rates and batch sizes that follow from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from reborn_nas.data import Augmentation
from reborn_nas.data.augment import MIXING, augmentation_faults, policy_faults
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.training.losses import loss_faults
from reborn_nas.training.optimisers import optimiser_faults
from reborn_nas.training.recipe.schedules import OWN, schedule_faults, timm_rates

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
INITS = ("default", "xavier", "kaiming")
_ARGUMENTS = {"optimizer": "optimizer_args", "schedule": "schedule_args", "loss": "loss_args"}
_MAPS = (*_ARGUMENTS.values(), "augment")
MOST_EPOCHS = 100_000
"""More would be a slip, such as of a schedule with too many cycles, and the rates of each are planned ahead."""
_FIRST_FIELDS = 15
"""Fields that every recipe has had."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, pure data.

    Args:
        name: what it is called in tables.
        epochs: passes over the training images; 0 evaluates the untrained network.
        batch_size: images a step.
        learning_rate: the schedule's peak.
        momentum: of SGD, and of those of timm's optimizers that have one.
        nesterov: of SGD.
        weight_decay: of the optimizer.
        schedule: "one_cycle" rises linearly over the first `warmup` share of the steps, then falls by a cosine
            to zero; "step_half" divides by ten after half of the epochs (paper, Sec. 4.3); "constant"; or timm's
            "cosine", "tanh", "step", "multistep", "poly", "wsd" and "rsqrt".
        warmup: share of the steps in which "one_cycle" rises.
        label_smoothing: in [0, 1).
        precision: "fp32", "bf16" or "fp16" (autocast; fp16 with loss scaling), or "auto" (`resolve_precision`).
        channels_last: memory format on a GPU; a CPU always has the ordinary one, which is faster in fp32 there.
        init: "xavier" (paper, Sec. 4.3) or "kaiming" draws all weights anew (`draw_weights`), which undoes a
            pretrained or a function-preserving start; "default" leaves the network as it comes.
        crop_padding, flip: override the data set's augmentation; None leaves it.
        optimizer: "sgd", or a name of `timm.optim.list_optimizers()`, such as "adamw" or "lion". On a GPU sgd, adam and
            adamw train in a CUDA graph, the others without.
        optimizer_args: further arguments of that optimizer, such as `{"betas": [0.9, 0.95]}`.
        decay_norms_and_biases: whether weight decay also acts on parameters of one dimension and on those that the
            network's `no_weight_decay()` names.
        clip_grad: the largest norm of all gradients of a step together; None does not clip.
        ema: decay of a moving average of the weights, in [0, 1); the network ends with the averaged weights, by which
            it is judged in the end. 0 is none.
        schedule_args: of timm's schedules, as in `timm.scheduler.create_scheduler_v2`: `warmup_epochs`, `min_lr`, …;
            `epochs` includes a cooldown, further cycles and a warm-up that comes first.
        layer_decay: factor of the learning rate from each layer to the one before it, by the network's own
            `group_matcher`; None is the same rate everywhere.
        loss: "cross_entropy", or "bce", a binary one for each class.
        loss_args: of "bce": `target_threshold`, `sum`.
        class_weights: of the cross entropy: "balanced", or a number for each class.
        augment: what is done to the training images beyond crop and flip, by timm's names: `scale`, `ratio`, `hflip`,
            `vflip`, `aa`, `color_jitter`, `color_jitter_prob`, `reprob`, `remode`, `recount` of an image
            (`Augmentation`), and `mixup`, `cutmix`, `cutmix_minmax`, `mixup_prob`, `mixup_switch_prob`, `mixup_mode`,
            `mixup_off_epoch` of a batch (`Mixing`).

    Raises:
        ConfigError: with every value that is out of range.
    """

    name: str = "custom"
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    warmup: float = 0.2
    label_smoothing: float = 0.0
    precision: str = "auto"
    channels_last: bool = True
    init: str = "default"
    crop_padding: int | None = None
    flip: bool | None = None
    optimizer: str = "sgd"
    optimizer_args: Mapping[str, Any] = field(default_factory=dict)
    decay_norms_and_biases: bool = True
    clip_grad: float | None = None
    ema: float = 0.0
    schedule_args: Mapping[str, Any] = field(default_factory=dict)
    layer_decay: float | None = None
    loss: str = "cross_entropy"
    loss_args: Mapping[str, Any] = field(default_factory=dict)
    class_weights: str | Sequence[float] | None = None
    augment: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = [
            f"recipe.{key} is {rule}, not {getattr(self, key)!r}"
            for key, rule, holds in _RULES
            if not holds(getattr(self, key))
        ]
        if self.nesterov is True and self.momentum == 0:
            faults.append("recipe.nesterov needs momentum above 0; set nesterov to false")
        faults += optimiser_faults(self.optimizer, self.optimizer_args)
        epochs = self.epochs if _whole(1)(self.epochs) and self.epochs <= MOST_EPOCHS else 0
        faults += schedule_faults(self.schedule, self.schedule_args, epochs)
        faults += augmentation_faults(self.augment)
        if isinstance(self.augment, Mapping) and isinstance(self.augment.get("aa"), str):
            faults += policy_faults(self.augment["aa"])
        faults += loss_faults(self.loss, self.loss_args, self.class_weights, mixed=self.mixes)
        faults += self._contradictions()
        if faults:
            raise ConfigError(f"recipe {self.name!r} has faults:", faults)

    @property
    def mixes(self) -> bool:
        """Whether the images of a batch are mixed."""
        names = ("mixup", "cutmix", "cutmix_minmax")
        return isinstance(self.augment, Mapping) and any(self.augment.get(name) for name in names)

    def _contradictions(self) -> Iterator[str]:
        """Settings that do not go together."""
        if not isinstance(self.augment, Mapping):
            return
        if self.schedule not in OWN and self.warmup != Recipe.warmup:
            yield f"recipe.warmup belongs to one_cycle; of {self.schedule} it is schedule_args.warmup_epochs"
        if "scale" in self.augment and self.crop_padding:
            yield "recipe.crop_padding and augment.scale are two kinds of random crop; leave out one"
        if "hflip" in self.augment and self.flip is not None:
            yield "recipe.flip and augment.hflip mirror the same way; leave out one"
        if self.mixes and self.batch_size == 1:
            yield "recipe.augment: mixup and cutmix mix the images of a batch, which has one; take batch_size 2"

    def augmentation(self, default: Augmentation) -> Augmentation:
        """The data set's augmentation with this recipe's changes."""
        padding = default.crop_padding if self.crop_padding is None else self.crop_padding
        own: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.augment.items()
            if name not in MIXING
        }
        jitter = own.get("color_jitter")
        if isinstance(jitter, int | float):  # brightness, contrast and saturation, as timm reads one number
            own["color_jitter"] = (float(jitter),) * 3 if jitter else None
        flip = default.flip if self.flip is None else self.flip
        return Augmentation(0 if "scale" in own else padding, flip, **own)

    def to_dict(self) -> dict[str, Any]:
        """JSON values only; `from_dict` restores the recipe. Later fields are left out where they have their defaults,
        so that a recipe's digest stays what it was before there were any.
        """
        later = {item.name: item for item in fields(self)[_FIRST_FIELDS:]}
        plain = Recipe()
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in later or value != getattr(plain, key)
        }

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """A recipe with `changes` that are not None in place of its values.

        Maps are merged, an entry that becomes None is left out; the arguments of an optimizer, a schedule and a loss go
        with it where another one is named. Raises ConfigError as `from_dict`.
        """
        data = self.to_dict()
        given = {key: value for key, value in changes.items() if value is not None}
        for name, arguments in _ARGUMENTS.items():
            if name in given and given[name] != getattr(self, name):
                data.pop(arguments, None)
                if name == "schedule":
                    data["warmup"] = Recipe.warmup
        for key, value in given.items():
            if isinstance(value, Mapping) and key in _MAPS:
                merged = {**data.get(key, {}), **value}
                value = {name: inner for name, inner in merged.items() if inner is not None}
            data[key] = value
        return Recipe.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`; keys left out have their defaults. Raises ConfigError on unknown ones."""
        known = [item.name for item in fields(cls)]
        unknown = [str(key) for key in data if key not in known]
        if unknown:
            faults = [str(unknown_name("setting of a recipe", key, known)) for key in unknown]
            raise ConfigError(
                f"recipe has unknown keys {', '.join(unknown)}; it knows {', '.join(known)}", faults
            )
        return cls(**data)


def _real(low: float, high: float, *, above: bool = False, below: bool = False) -> Any:
    def holds(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return (value > low if above else value >= low) and (value < high if below else value <= high)

    return holds


def _whole(low: int) -> Any:
    return lambda value: type(value) is int and value >= low


def _one_of(*words: object) -> Any:
    return lambda value: value in words


_RULES = (
    (
        "epochs",
        f"a whole number in [0, {MOST_EPOCHS:,}]",
        lambda value: _whole(0)(value) and value <= MOST_EPOCHS,
    ),
    ("batch_size", "a whole number ≥ 1", _whole(1)),
    ("learning_rate", "a number above 0", _real(0, math.inf, above=True)),
    ("momentum", "in [0, 1)", _real(0, 1, below=True)),
    ("nesterov", "true or false", lambda value: type(value) is bool),
    ("weight_decay", "a number ≥ 0", _real(0, math.inf)),
    ("warmup", "in [0, 1]", _real(0, 1)),
    ("label_smoothing", "in [0, 1)", _real(0, 1, below=True)),
    ("precision", f"one of {', '.join(PRECISIONS)}", _one_of(*PRECISIONS)),
    ("channels_last", "true or false", lambda value: type(value) is bool),
    ("init", f"one of {', '.join(INITS)}", _one_of(*INITS)),
    ("crop_padding", "a whole number ≥ 0, or null", lambda value: value is None or _whole(0)(value)),
    ("flip", "true, false or null", lambda value: value is None or type(value) is bool),
    ("decay_norms_and_biases", "true or false", lambda value: type(value) is bool),
    (
        "clip_grad",
        "a number above 0, or null",
        lambda value: value is None or _real(0, math.inf, above=True)(value),
    ),
    ("ema", "in [0, 1)", _real(0, 1, below=True)),
    (
        "layer_decay",
        "in (0, 1], or null",
        lambda value: value is None or _real(0, 1, above=True)(value),
    ),
)


def recipe_in_words(recipe: Mapping[str, Any]) -> str:
    """A recipe as `Recipe.to_dict` writes it, on one line: its name and every setting."""
    settings = ", ".join(
        f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in recipe.items() if key != "name"
    )
    return f"{recipe.get('name', 'custom')}: {settings}"


def learning_rates(recipe: Recipe, steps: int) -> list[float]:
    """The learning rate of each of the training's `epochs` × `steps` steps.

    Rounded to float32, in which a GPU holds it, so that every device multiplies by the same number.
    """
    total = recipe.epochs * steps
    if recipe.schedule in OWN:
        rates = [_rate(recipe, step, steps, total) for step in range(total)]
    else:
        rates = timm_rates(recipe.schedule, recipe.schedule_args, recipe.learning_rate, recipe.epochs, steps)
    return [float(np.float32(rate)) for rate in rates]


def _rate(recipe: Recipe, step: int, steps: int, total: int) -> float:
    peak = recipe.learning_rate
    if recipe.schedule == "constant":
        return peak
    if recipe.schedule == "step_half":
        # "0.001 in the first half epochs and then changed to 0.0001 in the later half epochs" (Sec. 4.3); of an
        # odd number of epochs the middle one belongs to the first half
        return peak if step // steps < math.ceil(recipe.epochs / 2) else peak / 10
    done = (step + 0.5) / total  # the middle of the step, so that neither the first nor the last rate is zero
    if done < recipe.warmup:
        return peak * done / recipe.warmup
    left = (1 - done) / max(1e-12, 1 - recipe.warmup)
    return peak * (1 - math.cos(math.pi * left)) / 2


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """How an epoch over `images` images is cut: full batches, and the rest as one more if it is large enough.

    A rest under a quarter of a batch is left out: its gradient and its batch statistics would be mostly noise.
    The order is random, so that each epoch leaves out others. A set smaller than one batch is one batch.
    """
    full, rest = divmod(images, batch_size)
    if full == 0:
        return [rest] if rest else []
    return [batch_size] * full + [rest] * (4 * rest >= batch_size and rest > 1)
