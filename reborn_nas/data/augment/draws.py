"""`Draws`: all that is drawn for the images of an epoch before its first batch, and what is done to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reborn_nas.data.augment.crops import Offsets, crop_flip, draw_offsets, flipped, taken
from reborn_nas.data.augment.erasing import draw_boxes, erase
from reborn_nas.data.augment.policies import Policy, apply_policy, make_policy
from reborn_nas.data.augment.resized import Rectangles, draw_places, resized_crop
from reborn_nas.data.augment.settings import Augmentation
from reborn_nas.seeds import derive_seed, generator


class Draws:
    """What happens to each of the `count` images of an epoch, in the order in which they are shown.

    Each kind of augmentation has a stream of its own, so that switching one on leaves the others as they were.

    Args:
        augmentation: what is done.
        size: (H, W) of what is shown.
        mean: of the channels, in [0, 1].
        seed, epoch: what the streams are made of.
        kept: (h, w) of the images, where they are larger: any part of them may be shown.
    """

    def __init__(
        self,
        count: int,
        augmentation: Augmentation,
        size: tuple[int, int],
        mean: Sequence[float],
        *,
        seed: int,
        epoch: int,
        kept: tuple[int, int] | None = None,
    ) -> None:
        self._augmentation = own = augmentation
        self._size = size
        h, w = kept or size
        spare = (h - size[0], w - size[1])

        def stream(*words: str) -> torch.Generator:
            return generator(derive_seed(seed, "augmentation", *words, epoch))

        self._offsets: Offsets | None = None
        self._rectangles: Rectangles | None = None
        mirror = upside = None
        if own.mirrored not in (0.0, 0.5):
            mirror = torch.rand(count, generator=stream("hflip")) < own.mirrored
        if own.vflip > 0:
            upside = torch.rand(count, generator=stream("vflip")) < own.vflip
        offsets = draw_offsets(count, own.crop_padding, own.mirrored > 0, stream(), spare)
        if mirror is not None:
            offsets = Offsets(offsets.top, offsets.left, mirror)
        self._upside = upside
        if own.scale is not None:
            places = draw_places(count, (h, w), own.scale, own.ratio, stream("scale"))
            none = torch.zeros(count, dtype=torch.bool)
            self._rectangles = Rectangles(places, offsets.mirror, none if upside is None else upside)
        elif own.crop_padding > 0 or own.mirrored > 0 or any(spare):
            self._offsets = offsets
        self._policy: Policy | None = None
        if own.by_image:
            self._policy = make_policy(own, size, mean)
            self._seeds = torch.randint(2**31, (count,), generator=stream("by_image"))
        self._boxes: torch.Tensor | None = None
        if own.reprob > 0:
            self._boxes = draw_boxes(count, size, own.reprob, own.recount, stream("reprob"))
            self._noise = stream("remode")

    @property
    def on_host(self) -> bool:
        """Whether `pixels` takes images on the host only."""
        return self._policy is not None

    def to(self, device: torch.device) -> Draws:
        """The same, with what a device reads on `device`; of policies and erasing, nothing."""
        if self._offsets is not None:
            self._offsets = self._offsets.to(device, non_blocking=True)
        if self._rectangles is not None:
            self._rectangles = self._rectangles.to(device, non_blocking=True)
        if self._upside is not None:
            self._upside = self._upside.to(device, non_blocking=True)
        return self

    def pixels(self, source: torch.Tensor, rows: torch.Tensor, here: slice) -> torch.Tensor:
        """Images `rows` of `source`, as they are shown at the places `here` of the epoch: (B, C, H, W)."""
        if self._rectangles is not None:
            batch = resized_crop(source, rows, self._rectangles[here], self._size)
        else:
            if self._offsets is not None:
                padding = self._augmentation.crop_padding
                batch = crop_flip(source, rows, self._offsets[here], padding, self._size)
            else:
                batch = taken(source, rows)
            if self._upside is not None:
                batch = flipped(batch, self._upside[here])
        if self._policy is not None:
            apply_policy(batch, self._seeds[here], self._policy)
        return batch

    def finish(self, images: torch.Tensor, here: slice) -> None:
        """Erase, in place, of the normalised `images`; the places of an epoch come in their order."""
        if self._boxes is not None:
            erase(images, self._boxes[here], self._augmentation.remode, self._noise)
