"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of a batch with itself in reverse order, as timm has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from reborn_nas.data.augment import MIXING
from reborn_nas.seeds import derive_seed
from reborn_nas.training.losses import one_hot

Batch = tuple[torch.Tensor, torch.Tensor]


class Mixing:
    """Mixes each batch ahead of its step: images (B, C, H, W), and soft targets (B, K) in place of labels (B,).

    Image i becomes λ·xᵢ + (1 − λ)·xⱼ with j = B − 1 − i, or xᵢ with a rectangle of xⱼ whose share of the area is 1 − λ;
    its target is λ·yᵢ + (1 − λ)·yⱼ. All that is random is drawn on the host, so that nothing waits for the device, and
    the step is captured as it is without.

    Args:
        augment: a recipe's; `mixup` and `cutmix` are the parameters of λ's Beta distributions, `cutmix_minmax` the
            rectangle's sides as shares; `mixup_prob` (1) the probability of mixing at all, `mixup_switch_prob` (0.5)
            of cutmix where there are both; `mixup_mode`: one λ a "batch" (default), one a "pair" of images, or one an
            image, "elem"; from epoch `mixup_off_epoch` on nothing is mixed (0: always mixed).
        classes: K.
        seed: of the training.
    """

    def __init__(self, augment: Mapping[str, Any], classes: int, seed: int) -> None:
        own = {name: value for name, value in augment.items() if name in MIXING}
        self._alpha, self._cut = float(own.get("mixup", 0)), float(own.get("cutmix", 0))
        self._sides = own.get("cutmix_minmax")
        if self._sides is not None:
            self._cut = 1.0  # as in timm
        self.active = self._alpha > 0 or self._cut > 0
        self._probability, self._switch = own.get("mixup_prob", 1.0), own.get("mixup_switch_prob", 0.5)
        self._mode, self._off = own.get("mixup_mode", "batch"), own.get("mixup_off_epoch", 0)
        self._classes, self._seed = classes, seed

    def batches(self, batches: Iterable[Batch], epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, mixed in place; as they are where nothing mixes."""
        if not self.active:
            yield from batches
            return
        draws = np.random.default_rng(derive_seed(self._seed, "mix", epoch))
        for images, labels in batches:
            targets = one_hot(labels, self._classes)
            if not self._off or epoch < self._off:
                targets = self._mix(images, targets, draws)
            yield images, targets

    def _mix(self, images: torch.Tensor, targets: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
        B, _, H, W = images.shape
        count = {"batch": 1, "pair": B // 2, "elem": B}[self._mode]
        shares, cuts = self._draw(count, draws)
        boxes = [_box(share, (H, W), self._sides, draws) if cut else None for share, cut in zip(shares, cuts)]
        shares = [share if box is None else 1 - _area(box) / (H * W) for share, box in zip(shares, boxes)]
        if self._mode == "batch":
            if boxes[0] is not None:
                top, bottom, left, right = boxes[0]
                place = (slice(None), slice(None), slice(top, bottom), slice(left, right))
                images[place] = images[place].flip(0)
            elif shares[0] < 1:
                other = images.flip(0).mul_(1 - shares[0])
                images.mul_(shares[0]).add_(other)
            lam: Any = shares[0]
        else:
            if self._mode == "pair":
                middle = B % 2  # of an odd number the middle image has no partner
                shares = [*shares, *[1.0] * middle, *shares[::-1]]
                boxes = [*boxes, *[None] * middle, *boxes[::-1]]
            _mix_each(images, shares, boxes)
            lam = torch.tensor(shares, dtype=torch.float32)[:, None]
            lam = (
                lam.pin_memory().to(images.device, non_blocking=True)
                if images.is_cuda
                else lam.to(images.device)
            )
        return targets * lam + targets.flip(0) * (1 - lam)

    def _draw(self, count: int, draws: np.random.Generator) -> tuple[list[float], list[bool]]:
        """λ and whether it is cutmix's, `count` times; λ is 1 where nothing is mixed."""
        mixed = draws.random(count) < self._probability
        switch = self._switch if self._alpha > 0 and self._cut > 0 else float(self._cut > 0)
        cuts = draws.random(count) < switch
        one = draws.beta(self._alpha, self._alpha, count) if self._alpha > 0 else np.ones(count)
        other = draws.beta(self._cut, self._cut, count) if self._cut > 0 else np.ones(count)
        shares = np.where(mixed, np.where(cuts, other, one), 1.0)
        return shares.tolist(), (cuts & mixed).tolist()


Box = tuple[int, int, int, int]


def _box(share: float, size: tuple[int, int], sides: Any, draws: np.random.Generator) -> Box:
    """Top, bottom, left and right of the rectangle that comes from the other image, cut off at the borders."""
    found: list[int] = []
    for length in size:
        if sides is not None:
            low, high = int(length * sides[0]), int(length * sides[1])
            cut = int(draws.integers(low, high)) if high > low else low
            first = int(draws.integers(0, length - cut)) if length > cut else 0
            found += [first, first + cut]
            continue
        cut = int(length * math.sqrt(1 - share))
        middle = int(draws.integers(0, length))
        found += [max(0, middle - cut // 2), min(length, middle + cut // 2)]
    return found[0], found[1], found[2], found[3]


def _area(box: Box) -> int:
    top, bottom, left, right = box
    return (bottom - top) * (right - left)


def _mix_each(images: torch.Tensor, shares: list[float], boxes: list[Box | None]) -> None:
    others = images.flip(0)
    for image, other, share, box in zip(images, others, shares, boxes, strict=True):
        if box is not None:
            top, bottom, left, right = box
            image[:, top:bottom, left:right] = other[:, top:bottom, left:right]
        elif share < 1:
            image.mul_(share).add_(other, alpha=1 - share)
