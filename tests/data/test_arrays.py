"""Images of many channels as NumPy arrays, and images of different sizes by a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reborn_nas.data import ImageSet, load_dataset
from reborn_nas.errors import DataError, UnknownNameError


def arrays(root: Path, make: Any, count: int = 24) -> None:
    for k in range(count):
        own = root / "train" / "ab"[k % 2]
        own.mkdir(parents=True, exist_ok=True)
        np.save(own / f"{k:03d}.npy", make(k))


def load(root: Path, **more: Any) -> ImageSet:
    return load_dataset(f"folder:{root}", **more)


def test_six_channels_of_bytes_are_kept_as_they_are(tmp_path: Path) -> None:
    draws = np.random.default_rng(0).integers(0, 256, (24, 5, 7, 6), dtype=np.uint8)
    arrays(tmp_path / "last", lambda k: draws[k])
    arrays(tmp_path / "first", lambda k: np.ascontiguousarray(draws[k].transpose(2, 0, 1)))
    images = load(tmp_path / "last")
    assert images.input_size == (6, 5, 7)
    order = [*range(0, 24, 2), *range(1, 24, 2)]  # by class
    assert np.array_equal(images.images[:].numpy(), draws[order].transpose(0, 3, 1, 2))
    assert len(images.mean) == 6
    # channels first where the last axis is longer than any number of channels
    wide = np.random.default_rng(1).integers(0, 256, (24, 4, 20, 18), dtype=np.uint8)
    arrays(tmp_path / "wide", lambda k: wide[k])
    assert np.array_equal(load(tmp_path / "wide").images[:].numpy(), wide[order])


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(0, 4095, np.uint16), (-500, 1500, np.int16), (-1.5, 2.5, np.float32)]
)
def test_one_range_for_all_arrays(tmp_path: Path, low: float, high: float, kind: Any) -> None:
    draws = np.random.default_rng(0).uniform(low, high, (24, 5, 6, 4)).astype(kind)
    draws[0, 0, 0, 0], draws[1, 0, 0, 0] = low, high
    arrays(tmp_path, lambda k: draws[k])
    images = load(tmp_path)
    expected = ((draws.astype(np.float64) - low) * 65535 / (high - low)).round().transpose(0, 3, 1, 2)
    order = [*range(0, 24, 2), *range(1, 24, 2)]
    assert np.array_equal(images.images[:].numpy(), expected[order])
    assert any(f"{low:g} … {high:g} become 0 … 65535 in all of them" in note for note in images.notes)
    streamed = load(tmp_path, stream=True, cache_dir=tmp_path / "cache")
    assert streamed.fingerprint == images.fingerprint
    assert torch.equal(streamed.images[torch.tensor([5, 0])], images.images[torch.tensor([5, 0])])
    part = expected[order][images.pool.numpy()] / 65535
    np.testing.assert_allclose(images.mean, part.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(images.std, part.std((0, 2, 3)), rtol=1e-9)


def test_arrays_that_fit_no_set_are_refused(tmp_path: Path) -> None:
    def refused(name: str, make: Any, match: str) -> None:
        arrays(tmp_path / name, make)
        with pytest.raises(DataError, match=match):
            load(tmp_path / name)

    ones = np.ones((5, 6, 4))
    refused("nan", lambda k: ones * (np.nan if k == 3 else k), r"003\.npy.*not finite")
    refused("constant", lambda k: 7 * ones, "every pixel of all 24 images is 7")
    refused("channels", lambda k: np.zeros((5, 6, 4 + (k == 3)), np.uint8), "same number of channels")
    refused("mixed", lambda k: np.zeros((5, 6, 4), np.uint8 if k else np.uint16), "uint8 and others not")
    refused(
        "four", lambda k: np.zeros((2, 5, 6, 4)), r"24 images cannot be read(?s:.*)shape is \(2, 5, 6, 4\)"
    )
    refused("text", lambda k: np.full((5, 6), "x"), "its values are <U1")
    refused("pickled", lambda k: np.array([[{}]], dtype=object), "cannot be read")


def test_beside_pictures_arrays_are_not_images(tmp_path: Path) -> None:
    arrays(tmp_path, lambda k: np.zeros((5, 6), np.uint8), 6)
    draws = np.random.default_rng(0)
    for k in range(24):
        picture = Image.fromarray(draws.integers(0, 256, (6, 5, 3), dtype=np.uint8))
        picture.save(tmp_path / "train" / "ab"[k % 2] / f"{k}.png")
    images = load(tmp_path)
    assert len(images.labels) == 24
    assert any("6 files" in note and ".npy (6)" in note for note in images.notes)


@pytest.mark.parametrize("stream", [False, True])
def test_sizes_by_a_policy(tmp_path: Path, stream: bool) -> None:
    """A grey image twice as wide as high, its left half white, into a square of black and white ones."""
    draws = np.random.default_rng(0)
    for k in range(24):
        (own := tmp_path / "train" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        square = Image.fromarray(draws.integers(0, 2, (8, 8), dtype=np.uint8) * 255)
        square.save(own / f"{k:03d}.png")
    wide = np.zeros((8, 16), np.uint8)
    wide[:, :8] = 255
    Image.fromarray(wide).save(tmp_path / "train" / "a" / "000.png")

    def shown(resize: str) -> tuple[torch.Tensor, str]:
        images = load(tmp_path, resize=resize, stream=stream, cache_dir=tmp_path / "cache")
        return images.images[:][0, 0], " ".join(images.notes)

    cover, said = shown("cover")
    assert "cut in the middle" in said
    assert (cover[:, :4] == 255).all()
    assert (cover[:, 4:] == 0).all()
    contain, said = shown("contain")
    assert "black around" in said
    assert (contain[[0, 1, 6, 7]] == 0).all()
    assert (contain[2:6, :3] == 255).all()
    stretch, said = shown("stretch")
    assert "stretched" in said
    assert (stretch[:, :3] == 255).all()
    assert (stretch[:, 5:] == 0).all()
    assert not torch.equal(stretch, cover)  # the edge is resampled


def test_policies_are_named_and_belong_to_folders(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="stretch"):
        load(tmp_path, resize="strech")
    with pytest.raises(DataError, match=r"one size.*--resize"):
        load_dataset("digits", resize="contain")


def test_axes_that_could_be_either_are_reported(tmp_path: Path) -> None:
    draws = np.random.default_rng(0).integers(0, 256, (24, 8, 12, 10), dtype=np.uint8)
    arrays(tmp_path / "either", lambda k: draws[k])
    images = load(tmp_path / "either")
    assert images.input_size == (10, 8, 12)
    assert any("24 arrays could have their channels first or last; the last" in note for note in images.notes)
    arrays(tmp_path / "plain", lambda k: draws[k, :, :, 0])
    wide = np.random.default_rng(0).integers(0, 256, (24, 8, 12, 30), dtype=np.uint8)
    arrays(tmp_path / "first", lambda k: wide[k])
    for name in ("plain", "first"):
        assert not any("first or last" in note for note in load(tmp_path / name).notes)
