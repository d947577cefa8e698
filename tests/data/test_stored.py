"""Images kept otherwise than networks get them: larger ones, parts of which are shown, and grey ones as RGB."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from reborn_nas.data import Augmentation, ImageSet, Resident, load_dataset
from reborn_nas.data.augment import Draws
from reborn_nas.data.augment.crops import Offsets, _gathered, crop_flip
from reborn_nas.data.augment.resized import Rectangles, _at_once, draw_places, resized_crop
from reborn_nas.errors import DataError


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    draws = np.random.default_rng(0)
    for k in range(40):
        (own := root / "train" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (30, 40), dtype=np.uint8)).save(own / f"{k:03}.png")
    return root


def load(root: Path, **more: Any) -> ImageSet:
    return load_dataset(f"folder:{root}", image_size=(16, 20), stored_size=(20, 24), **more)


def normalised(images: ImageSet, pixels: torch.Tensor) -> torch.Tensor:
    C = len(images.mean)
    mean, std = (torch.tensor(v).view(1, C, 1, 1) for v in (images.mean, images.std))
    return (pixels.expand(-1, C, -1, -1).float() / 255 - mean) / std


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rgb", [False, True])
def test_judging_sees_the_middle(photos: Path, tmp_path: Path, stream: bool, rgb: bool) -> None:
    images = load(photos, stream=stream, cache_dir=tmp_path, rgb=rgb)
    assert images.images.shape == (40, 1, 20, 24)
    assert images.input_size == (3 if rgb else 1, 16, 20)
    got = torch.cat([x for x, _ in Resident(images, images.test).ordered(7)])
    expected = normalised(images, images.images[images.test][:, :, 2:18, 2:22])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    still = Resident(images, images.pool, augmentation=Augmentation())
    shown = torch.cat([x for x, _ in still.epoch([len(images.pool)], seed=0, epoch=0)])
    assert shown.shape[1:] == images.input_size


@pytest.mark.parametrize(
    "augmentation", [Augmentation(0, True), Augmentation(3, True), Augmentation(scale=(0.2, 0.9))]
)
def test_an_epoch_is_the_same_streamed(photos: Path, tmp_path: Path, augmentation: Augmentation) -> None:
    whole = load(photos, rgb=True)
    disk = load(photos, rgb=True, stream=True, cache_dir=tmp_path)
    assert whole.fingerprint == disk.fingerprint
    assert whole.fingerprint != load_dataset(f"folder:{photos}", image_size=(20, 24), rgb=True).fingerprint
    ours, theirs = (
        list(Resident(one, one.pool, augmentation=augmentation).epoch([8, 8], seed=1, epoch=2))
        for one in (whole, disk)
    )
    for (x, y), (other, labels) in zip(ours, theirs, strict=True):
        assert x.shape == (8, 3, 16, 20)
        assert torch.equal(x, other)
        assert torch.equal(y, labels)


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("padding", [0, 3])
def test_any_part_may_be_shown(kind: torch.dtype, padding: int) -> None:
    """Offsets from one corner of the padded images to the other, against a loop over padded arrays."""
    draws = np.random.default_rng(0)
    pixels = draws.integers(1, torch.iinfo(kind).max, (5, 2, 9, 12), endpoint=True)
    images = torch.from_numpy(pixels).to(kind)
    count, (down, right) = 200, (9 - 6 + 2 * padding + 1, 12 - 7 + 2 * padding + 1)
    rows = torch.from_numpy(draws.integers(0, 5, count))
    top, left = (torch.from_numpy(draws.integers(0, n, count)) for n in (down, right))
    mirror = torch.from_numpy(draws.integers(0, 2, count)).bool()
    offsets = Offsets(top, left, mirror)
    got = crop_flip(images, rows, offsets, padding, (6, 7))
    framed = np.pad(pixels, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    for k in range(count):
        cut = framed[rows[k], :, top[k] : top[k] + 6, left[k] : left[k] + 7]
        assert np.array_equal(got[k].numpy(), cut[:, :, ::-1] if mirror[k] else cut), k
    assert torch.equal(got, _gathered(images, rows, offsets, padding, (6, 7)))  # as on a GPU


def test_all_parts_are_shown_and_all_alike() -> None:
    draws = Draws(20_000, Augmentation(flip=True), (4, 5), (0.5,), seed=0, epoch=0, kept=(6, 8))
    corner = torch.zeros(1, 1, 6, 8, dtype=torch.uint8)
    corner.view(-1)[:] = torch.arange(48)
    shown = draws.pixels(corner, torch.zeros(20_000, dtype=torch.long), slice(0, 20_000))[:, 0, 0]
    first = shown[:, [0, -1]].amin(1)  # the left one, mirrored or not
    counts = torch.bincount(first.int())
    places = [8 * top + left for top in range(3) for left in range(4)]
    assert counts.nonzero().flatten().tolist() == places
    assert (counts[places] - 20_000 / 12).abs().max() < 5 * (20_000 / 12) ** 0.5


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16])
def test_rectangles_are_resized_to_the_size_that_is_shown(kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        torch.iinfo(kind).max + 1, (20, 3, 22, 30), generator=generator, dtype=torch.int32
    ).to(kind)
    places = draw_places(20, (22, 30), (0.1, 1.0), (3 / 4, 4 / 3), generator)
    none = torch.zeros(20, dtype=torch.bool)
    rectangles = Rectangles(places, ~none, none)
    got = resized_crop(images, torch.arange(20), rectangles, (12, 14))
    for k in range(20):
        pixels = images[k] if kind == torch.uint8 else images[k].float()
        expected = v2.functional.resized_crop(pixels, *places[k].tolist(), [12, 14], antialias=True)
        expected = v2.functional.horizontal_flip(expected)
        assert torch.equal(got[k].double(), expected.double().round()), k
    close = _at_once(images, torch.arange(20), rectangles, (12, 14)).int() - got.int()
    assert int(close.abs().max()) <= 1


def test_sizes_that_do_not_fit_are_refused(photos: Path) -> None:
    with pytest.raises(DataError, match=r"20×20 was given with an image_size of 24×24.*--stored-size 256"):
        load_dataset(f"folder:{photos}", image_size=24, stored_size=20)
    with pytest.raises(DataError, match=r"with no image_size"):
        load_dataset(f"folder:{photos}", stored_size=20)
    with pytest.raises(DataError, match=r"only images of your own are kept larger"):
        load_dataset("digits", image_size=8, stored_size=10)


def test_rgb_is_the_grey_image_three_times(photos: Path, tmp_path: Path) -> None:
    """Augmented, erased and normalised as an image with three equal channels would be."""
    grey = load_dataset(f"folder:{photos}")
    rgb = load_dataset(f"folder:{photos}", rgb=True, stream=True, cache_dir=tmp_path)
    three = replace(grey, images=grey.images.repeat(1, 3, 1, 1), mean=grey.mean * 3, std=grey.std * 3)
    how = Augmentation(2, True, reprob=0.9, remode="pixel", color_jitter=(0.4, 0.4, 0.4))
    ours, theirs = (
        [x for x, _ in Resident(one, one.pool, augmentation=how).epoch([8, 8], seed=1, epoch=2)]
        for one in (rgb, three)
    )
    for x, other in zip(ours, theirs, strict=True):
        assert torch.equal(x, other)
