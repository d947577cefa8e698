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


def draw_offsets(count: int, padding: int, flip: bool, generator: torch.Generator) -> Offsets:
    """Independent uniform offsets in 0 … 2·`padding` and fair flips for `count` images.

    Always the same number of draws, so that switching the flip off leaves the crops as they were.
    """
    reach = 2 * padding + 1
    top = torch.randint(reach, (count,), generator=generator)
    left = torch.randint(reach, (count,), generator=generator)
    mirror = torch.randint(2, (count,), generator=generator).bool()
    return Offsets(top, left, mirror if flip else torch.zeros_like(mirror))


def crop_flip(images: torch.Tensor, rows: torch.Tensor, offsets: Offsets, padding: int) -> torch.Tensor:
    """Images `rows` of (N, C, H, W), padded with zeros, cropped at their offsets, mirrored where told: (B, C, H, W).

    On a device one gather. On a CPU one copy of a rectangle per image, to the same bits: at 224 px a gather, which
    computes an index for every pixel, takes many times as long.
    """
    if images.device.type == "cpu" and images.dtype == torch.uint8:
        return _copied(images, rows, offsets, padding)
    return _gathered(images, rows, offsets, padding)


def _copied(images: torch.Tensor, rows: torch.Tensor, offsets: Offsets, padding: int) -> torch.Tensor:
    """Row i of the result is row i + top − padding of the image; columns likewise, then mirrored."""
    _, C, H, W = images.shape
    source = images.numpy()
    result = torch.empty(len(rows), C, H, W, dtype=images.dtype)
    drawn = (rows, offsets.top, offsets.left, offsets.mirror)
    crops = zip(*(values.numpy().tolist() for values in drawn))
    for target, (row, top, left, mirror) in zip(result.numpy(), crops):
        down, right = top - padding, left - padding
        if down or right:
            target.fill(0)
        if mirror:
            target = target[:, :, ::-1]
        (y, x), (from_y, from_x) = zip(_overlap(down, H), _overlap(right, W))
        target[:, y, x] = source[row, :, from_y, from_x]
    return result


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Where a line of `size` pixels and the same line moved by `shift` overlap: in the result, and in the image."""
    first = min(size, max(0, -shift))
    last = max(first, size - max(0, shift))
    return slice(first, last), slice(first + shift, last + shift)


def _gathered(images: torch.Tensor, rows: torch.Tensor, offsets: Offsets, padding: int) -> torch.Tensor:
    """Source row i + top − padding and source column j + left − padding (read from the right end where mirrored) are
    clamped into the image, and what lay outside becomes 0.
    """
    _, C, H, W = images.shape
    i = torch.arange(H, device=images.device)
    j = torch.arange(W, device=images.device)
    columns = torch.where(offsets.mirror[:, None], W - 1 - j, j)
    y = i + (offsets.top - padding)[:, None]  # (B, H)
    x = columns + (offsets.left - padding)[:, None]  # (B, W)
    channel = torch.arange(C, device=images.device)[:, None, None]
    taken = images[
        rows[:, None, None, None],
        channel,
        y.clamp(0, H - 1)[:, None, :, None],
        x.clamp(0, W - 1)[:, None, None, :],
    ]
    if padding == 0:
        return taken
    inside = ((y >= 0) & (y < H))[:, None, :, None] & ((x >= 0) & (x < W))[:, None, None, :]
    return taken * inside
