"""Random resized crops (Szegedy et al. 2015): a rectangle of each image, resized to the image's size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from reborn_nas.data.augment.crops import taken

ATTEMPTS = 10
"""As in torchvision: where none of so many rectangles lies inside, the largest central one of a permitted ratio is."""


@dataclass(frozen=True, eq=False)
class Rectangles:
    """Where each image is cut.

    Args:
        places: int64 (B, 4): top, left, height, width.
        mirror, upside: bool (B,), what is flipped afterwards.
    """

    places: torch.Tensor
    mirror: torch.Tensor
    upside: torch.Tensor

    def __getitem__(self, rows: slice) -> Rectangles:
        return Rectangles(self.places[rows], self.mirror[rows], self.upside[rows])

    def to(self, device: torch.device, non_blocking: bool = False) -> Rectangles:
        """A copy on `device`."""
        moved = (t.to(device, non_blocking=non_blocking) for t in (self.places, self.mirror, self.upside))
        return Rectangles(*moved)


def draw_places(
    count: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """int64 (count, 4): top, left, height and width in images of `size`, by the rule of torchvision's
    `RandomResizedCrop`."""
    H, W = size
    drawn = torch.rand(4, ATTEMPTS, count, dtype=torch.float64, generator=generator)
    area = H * W * (scale[0] + (scale[1] - scale[0]) * drawn[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * drawn[1])
    w, h = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (w > 0) & (w <= W) & (h > 0) & (h <= H)
    first = fits.int().argmax(0, keepdim=True)  # the first that fits
    h, w = h.gather(0, first)[0], w.gather(0, first)[0]
    top = ((H - h + 1) * drawn[2, 0]).floor().long()
    left = ((W - w + 1) * drawn[3, 0]).floor().long()
    shape = W / H
    if shape < ratio[0]:
        most = (round(W / ratio[0]), W)
    elif shape > ratio[1]:
        most = (H, round(H * ratio[1]))
    else:
        most = (H, W)
    central = torch.tensor([(H - most[0]) // 2, (W - most[1]) // 2, *most])
    return torch.where(fits.any(0)[:, None], torch.stack([top, left, h, w], 1), central)


def resized_crop(
    images: torch.Tensor, rows: torch.Tensor, rectangles: Rectangles, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Rectangles of the images `rows` of (N, C, h, w), resized to `size`, bilinear with antialiasing, then flipped:
    (B, C, H, W) of the same type; `size` is that of the images where None.

    On a CPU image by image, as torchvision does. On a device all at once, by two matrix products with the filter's
    weights: the same but for the rounding, at most one of 255 levels.
    """
    size = size or (images.shape[2], images.shape[3])
    crop = _one_by_one if images.device.type == "cpu" else _at_once
    return crop(images, rows, rectangles, size)


def _one_by_one(
    images: torch.Tensor, rows: torch.Tensor, rectangles: Rectangles, size: tuple[int, int]
) -> torch.Tensor:
    result = torch.empty(len(rows), images.shape[1], *size, dtype=images.dtype)
    flips = zip(rectangles.mirror.tolist(), rectangles.upside.tolist(), strict=True)
    cuts = zip(result, rows.tolist(), rectangles.places.tolist(), flips, strict=True)
    for target, row, (top, left, h, w), (mirror, upside) in cuts:
        cut = images[row, :, top : top + h, left : left + w][None]
        if images.dtype == torch.uint8:
            cut = F.interpolate(cut, size=size, mode="bilinear", antialias=True)[0]
        else:
            cut = F.interpolate(cut.float(), size=size, mode="bilinear", antialias=True)[0].round_()
        dims = [dim for dim, flipped in ((1, upside), (2, mirror)) if flipped]
        target.copy_(cut.flip(dims) if dims else cut)
    return result


def _at_once(
    images: torch.Tensor, rows: torch.Tensor, rectangles: Rectangles, size: tuple[int, int]
) -> torch.Tensor:
    (h, w), (H, W) = images.shape[-2:], size
    top, left, tall, wide = rectangles.places.unbind(1)
    down = _weights(top, tall, h, H, rectangles.upside)[:, None]  # (B, 1, H, h)
    across = _weights(left, wide, w, W, rectangles.mirror)[:, None]
    resized = down @ taken(images, rows).float() @ across.transpose(2, 3)  # (B, C, H, W)
    return resized.round_().clamp_(0, torch.iinfo(images.dtype).max).to(images.dtype)


def _weights(
    first: torch.Tensor, length: torch.Tensor, given: int, size: int, flipped: torch.Tensor
) -> torch.Tensor:
    """(B, size, given): how much pixel j of a line counts in pixel i of the cut, resized line: a triangle as wide as
    the step from one pixel to the next, where that is more than 1.
    """
    i = torch.arange(size, device=first.device, dtype=torch.float32)
    j = torch.arange(given, device=first.device, dtype=torch.float32)
    step = (length / size)[:, None, None]
    i = torch.where(flipped[:, None], size - 1 - i, i)[:, :, None]
    j = j[None, None, :] - first[:, None, None]
    distance = (j + 0.5 - step * (i + 0.5)) / step.clamp(min=1)
    inside = (j >= 0) & (j < length[:, None, None])
    weights = (1 - distance.abs()).clamp(min=0) * inside
    return weights / weights.sum(2, keepdim=True)
