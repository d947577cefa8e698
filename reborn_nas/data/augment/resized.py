"""Random resized crops (Szegedy et al. 2015): a rectangle of each image, resized to the image's size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

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
    """int64 (count, 4): top, left, height and width, by the rule of torchvision's `RandomResizedCrop`."""
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


def resized_crop(images: torch.Tensor, rows: torch.Tensor, rectangles: Rectangles) -> torch.Tensor:
    """Rectangles of the uint8 images `rows` of (N, C, H, W), resized to (H, W), bilinear with antialiasing, then
    flipped: uint8 (B, C, H, W).

    On a CPU image by image, as torchvision does. On a device all at once, by two matrix products with the filter's
    weights: the same but for the rounding, at most one of 255 levels.
    """
    return (
        _one_by_one(images, rows, rectangles)
        if images.device.type == "cpu"
        else _at_once(images, rows, rectangles)
    )


def _one_by_one(images: torch.Tensor, rows: torch.Tensor, rectangles: Rectangles) -> torch.Tensor:
    _, C, H, W = images.shape
    result = torch.empty(len(rows), C, H, W, dtype=torch.uint8)
    flips = zip(rectangles.mirror.tolist(), rectangles.upside.tolist(), strict=True)
    cuts = zip(result, rows.tolist(), rectangles.places.tolist(), flips, strict=True)
    for target, row, (top, left, h, w), (mirror, upside) in cuts:
        cut = images[row, :, top : top + h, left : left + w][None]
        cut = F.interpolate(cut, size=(H, W), mode="bilinear", antialias=True)[0]
        dims = [dim for dim, flipped in ((1, upside), (2, mirror)) if flipped]
        target.copy_(cut.flip(dims) if dims else cut)
    return result


def _at_once(images: torch.Tensor, rows: torch.Tensor, rectangles: Rectangles) -> torch.Tensor:
    H, W = images.shape[-2:]
    top, left, h, w = rectangles.places.unbind(1)
    down = _weights(top, h, H, rectangles.upside)[:, None]  # (B, 1, H, H)
    across = _weights(left, w, W, rectangles.mirror)[:, None]
    resized = down @ images[rows].float() @ across.transpose(2, 3)  # (B, C, H, W)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _weights(first: torch.Tensor, length: torch.Tensor, size: int, flipped: torch.Tensor) -> torch.Tensor:
    """(B, size, size): how much pixel j of a line counts in pixel i of the cut, resized line: a triangle as wide as
    the step from one pixel to the next, where that is more than 1.
    """
    index = torch.arange(size, device=first.device, dtype=torch.float32)
    step = (length / size)[:, None, None]
    i = torch.where(flipped[:, None], size - 1 - index, index)[:, :, None]
    j = index[None, None, :] - first[:, None, None]
    distance = (j + 0.5 - step * (i + 0.5)) / step.clamp(min=1)
    inside = (j >= 0) & (j < length[:, None, None])
    weights = (1 - distance.abs()).clamp(min=0) * inside
    return weights / weights.sum(2, keepdim=True)
