"""TIFF files of many channels, deep colours, pages and signed bytes, against the arrays that tifffile wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import reborn_nas.data.files.tiff as tiffs
from reborn_nas.data import ImageSet, load_dataset
from reborn_nas.errors import DataError

COUNT = 12
tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")


def written(root: Path, values: np.ndarray, **how: Any) -> ImageSet:
    """12 files of these arrays, of two classes, read as a data set."""
    for k, image in enumerate(values):
        own = root / "train" / "ab"[k // 6]
        own.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(own / f"{k:02}.tif", image, **how)
    return load_dataset(f"folder:{root}")


def draws(shape: tuple[int, ...], kind: str = "uint8") -> np.ndarray:
    whole = np.iinfo(kind)
    return np.random.default_rng(0).integers(whole.min, whole.max, (COUNT, *shape), kind, endpoint=True)


@pytest.mark.parametrize("channels", [4, 5, 16])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_samples_are_channels(tmp_path: Path, channels: int, kind: str, planar: str) -> None:
    values = draws((7, 9, channels), kind)
    first = values.transpose(0, 3, 1, 2)
    images = written(
        tmp_path, first if planar == "separate" else values, photometric="minisblack", planarconfig=planar
    )
    assert images.input_size == (channels, 7, 9)
    assert str(images.images.dtype) == f"torch.{kind}"
    assert np.array_equal(images.images.numpy(), first)
    streamed = load_dataset(f"folder:{tmp_path}", stream=True, cache_dir=tmp_path / "cache")
    assert streamed.fingerprint == images.fingerprint
    assert np.array_equal(streamed.images[:].numpy(), first)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_pages_are_channels(tmp_path: Path, kind: str) -> None:
    values = draws((5, 7, 9), kind)
    images = written(tmp_path, values, photometric="minisblack")
    assert np.array_equal(images.images.numpy(), values)
    said = "12 TIFF files hold several grey pages of one size, which are read as channels"
    assert any(said in note for note in images.notes)


def test_what_lies_beside_red_green_and_blue_is_kept(tmp_path: Path) -> None:
    """Near infrared as a fourth sample of a colour image, which Pillow leaves out without a word."""
    values = draws((7, 9, 4))
    images = written(tmp_path / "unspecified", values, photometric="rgb", extrasamples=["unspecified"])
    assert np.array_equal(images.images.numpy(), values.transpose(0, 3, 1, 2))
    images = written(tmp_path / "alpha", values, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(images.images.numpy(), values[..., :3].transpose(0, 3, 1, 2))
    assert any("12 images have transparency, which is not read" in note for note in images.notes)


def test_deep_colours_and_odd_numbers(tmp_path: Path) -> None:
    colours = draws((7, 9, 3), "uint16")
    images = written(tmp_path / "colours", colours, photometric="rgb")
    assert np.array_equal(images.images.numpy(), colours.transpose(0, 3, 1, 2))
    for kind in ("int8", "uint32", "float64", "float16"):
        values = np.random.default_rng(1).uniform(0, 100, (COUNT, 7, 9))
        values[0, 0, :2] = (-120, 127) if kind != "uint32" else (0, 2**32 - 1)
        values = values.astype(kind)
        images = written(tmp_path / kind, values)
        low, high = (0, 2**32 - 1) if kind == "uint32" else (-120, 127)
        one = 255 if kind == "int8" else 65535
        expected = np.round((values.astype(float) - low) * one / (high - low))
        assert np.abs(images.images[:, 0].numpy() - expected).max() == 0, kind
        assert images.one == one


def test_a_turned_image_is_seen_upright(tmp_path: Path) -> None:
    values = draws((7, 9, 5))
    turned = [(274, "H", 1, 6, True)]  # a quarter to the right
    images = written(tmp_path, values, photometric="minisblack", planarconfig="contig", extratags=turned)
    assert images.input_size == (5, 9, 7)
    assert np.array_equal(images.images.numpy(), np.rot90(values, -1, (1, 2)).transpose(0, 3, 1, 2))


def test_what_cannot_be_read_as_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"12 images cannot be read(?s:.*)it has 17 grey pages, and at most 16"
    ):
        written(tmp_path / "pages", draws((17, 5, 6)), photometric="minisblack")
    with pytest.raises(DataError, match=r"it has 20 samples a pixel, and at most 16"):
        written(tmp_path / "samples", draws((5, 6, 20)), photometric="minisblack", planarconfig="contig")
    written(tmp_path / "mixed", draws((5, 6, 4)), photometric="minisblack", planarconfig="contig")
    Image.new("RGB", (6, 5)).save(tmp_path / "mixed" / "train" / "b" / "colour.png")
    with pytest.raises(DataError, match=r"same number of channels, but .*colour\.png has 3, .*00\.tif has 4"):
        load_dataset(f"folder:{tmp_path / 'mixed'}")
    cut = tmp_path / "cut" / "train" / "a" / "03.tif"
    written(tmp_path / "cut", draws((50, 60, 5)), photometric="minisblack", planarconfig="contig")
    cut.write_bytes(cut.read_bytes()[:-9000])
    with pytest.raises(DataError, match=r"03\.tif cannot be read"):
        load_dataset(f"folder:{tmp_path / 'cut'}")
    assert len(load_dataset(f"folder:{tmp_path / 'cut'}", skip_broken=True).labels) == COUNT - 1


def test_without_tifffile_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, draws((5, 6, 4)), photometric="minisblack", planarconfig="contig")
    monkeypatch.setattr(tiffs, "tifffile", None)
    said = r"00\.tif is a TIFF file of 4 × 8 bits a pixel.*pip install tifffile imagecodecs"
    with pytest.raises(DataError, match=said):
        load_dataset(f"folder:{tmp_path}", skip_broken=True)


def test_white_is_zero(tmp_path: Path) -> None:
    """Files of both kinds in one set: 0 is white in the first six."""
    for kind in ("uint8", "uint16"):
        values = draws((7, 9), kind)
        written(tmp_path / kind, values, photometric="minisblack")
        for k in range(6):
            turned = np.iinfo(kind).max - values[k]
            tifffile.imwrite(
                tmp_path / kind / "train" / "a" / f"{k:02}.tif", turned, photometric="miniswhite"
            )
        images = load_dataset(f"folder:{tmp_path / kind}")
        assert np.array_equal(images.images[:, 0].numpy(), values)
