"""Random crop and flip of a whole batch, each image with its own offset."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Offsets:
    """What happens to each image of a batch or an epoch.

    Args:
        top, left: int64 (B,), where the crop begins in the padded image, in 0 … 2·padding.
        mirror: bool (B,).
    """

    top: torch.Tensor
    left: torch.Tensor
    mirror: torch.Tensor

    def __getitem__(self, rows: slice | torch.Tensor) -> Offsets:
        return Offsets(self.top[rows], self.left[rows], self.mirror[rows])

    def to(self, device: torch.device, non_blocking: bool = False) -> Offsets:
        """A copy on `device`."""
        moved = (t.to(device, non_blocking=non_blocking) for t in (self.top, self.left, self.mirror))
        return Offsets(*moved)


def draw_offsets(
    count: int, padding: int, flip: bool, generator: torch.Generator, spare: tuple[int, int] = (0, 0)
) -> Offsets:
    """Independent uniform offsets in 0 … 2·`padding` and fair flips for `count` images.

    Always the same number of draws, so that switching the flip off leaves the crops as they were.

    Args:
        spare: by how much the images are higher and wider than the crops.
    """
    down, right = (2 * padding + more + 1 for more in spare)
    top = torch.randint(down, (count,), generator=generator)
    left = torch.randint(right, (count,), generator=generator)
    mirror = torch.randint(2, (count,), generator=generator).bool()
    return Offsets(top, left, mirror if flip else torch.zeros_like(mirror))


def crop_flip(
    images: torch.Tensor,
    rows: torch.Tensor,
    offsets: Offsets,
    padding: int,
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Images `rows` of (N, C, h, w), padded with zeros, cropped to `size` at their offsets, mirrored where told:
    (B, C, H, W); `size` is that of the images where None.

    On a device one gather. On a CPU one copy of a rectangle per image, to the same bits: at 224 px a gather, which
    computes an index for every pixel, takes many times as long.
    """
    H, W = size or (images.shape[2], images.shape[3])
    if images.device.type == "cpu":
        return _copied(images, rows, offsets, padding, (H, W))
    return _gathered(images, rows, offsets, padding, (H, W))


def _copied(
    images: torch.Tensor, rows: torch.Tensor, offsets: Offsets, padding: int, size: tuple[int, int]
) -> torch.Tensor:
    """Row i of the result is row i + top − padding of the image; columns likewise, then mirrored."""
    _, C, h, w = images.shape
    H, W = size
    source = images.numpy()
    result = torch.empty(len(rows), C, H, W, dtype=images.dtype)
    drawn = (rows, offsets.top, offsets.left, offsets.mirror)
    crops = zip(*(values.numpy().tolist() for values in drawn))
    for target, (row, top, left, mirror) in zip(result.numpy(), crops):
        down, right = top - padding, left - padding
        if not (0 <= down <= h - H and 0 <= right <= w - W):
            target.fill(0)
        if mirror:
            target = target[:, :, ::-1]
        (y, x), (from_y, from_x) = zip(_overlap(down, H, h), _overlap(right, W, w))
        target[:, y, x] = source[row, :, from_y, from_x]
    return result


def _overlap(shift: int, size: int, length: int) -> tuple[slice, slice]:
    """Where `size` pixels and a line of `length` pixels overlap, of which they begin at `shift`: in both."""
    first = min(size, max(0, -shift))
    last = max(first, min(size, length - shift))
    return slice(first, last), slice(first + shift, last + shift)


def _gathered(
    images: torch.Tensor, rows: torch.Tensor, offsets: Offsets, padding: int, size: tuple[int, int]
) -> torch.Tensor:
    """Source row i + top − padding and source column j + left − padding (read from the right end where mirrored) are
    clamped into the image, and what lay outside becomes 0.
    """
    _, C, h, w = images.shape
    H, W = size
    i = torch.arange(H, device=images.device)
    j = torch.arange(W, device=images.device)
    columns = torch.where(offsets.mirror[:, None], W - 1 - j, j)
    y = i + (offsets.top - padding)[:, None]  # (B, H)
    x = columns + (offsets.left - padding)[:, None]  # (B, W)
    channel = torch.arange(C, device=images.device)[:, None, None]
    bits = _signed(images)
    cut = bits[
        rows[:, None, None, None],
        channel,
        y.clamp(0, h - 1)[:, None, :, None],
        x.clamp(0, w - 1)[:, None, None, :],
    ]
    if padding > 0:
        cut *= ((y >= 0) & (y < h))[:, None, :, None] & ((x >= 0) & (x < w))[:, None, None, :]
    return cut.view(images.dtype)


def taken(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Images `rows` of (N, C, H, W)."""
    return _signed(images).index_select(0, rows).view(images.dtype)


def flipped(images: torch.Tensor, upside: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W), upside down where told."""
    bits = _signed(images)
    return torch.where(upside[:, None, None, None], bits.flip(2), bits).view(images.dtype)


def _signed(images: torch.Tensor) -> torch.Tensor:
    """The same bits in a type for which every device has all kernels; uint16 has few."""
    return images.view(torch.int16) if images.dtype == torch.uint16 else images
