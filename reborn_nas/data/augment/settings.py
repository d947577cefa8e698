"""What is done to a training image each time it is shown: the settings, by timm's names, and their rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reborn_nas.errors import unknown_name

PIXEL_FILLS = ("const", "rand", "pixel")


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image each time it is shown, in this order.

    Args:
        crop_padding: black pixels added on each side before a random crop back to the size; 0 is no crop.
        flip: mirror left-right with probability 1/2.
        scale: shares (low, high) of the image's area: a random rectangle is cut and resized to the image's size,
            bilinear with antialiasing, in place of the padded crop; None does not.
        ratio: aspect ratios (low, high) of such rectangles.
        hflip: probability of mirroring left-right, in place of `flip`.
        vflip: probability of mirroring upside down.
        aa: a policy that changes each image by itself: "randaugment", "trivialaugment" (torchvision's), or one of
            timm's, such as "rand-m9-mstd0.5-inc1", "original", "augmix-m5".
        color_jitter: largest relative change of brightness, contrast, saturation and, if there is a fourth, hue.
        color_jitter_prob: probability of that change; None is always.
        reprob: probability that a rectangle of 1/50 to 1/3 of the normalised image is erased (Zhong et al. 2017).
        remode: what erases: "const" zeros, "rand" a random colour, "pixel" noise.
        recount: at most so many rectangles an image.
    """

    crop_padding: int = 0
    flip: bool = False
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float | None = None
    vflip: float = 0.0
    aa: str | None = None
    color_jitter: tuple[float, ...] | None = None
    color_jitter_prob: float | None = None
    reprob: float = 0.0
    remode: str = "const"
    recount: int = 1

    @property
    def mirrored(self) -> float:
        """Probability of mirroring left-right."""
        return (0.5 if self.flip else 0.0) if self.hflip is None else self.hflip

    @property
    def by_image(self) -> bool:
        """Whether images are changed one by one, on the host."""
        return self.aa is not None or self.color_jitter is not None

    @property
    def active(self) -> bool:
        """Whether anything is done at all."""
        moved = self.crop_padding > 0 or self.scale is not None or self.mirrored > 0 or self.vflip > 0
        return moved or self.by_image or self.reprob > 0


NO_AUGMENTATION = Augmentation()
PAPER_AUGMENTATION = Augmentation(crop_padding=4, flip=True)
"""Sec. 4.3 of the paper: 4 circles of 0 pixels around the image, a random cut, a flip with probability 1/2."""


def _probability(value: object) -> bool:
    return _number(value) and 0 <= value <= 1  # type: ignore[operator]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _range(least: float, most: float) -> Callable[[object], bool]:
    def holds(value: object) -> bool:
        if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_number, value)):
            return False
        return bool(least < value[0] <= value[1] <= most)

    return holds


def _jitter(value: object) -> bool:
    if _number(value):
        return bool(value >= 0)  # type: ignore[operator]
    if not isinstance(value, list | tuple) or len(value) not in (3, 4) or not all(map(_number, value)):
        return False
    return min(value) >= 0 and (len(value) == 3 or value[3] <= 0.5)


_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "scale": ("two shares of the area, such as [0.35, 1.0], above 0 and at most 1", _range(0, 1)),
    "ratio": ("two aspect ratios, such as [0.75, 1.33]", _range(0, math.inf)),
    "hflip": ("a probability in [0, 1]", _probability),
    "vflip": ("a probability in [0, 1]", _probability),
    "aa": ("the name of a policy", lambda value: isinstance(value, str)),
    "color_jitter": ("a number ≥ 0, three of them, or four, the last at most 0.5", _jitter),
    "color_jitter_prob": ("a probability in [0, 1]", _probability),
    "reprob": ("a probability in [0, 1]", _probability),
    "remode": (f"one of {', '.join(PIXEL_FILLS)}", lambda value: value in PIXEL_FILLS),
    "recount": ("a whole number ≥ 1", lambda value: type(value) is int and value >= 1),
    "mixup": ("a number ≥ 0, the parameter of a Beta distribution", lambda v: _number(v) and v >= 0),
    "cutmix": ("a number ≥ 0, the parameter of a Beta distribution", lambda v: _number(v) and v >= 0),
    "cutmix_minmax": ("two shares of the sides in (0, 1]", _range(0, 1)),
    "mixup_prob": ("a probability in [0, 1]", _probability),
    "mixup_switch_prob": ("a probability in [0, 1]", _probability),
    "mixup_mode": ("one of batch, pair, elem", lambda value: value in ("batch", "pair", "elem")),
    "mixup_off_epoch": ("a whole number ≥ 0", lambda value: type(value) is int and value >= 0),
}
"""Setting → its rule in words, and the rule."""

MIXING = (
    "mixup",
    "cutmix",
    "cutmix_minmax",
    "mixup_prob",
    "mixup_switch_prob",
    "mixup_mode",
    "mixup_off_epoch",
)
"""Settings of what mixes the images of a batch; the others change each image."""

_NEEDS = {
    "ratio": ("scale",), "color_jitter_prob": ("color_jitter",), "remode": ("reprob",), "recount": ("reprob",),
    "mixup_prob": ("mixup", "cutmix", "cutmix_minmax"), "mixup_mode": ("mixup", "cutmix", "cutmix_minmax"),
    "mixup_off_epoch": ("mixup", "cutmix", "cutmix_minmax"), "mixup_switch_prob": ("mixup",),
}  # fmt: skip


def augmentation_faults(augment: object) -> Iterator[str]:
    """What is wrong with a map of augmentations; nothing where nothing is."""
    if not isinstance(augment, Mapping) or not all(isinstance(key, str) for key in augment):
        yield f"recipe.augment is a map from names to values, not {augment!r}"
        return
    for name, value in augment.items():
        if name not in _RULES:
            yield f"recipe.augment: {unknown_name('augmentation', name, _RULES)}"
            continue
        rule, holds = _RULES[name]
        if not holds(value):
            yield f"recipe.augment.{name} is {rule}, not {value!r}"
        if name in _NEEDS and not any(augment.get(other) for other in _NEEDS[name]):
            yield f"recipe.augment.{name} means something with {' or '.join(_NEEDS[name])} only"
    if augment.get("mixup_switch_prob") is not None and not (
        augment.get("cutmix") or augment.get("cutmix_minmax")
    ):
        yield "recipe.augment.mixup_switch_prob chooses between mixup and cutmix; there is no cutmix"
