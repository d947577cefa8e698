"""The batched crop and flip against one image at a time, and its statistics."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from reborn_nas.data import Offsets, crop_flip, draw_offsets
from reborn_nas.data.augment.crops import _gathered


def reference(image: torch.Tensor, top: int, left: int, mirror: bool, padding: int) -> torch.Tensor:
    """What the paper says, for one image: pad with zeros, cut, flip."""
    C, H, W = image.shape
    padded = torch.zeros(C, H + 2 * padding, W + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + H, padding : padding + W] = image
    cut = padded[:, top : top + H, left : left + W]
    return cut.flip(2) if mirror else cut


@pytest.mark.parametrize(
    ("C", "H", "W", "padding"), [(3, 32, 32, 4), (1, 8, 8, 2), (3, 7, 12, 3), (2, 5, 5, 0), (1, 4, 4, 9)]
)
def test_equals_the_loop_over_images(C: int, H: int, W: int, padding: int) -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (40, C, H, W), generator=draws, dtype=torch.uint8)
    rows = torch.randint(40, (64,), generator=draws)
    offsets = draw_offsets(64, padding, True, draws)
    got = crop_flip(images, rows, offsets, padding)
    for k in range(64):
        top, left, mirror = int(offsets.top[k]), int(offsets.left[k]), bool(offsets.mirror[k])
        assert torch.equal(got[k], reference(images[rows[k]], top, left, mirror, padding)), k
    assert got.dtype == torch.uint8
    assert torch.equal(got, _gathered(images, rows, offsets, padding, (H, W)))  # as on a GPU


def test_extreme_offsets_show_the_corners() -> None:
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    rows = torch.tensor([0, 0, 0])
    offsets = Offsets(torch.tensor([0, 2, 1]), torch.tensor([0, 2, 1]), torch.tensor([False, False, True]))
    got = crop_flip(image, rows, offsets, 1)[:, 0].tolist()
    assert got[0] == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    assert got[1] == [[5, 6, 0], [8, 9, 0], [0, 0, 0]]
    assert got[2] == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]


def test_offsets_are_uniform_independent_and_flips_fair() -> None:
    count = 81_000
    offsets = draw_offsets(count, 4, True, torch.Generator().manual_seed(1))
    table = torch.zeros(9, 9)
    table.index_put_((offsets.top, offsets.left), torch.ones(count), accumulate=True)
    expected = count / 81
    chi_squared = float(((table - expected) ** 2 / expected).sum())
    # 80 degrees of freedom: mean 80, deviation 12.6
    assert 80 - 4 * 12.65 < chi_squared < 80 + 4 * 12.65
    assert float(offsets.mirror.double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / count**0.5)
    assert (
        abs(float(torch.corrcoef(torch.stack([offsets.top.double(), offsets.mirror.double()]))[0, 1])) < 0.015
    )


def test_without_flip_the_crops_stay_and_nothing_is_mirrored() -> None:
    one = draw_offsets(50, 4, True, torch.Generator().manual_seed(2))
    two = draw_offsets(50, 4, False, torch.Generator().manual_seed(2))
    assert torch.equal(one.top, two.top)
    assert torch.equal(one.left, two.left)
    assert bool(one.mirror.any())
    assert not bool(two.mirror.any())


def test_centre_offsets_are_the_plain_selection() -> None:
    images = torch.randint(256, (6, 3, 9, 9), dtype=torch.uint8)
    middle = torch.full((6,), 2)
    got = crop_flip(images, torch.arange(6), Offsets(middle, middle, torch.zeros(6, dtype=torch.bool)), 2)
    assert torch.equal(got, images)
    assert torch.equal(got, F.pad(images, (2, 2, 2, 2))[:, :, 2:-2, 2:-2])
