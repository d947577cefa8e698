"""Random erasing (Zhong et al. 2017), by the rule of timm's `RandomErasing`."""

from __future__ import annotations

import math

import torch

AREAS = (0.02, 1 / 3)
ASPECTS = (0.3, 1 / 0.3)
ATTEMPTS = 10


def draw_boxes(
    count: int, size: tuple[int, int], probability: float, most: int, generator: torch.Generator
) -> torch.Tensor:
    """int64 (count, most, 4): top, left, height and width of what is erased; height 0 where nothing is.

    An image is hit with `probability`, then by 1 … `most` rectangles, which share the area. A rectangle has `ATTEMPTS`
    to be smaller than the image in both directions.
    """
    H, W = size
    hit = torch.rand(count, dtype=torch.float64, generator=generator) < probability
    boxes = torch.randint(1, most + 1, (count,), generator=generator)
    drawn = torch.rand(4, ATTEMPTS, count, most, dtype=torch.float64, generator=generator)
    area = H * W * (AREAS[0] + (AREAS[1] - AREAS[0]) * drawn[0]) / boxes[None, :, None]
    low, high = math.log(ASPECTS[0]), math.log(ASPECTS[1])
    aspect = torch.exp(low + (high - low) * drawn[1])
    h, w = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (h < H) & (w < W)
    first = fits.int().argmax(0, keepdim=True)
    h, w = h.gather(0, first)[0], w.gather(0, first)[0]
    top = ((H - h + 1) * drawn[2, 0]).floor().long()
    left = ((W - w + 1) * drawn[3, 0]).floor().long()
    erased = fits.any(0) & hit[:, None] & (torch.arange(most)[None] < boxes[:, None])
    return torch.stack([top, left, torch.where(erased, h, 0), w], 2)


def erase(images: torch.Tensor, boxes: torch.Tensor, mode: str, generator: torch.Generator) -> None:
    """Erase `boxes` (B, k, 4), on the host, of normalised images (B, C, H, W) in place.

    Args:
        mode: "const" zeros, "rand" one normal number a channel, "pixel" one a pixel.
        generator: on the host, so that every device has the same noise.
    """
    C = images.shape[1]
    for k, b in (boxes[:, :, 2] > 0).nonzero().tolist():
        top, left, h, w = boxes[k, b].tolist()
        place = images[k, :, top : top + h, left : left + w]
        if mode == "const":
            place.zero_()
        else:
            noise = torch.randn((C, 1, 1) if mode == "rand" else (C, h, w), generator=generator)
            place.copy_(noise.pin_memory() if images.is_cuda else noise, non_blocking=True)
