"""What changes each image by itself: torchvision's and timm's policies and colour jitter, as PIL images on the host.

These libraries draw from the global generators of Python, NumPy and torch. Each image seeds them with a number of its
own and they are put back afterwards, so that an image depends neither on those before it nor on the number of threads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from reborn_nas.data.augment.settings import Augmentation
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.seeds import kept_generators

Policy = Callable[[Any], Any]
"""PIL image → PIL image."""

TORCHVISION = {
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugmentWide",
    "autoaugment": "AutoAugment",
}
_TIMM = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")


def make_policy(augmentation: Augmentation, size: tuple[int, int], mean: Sequence[float]) -> Policy:
    """The policy and the colour jitter of `augmentation`, one after the other.

    Args:
        size: (H, W) of the images, by which timm limits its translations.
        mean: of the channels, in [0, 1], with which timm fills what it moves in.

    Raises:
        ConfigError: an unknown policy.
    """
    steps: list[Policy] = [] if augmentation.aa is None else [_policy(augmentation.aa, size, mean)]
    if augmentation.color_jitter is not None:
        jitter: Policy = v2.ColorJitter(*augmentation.color_jitter)
        chance = augmentation.color_jitter_prob
        steps.append(jitter if chance is None else v2.RandomApply([jitter], p=chance))

    def policy(image: Any) -> Any:
        for step in steps:
            image = step(image)
        return image

    return policy


def policy_faults(name: str) -> list[str]:
    """What is wrong with a policy's name."""
    try:
        _policy(name, (32, 32), (0.5, 0.5, 0.5))
    except ConfigError as error:
        return [f"recipe.augment.aa: {error}"]
    return []


def _policy(name: str, size: tuple[int, int], mean: Sequence[float]) -> Policy:
    if name in TORCHVISION:
        made: Policy = getattr(v2, TORCHVISION[name])()
        return made
    kind = name.partition("-")[0]
    if kind not in _TIMM:
        raise ConfigError(
            str(unknown_name("policy", name, (*TORCHVISION, *_TIMM), "or timm's rand-m9-mstd0.5-inc1"))
        )
    fill = tuple(min(255, round(255 * value)) for value in mean)
    options: dict[str, Any] = {
        "translate_const": int(min(size) * 0.45),
        "img_mean": fill if len(fill) == 3 else fill[0],
    }
    if kind == "augmix":
        options["translate_pct"] = 0.3
    auto_augment = _timm()
    make = {"rand": auto_augment.rand_augment_transform, "augmix": auto_augment.augment_and_mix_transform}
    try:
        found: Any = make.get(kind, auto_augment.auto_augment_transform)(name, options)
    except (AssertionError, ValueError, KeyError, IndexError, TypeError) as error:
        why = f" ({error})" if str(error) else ""
        raise ConfigError(
            f"{name!r} is not a policy that timm can read{why}; such as rand-m9-mstd0.5-inc1"
        ) from error
    _keep_no_bits(found)
    policy: Policy = found
    return policy


def _timm() -> Any:
    """timm's policies; importing timm takes a second."""
    from timm.data import auto_augment

    return auto_augment


def _keep_no_bits(policy: Any) -> None:
    """timm's posterising may ask for 0 bits a channel, which Pillow refuses since its version 12: that is black."""
    theirs = _timm().posterize

    def posterize(image: Any, bits: int, **options: Any) -> Any:
        return theirs(image, bits, **options) if bits > 0 else image.point(lambda _: 0)

    for op in _operations(policy):
        if op.aug_fn is theirs:
            op.aug_fn = posterize


def _operations(policy: Any) -> Iterator[Any]:
    for one in getattr(policy, "ops", None) or getattr(policy, "policy", None) or ():
        yield from one if isinstance(one, list | tuple) else (one,)


def apply_policy(pixels: torch.Tensor, seeds: torch.Tensor, policy: Policy) -> None:
    """Change uint8 (B, C, H, W) on the host in place, C = 1 or 3, each image with its seed in [0, 2**31)."""
    with kept_generators():
        for image, seed in zip(pixels.numpy(), seeds.tolist(), strict=True):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - timm's policies draw from it
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds the GPUs too
            grey = len(image) == 1
            changed = policy(Image.fromarray(image[0] if grey else image.transpose(1, 2, 0)))
            array = np.asarray(changed)
            image[...] = array[None] if grey else array.transpose(2, 0, 1)
