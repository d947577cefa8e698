"""A user's own images: what is read, in which order, and what is refused."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import reborn_nas.data.files.decode as decoding
from reborn_nas.data import Augmentation, load_dataset, split
from reborn_nas.errors import DataError


def picture(path: Path, size: tuple[int, int] = (10, 8), mode: str = "RGB", seed: int = 0) -> np.ndarray:
    """A random picture, width × height, written in the format of its suffix; its pixels."""
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def tree(
    root: Path,
    part: str = "train",
    classes: tuple[str, ...] = ("cat", "dog"),
    count: int = 12,
    **more: object,
) -> None:
    for c, own in enumerate(classes):
        for k in range(count):
            picture(root / part / own / f"{k:03}.png", seed=1000 * c + k, **more)  # type: ignore[arg-type]


def test_a_plain_folder(tmp_path: Path) -> None:
    tree(tmp_path)
    images = load_dataset(f"folder:{tmp_path}")
    assert images.classes == ("cat", "dog")
    assert images.images.shape == (24, 3, 8, 10)
    assert images.labels.tolist() == [0] * 12 + [1] * 12
    assert images.augmentation == Augmentation(4, True)
    assert not load_dataset(f"folder:{tmp_path}", flip=False).augmentation.flip
    expected = np.asarray(Image.open(tmp_path / "train" / "dog" / "003.png")).transpose(2, 0, 1)
    assert np.array_equal(images.images[15].numpy(), expected)
    assert any("no test/" in note for note in images.notes)
    parts = torch.cat([images.pool, images.reserve, images.test]).sort().values
    assert parts.tolist() == list(range(24))
    own = split(images, block=0, seed=0)
    for part in (own.train, own.validation, images.reserve, images.test):
        assert set(images.labels[part].tolist()) == {0, 1}


def test_the_order_and_the_fingerprint_do_not_depend_on_the_file_system(tmp_path: Path) -> None:
    tree(tmp_path / "a")
    for file in sorted((tmp_path / "a").rglob("*.png"), reverse=True):  # written the other way round
        copy = tmp_path / "b" / file.relative_to(tmp_path / "a")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    one, two = (load_dataset(f"folder:{tmp_path / name}") for name in "ab")
    assert one.fingerprint == two.fingerprint


def test_given_parts_are_kept(tmp_path: Path) -> None:
    tree(tmp_path, count=10)
    tree(tmp_path, "val", count=3)
    tree(tmp_path, "test", count=4)
    images = load_dataset(f"folder:{tmp_path}")
    assert (len(images.pool), len(images.reserve), len(images.test)) == (22, 4, 8)
    assert images.validation is not None
    first, second = (split(images, block=block, seed=0) for block in (0, 1))
    assert torch.equal(first.validation, images.validation)
    assert torch.equal(second.validation, images.validation)
    assert len(first.train) == 16
    assert not set(first.train.tolist()) & set(first.validation.tolist())
    assert any("val/ validate in every block" in note for note in images.notes)
    # mean and deviation are of the training images alone
    pixels = images.images[first.train].double() / 255
    assert images.mean[0] == pytest.approx(float(pixels[:, 0].mean()), abs=1e-12)


def test_classes_right_under_the_path(tmp_path: Path) -> None:
    tree(tmp_path.parent, tmp_path.name)
    images = load_dataset(f"folder:{tmp_path}")
    assert images.classes == ("cat", "dog")
    assert any("taken as the classes" in note for note in images.notes)


def test_grey_images_have_one_channel_and_one_colour_makes_three(tmp_path: Path) -> None:
    tree(tmp_path, mode="L")
    assert load_dataset(f"folder:{tmp_path}").input_size == (1, 8, 10)
    picture(tmp_path / "train" / "cat" / "zzz.png", mode="RGB")
    mixed = load_dataset(f"folder:{tmp_path}")
    assert mixed.input_size == (3, 8, 10)
    assert torch.equal(mixed.images[0, 0], mixed.images[0, 2])


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 80).astype(np.uint16).reshape(8, 10)
    for own in ("a", "b"):
        for k in range(4):
            path = tmp_path / "train" / own / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(deep).save(path)
    images = load_dataset(f"folder:{tmp_path}")
    assert images.input_size == (1, 8, 10)
    assert np.array_equal(images.images[0, 0].numpy(), deep)


def test_palettes_and_transparency_become_rgb(tmp_path: Path) -> None:
    tree(tmp_path)
    picture(tmp_path / "train" / "cat" / "alpha.png", mode="RGBA")
    Image.fromarray(np.zeros((8, 10), np.uint8)).convert("P").save(tmp_path / "train" / "dog" / "palette.gif")
    assert load_dataset(f"folder:{tmp_path}").images.shape == (26, 3, 8, 10)


def test_the_most_common_size_wins_and_the_others_cover_it(tmp_path: Path) -> None:
    tree(tmp_path)
    wide = np.zeros((16, 40, 3), np.uint8)
    wide[:, 15:25] = 255  # of 40 columns the middle 20 remain: a quarter black, half white, a quarter black
    Image.fromarray(wide).save(tmp_path / "train" / "cat" / "wide.png")
    images = load_dataset(f"folder:{tmp_path}")
    assert images.input_size == (3, 8, 10)
    row = images.images[12, 0, 4].tolist()
    assert row[0] == row[-1] == 0
    assert row[4] == row[5] == 255
    assert any("1 of 25 images are not 8×10" in note for note in images.notes)


def test_image_size_overrides(tmp_path: Path) -> None:
    tree(tmp_path)
    assert load_dataset(f"folder:{tmp_path}", image_size=6).input_size == (3, 6, 6)
    assert load_dataset(f"folder:{tmp_path}", image_size=(6, 5)).input_size == (3, 6, 5)


def test_exif_orientation_is_followed(tmp_path: Path) -> None:
    tree(tmp_path)
    turned = Image.fromarray(np.zeros((10, 8, 3), np.uint8))  # lies 8 wide, 10 high; is shown 10 wide, 8 high
    turned.putpixel((0, 0), (255, 255, 255))
    exif = turned.getexif()
    exif[0x0112] = 6  # turn a quarter to the right: the stored top left becomes the top right
    turned.save(tmp_path / "train" / "cat" / "turned.png", exif=exif)
    images = load_dataset(f"folder:{tmp_path}")
    assert images.images[12, 0, 0, 9] == 255
    assert not any("cut in the middle" in note for note in images.notes)


def test_only_images_of_the_fraction_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, count=40)
    read = []
    real = decoding.pixels_of
    monkeypatch.setattr(decoding, "pixels_of", lambda file, *a: (read.append(file), real(file, *a))[1])
    images = load_dataset(f"folder:{tmp_path}", fraction=0.25)
    assert len(read) == len(images.images) == 20


def notes_of(root: Path, **more: Any) -> str:
    return "\n".join(load_dataset(f"folder:{root}", **more).notes)


def test_what_is_not_read_is_listed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    tree(root)
    (root / "train" / ".hidden").mkdir()
    (root / "unlabelled").mkdir()
    (root / "README").write_text("about")
    (root / "train" / "cat" / "._000.png").write_bytes(b"resource fork")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    images = load_dataset(f"folder:{root}")
    assert images.classes == ("cat", "dog")
    assert len(images.images) == 24
    notes = "\n".join(images.notes)
    assert "2 files that are not images of a known format were not read: .png (1), .txt (1)" in notes
    assert "hidden folders" in notes
    assert ".hidden/" in notes
    assert f"not used in {root}: README, unlabelled/" in notes


def test_links_are_followed(tmp_path: Path) -> None:
    root, store = tmp_path / "data", tmp_path / "store"
    tree(root)
    tree(store, "away", count=5)
    tree(store, "val", count=3)
    picture(store / "one.png")
    (root / "val").symlink_to(store / "val")
    for part, own, target in (("train", "owl", "away/cat"), ("val", "owl", "away/dog")):
        (root / part / own).symlink_to(store / target)
    (root / "train" / "cat" / "one.png").symlink_to(store / "one.png")
    (root / "train" / "cat" / "again.png").symlink_to(root / "train" / "cat" / "000.png")
    (root / "train" / "cat" / "loop").symlink_to(root / "train")
    (root / "train" / "cat" / "gone").symlink_to(store / "nothing")
    images = load_dataset(f"folder:{root}")
    assert images.classes == ("cat", "dog", "owl")
    assert images.validation is not None
    assert len(images.validation) == 3 + 3 + 5
    assert int((images.labels == 0).sum()) == 12 + 1 + 3
    notes = "\n".join(images.notes)
    assert "7 symbolic links were followed" in notes
    assert "1 images are reached twice" in notes
    assert "around them were not followed: loop" in notes
    assert "1 links lead nowhere: gone" in notes


def test_a_file_in_two_classes_or_parts_by_a_link_is_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "train" / "owl").symlink_to(tmp_path / "train" / "dog")
    refused(tmp_path, r"dog/000\.png and .*owl/000\.png are one file")
    (tmp_path / "train" / "owl").unlink()
    (tmp_path / "val").symlink_to(tmp_path / "train")
    refused(tmp_path, r"train/cat/000\.png and .*val/cat/000\.png are one file")


def test_a_part_or_class_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "val").symlink_to(tmp_path / "none")
    refused(tmp_path, "val leads nowhere")
    (tmp_path / "val").unlink()
    (tmp_path / "train" / "owl").symlink_to(tmp_path / "none")
    refused(tmp_path, "owl leads nowhere")


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("Train", "VAL", "Test"),
        ("Training", "Valid", "Testing"),
        ("seg_train", "seg_val", "seg_test"),
        ("train2017", "val2017", "test2017"),
        ("trainset", "dev", "test_set"),
    ],
)
def test_the_names_of_parts(tmp_path: Path, train: str, validation: str, test: str) -> None:
    tree(tmp_path, train)
    tree(tmp_path, validation, count=3)
    tree(tmp_path, test, count=4)
    images = load_dataset(f"folder:{tmp_path}")
    assert images.classes == ("cat", "dog")
    assert images.validation is not None
    assert (len(images.validation), len(images.test)) == (6, 8)


def test_a_class_named_after_a_part(tmp_path: Path) -> None:
    tree(tmp_path.parent, tmp_path.name, classes=("car", "plane", "train"))
    assert load_dataset(f"folder:{tmp_path}").classes == ("car", "plane", "train")


def test_folders_whose_use_is_unclear_are_refused(tmp_path: Path) -> None:
    tree(tmp_path / "a")
    tree(tmp_path / "a", "Eval")
    refused(tmp_path / "a", "Eval/, which may be for validation or for the test")
    tree(tmp_path / "b", "Season1")
    tree(tmp_path / "b", "Season2")
    refused(tmp_path / "b", "Season1/ and Season2/ .* both hold cat, dog")
    tree(tmp_path / "c" / "wrapped")
    refused(tmp_path / "c", "if the data set lies in it, give folder:.*wrapped")
    for k in range(12):  # one kind of sub-folder in each class is no part
        for own in ("cat", "dog"):
            picture(tmp_path / "d" / own / "photos" / f"{k}.png", seed=k)
    assert load_dataset(f"folder:{tmp_path / 'd'}").classes == ("cat", "dog")


def test_names_of_classes_that_cannot_be_kept_apart_are_refused(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    tree(tmp_path / "a", classes=(composed, decomposed))
    refused(tmp_path / "a", "NFC and NFD")
    tree(tmp_path / "b", classes=(composed, "dog"))
    tree(tmp_path / "b", "test", classes=(decomposed, "dog"))
    refused(tmp_path / "b", "one has composed letters, NFC")
    tree(tmp_path / "c", classes=("Cat", "dog"))
    tree(tmp_path / "c", "test")
    refused(tmp_path / "c", "upper and lower case count")
    tree(tmp_path / "d")
    os.rename(
        os.fsencode(tmp_path / "d" / "train" / "cat"), os.fsencode(tmp_path / "d" / "train") + b"/ca\xff"
    )
    refused(tmp_path / "d", r"b'ca\\xff' .* not UTF-8")


def deep(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ("kind", "spread", "low", "high", "one"),
    [
        ("uint16", (0, 4095), 0, 4095, 65535),  # 12 bits
        ("uint16", (0, 3000), 0, 4095, 65535),
        ("uint16", (0, 200), 0, 255, 255),
        ("int32", (-1000, 3000), -1000, 3000, 65535),  # Hounsfield units
        ("float32", (0, 1), 0, 1, 65535),
        ("float32", (0, 255), 0, 255, 65535),
        ("float32", (-2, 6), -2, 6, 65535),
        ("bytes", (0, 1), 0, 1, 255),  # bytes that were divided by 255
        ("whole", (0, 255), 0, 255, 255),
    ],
)
def test_one_range_for_all_deep_images(
    tmp_path: Path, kind: str, spread: tuple[int, int], low: float, high: float, one: int
) -> None:
    values = np.linspace(*spread, 80)
    values = (
        np.round(values * 255) / 255 if kind == "bytes" else np.round(values) if kind == "whole" else values
    )
    kind = "float32" if kind in ("bytes", "whole") else kind
    values = values.astype(kind).reshape(8, 10)
    dark = values.clip(max=spread[0] + (spread[1] - spread[0]) // 4)
    for k in range(6):
        deep(tmp_path / "train" / "a" / f"{k}.tif", values)
        deep(tmp_path / "train" / "b" / f"{k}.tif", dark.astype(kind))
    images = load_dataset(f"folder:{tmp_path}")
    for k, stored in ((0, values), (6, dark.astype(kind))):
        expected = np.round((stored.astype(float) - low) * one / (high - low))
        assert np.array_equal(images.images[k, 0].numpy(), expected)
        assert len(np.unique(images.images[k, 0].numpy())) == len(
            np.unique(stored)
        )  # no two values are merged
    assert images.one == one
    kept = ", kept in 16 bits" if one > 255 else ""
    said = (
        f"12 images have more than 8 bits a pixel: {low:g} … {high:g} become 0 … {one} in all of them{kept}"
    )
    assert any(said in note for note in images.notes)


def test_values_that_are_not_finite_and_constant_sets_are_refused(tmp_path: Path) -> None:
    for own in ("a", "b"):
        for k in range(6):
            deep(tmp_path / "train" / own / f"{k}.tif", np.full((8, 10), 7, np.float32))
    refused(tmp_path, "every pixel of all 12 images is 7")
    deep(tmp_path / "train" / "a" / "0.tif", np.full((8, 10), np.nan, np.float32))
    refused(tmp_path, r"a/0\.tif cannot be read \(it holds values that are not finite\)")


def test_all_broken_images_are_named_at_once_or_skipped(tmp_path: Path) -> None:
    tree(tmp_path)
    for own, k in (("cat", 1), ("dog", 4)):  # one has no header, the other ends too early
        file = tmp_path / "train" / own / f"{k:03}.png"
        file.write_bytes(file.read_bytes()[: 120 if own == "dog" else 3])
    (tmp_path / "train" / "dog" / "005.png").write_bytes(b"GIF89a")
    refused(tmp_path, r"(?s)3 images cannot be read.*001\.png.*005\.png.*004\.png")
    notes = notes_of(tmp_path, skip_broken=True)
    assert "3 images that cannot be read were skipped" in notes
    assert notes.count("were skipped") == 1
    assert len(load_dataset(f"folder:{tmp_path}", skip_broken=True).images) == 21


def test_broken_metadata_does_not_cost_the_image(tmp_path: Path) -> None:
    tree(tmp_path)
    whole = load_dataset(f"folder:{tmp_path}")
    file = tmp_path / "train" / "cat" / "003.png"
    data = file.read_bytes()
    bad = [
        (5).to_bytes(4, "big") + b"tEXt" + b"a\0bcd" + bytes(4),  # a wrong checksum
        (6).to_bytes(4, "big")
        + b"eXIf"
        + b"MM\0*\xff\xff"
        + zlib.crc32(b"eXIfMM\0*\xff\xff").to_bytes(4, "big"),
    ]
    for k, chunk in enumerate(bad):
        file.write_bytes(data[:33] + chunk + data[33:])
        images = load_dataset(f"folder:{tmp_path}")
        assert images.fingerprint == whole.fingerprint, k
    photo = tmp_path / "train" / "cat" / "photo.jpg"
    picture(photo)
    plain = photo.read_bytes()
    expected = np.asarray(Image.open(photo)).transpose(2, 0, 1).copy()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(40))
    photo.write_bytes(plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:])
    assert np.array_equal(load_dataset(f"folder:{tmp_path}").images[12].numpy(), expected)


def test_what_is_beside_the_classes_or_looks_like_a_part_is_listed(tmp_path: Path) -> None:
    tree(tmp_path)
    tree(tmp_path, "Prüfung", count=3)
    picture(tmp_path / "train" / "stray.png")
    notes = notes_of(tmp_path)
    assert "not used in" in notes
    assert "Prüfung/ (with folders of the same names as train/)" in notes
    assert (
        f"files beside the classes of {tmp_path / 'train'} belong to none and are not read: stray.png"
        in notes
    )
    assert f"{tmp_path} has no test/" in notes


def test_a_link_to_itself_and_a_class_of_another_format(tmp_path: Path) -> None:
    tree(tmp_path)
    own = tmp_path / "train" / "cat" / "self.png"
    own.symlink_to(own)
    assert "1 links lead nowhere: self.png" in notes_of(tmp_path)
    for k in range(6):
        (tmp_path / "train" / "eel").mkdir(exist_ok=True)
        (tmp_path / "train" / "eel" / f"{k}.heic").write_bytes(b"x")
    refused(tmp_path, r"eel holds no image of a format that is read, but \.heic \(6\)")


def test_a_class_of_broken_images_alone_says_so(tmp_path: Path) -> None:
    tree(tmp_path)
    for file in (tmp_path / "train" / "cat").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"no image of class 'cat'.*12 images that cannot be read were skipped"
    ):
        load_dataset(f"folder:{tmp_path}", skip_broken=True)


def test_what_of_a_file_is_not_read_is_reported(tmp_path: Path) -> None:
    tree(tmp_path)
    pages = [Image.fromarray(np.full((8, 10, 3), 50 * k, np.uint8)) for k in range(3)]
    pages[0].save(tmp_path / "train" / "cat" / "pages.tif", save_all=True, append_images=pages[1:])
    picture(tmp_path / "train" / "cat" / "alpha.png", mode="RGBA")
    notes = notes_of(tmp_path)
    assert "1 files hold several images or pages, of which the first is read" in notes
    assert "1 images have transparency, which is not read" in notes


def deep_png(path: Path, values: np.ndarray) -> None:
    """A PNG of 16 bits a channel by the letter of its specification; (H, W, 3) or, with transparency, (H, W, 4)."""
    H, W, C = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = W.to_bytes(4, "big") + H.to_bytes(4, "big") + bytes((16, {3: 2, 4: 6}[C], 0, 0, 0))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
            for kind, data in chunks
        )
    )


def test_deep_colours_keep_their_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0).integers(0, 65536, (12, 8, 10, 4), dtype=np.uint16)
    for k in range(12):
        deep_png(tmp_path / "train" / "ab"[k // 6] / f"{k:02}.png", draws[k, :, :, : 3 + k % 2])
    images = load_dataset(f"folder:{tmp_path}")
    assert np.array_equal(images.images.numpy(), draws[..., :3].transpose(0, 3, 1, 2))
    assert any("6 images have transparency" in note for note in images.notes)
    monkeypatch.setattr("reborn_nas.data.files.probe.decode_png", None)  # then Pillow reads the upper bytes
    images = load_dataset(f"folder:{tmp_path}")
    assert np.array_equal(images.images.numpy(), draws[..., :3].transpose(0, 3, 1, 2) >> 8)
    assert any(
        "12 colour images have 16 bits a channel, of which the upper 8" in note for note in images.notes
    )


def test_a_few_deep_images_do_not_double_the_size_of_all(tmp_path: Path) -> None:
    tree(tmp_path)
    values = np.random.default_rng(0).integers(0, 65536, (8, 10, 3), dtype=np.uint16)
    values[0, 0] = 65535
    deep_png(tmp_path / "train" / "dog" / "zz.png", values)
    images = load_dataset(f"folder:{tmp_path}")
    assert images.one == 255
    assert np.array_equal(images.images[-1].numpy(), np.round(values / 257).transpose(2, 0, 1))


def test_other_extensions_that_are_photos(tmp_path: Path) -> None:
    tree(tmp_path)
    photo = tmp_path / "train" / "cat" / "photo.jpg"
    picture(photo)
    photo.rename(photo.with_suffix(".JFIF"))
    assert len(load_dataset(f"folder:{tmp_path}").images) == 25


def test_sub_folders_of_a_class_belong_to_it(tmp_path: Path) -> None:
    tree(tmp_path)
    picture(tmp_path / "train" / "cat" / "tabby" / "deep" / "x.png")
    assert int((load_dataset(f"folder:{tmp_path}").labels == 0).sum()) == 13


def test_the_truncated_image_is_named(tmp_path: Path) -> None:
    tree(tmp_path)
    broken = tmp_path / "train" / "dog" / "004.png"
    broken.write_bytes(broken.read_bytes()[:120])
    with pytest.raises(DataError, match=r"004\.png cannot be read"):
        load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"no image at all", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    tree(tmp_path)
    (tmp_path / "train" / "dog" / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png cannot be read"):
        load_dataset(f"folder:{tmp_path}")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 39)  # PIL refuses more than twice this, here 80 pixels
    with pytest.raises(DataError, match=r"(?s)24 images cannot be read.*000\.png"):
        load_dataset(f"folder:{tmp_path}")


def test_more_than_the_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path)
    monkeypatch.setattr(decoding, "available_memory", lambda: 3600)  # 5,760 needed
    with pytest.raises(DataError, match=r"24 images of 3×8×10.*--stream.*--image-size"):
        load_dataset(f"folder:{tmp_path}", stream=False)


def refused(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match):
        load_dataset(f"folder:{path}")


def test_absent_empty_and_one_class_folders_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none", "there is no folder")
    refused(tmp_path, "at least two classes, found none")
    tree(tmp_path, classes=("cat",))
    refused(tmp_path, "at least two classes, found only 'cat'")
    with pytest.raises(DataError, match="name the folder"):
        load_dataset("folder:")


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "train" / "eel").mkdir()
    refused(tmp_path, "no image of class 'eel'")


def test_classes_that_differ_between_parts_are_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    tree(tmp_path, "test", classes=("cat", "owl"))
    refused(tmp_path, "the test part .* lacks dog and has owl")


def test_a_class_without_test_images_is_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    tree(tmp_path, "test", classes=("cat",))
    (tmp_path / "test" / "dog").mkdir()
    refused(tmp_path, "the test part has no image of class 'dog'")


def test_a_test_folder_alone_and_two_validation_folders_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "test")
    refused(tmp_path, "no train/")
    tree(tmp_path)
    tree(tmp_path, "val")
    tree(tmp_path, "valid")
    refused(tmp_path, "keep one of them")


def test_too_few_images_of_a_class_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, count=3)
    refused(tmp_path, "at least 4 images of each class")


def test_a_folder_that_cannot_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path)
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(tmp_path, r"dog cannot be read: Permission denied")


def test_part_of_the_jpeg_copy_of_cifar10(shared_data: Path, tmp_path: Path) -> None:
    wanted = 30
    with tarfile.open(shared_data / "cifar10-jpeg.tar.gz") as archive:
        # the archive is in order; the first two classes' first pictures are at its beginning
        taken: dict[str, int] = {}
        for member in archive:
            own = str(Path(member.name).parent)
            if not member.isfile() or taken.get(own, 0) >= wanted:
                continue
            taken[own] = taken.get(own, 0) + 1
            data = archive.extractfile(member)
            assert data is not None
            target = tmp_path / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data.read())
            if len(taken) >= 2 and min(taken.values()) >= wanted:
                break
    images = load_dataset(f"folder:{tmp_path}")
    assert images.images.shape == (60, 3, 32, 32)
    assert images.classes == ("airplane", "automobile")
    first = Image.open(io.BytesIO((tmp_path / "train" / "airplane" / "0000.jpg").read_bytes()))
    assert np.array_equal(images.images[0].numpy(), np.asarray(first).transpose(2, 0, 1))


@pytest.mark.parametrize("policy", ["cover", "contain", "stretch"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_another_size_is_pillows_bilinear_resize_to_a_level(tmp_path: Path, policy: str, mode: str) -> None:
    sizes = [(40, 31), (23, 57), (90, 30), (12, 10), (30, 40), (7, 90)]
    for c in "ab":
        for k, size in enumerate(sizes):
            picture(tmp_path / "train" / c / f"{k}.png", size=size, mode=mode, seed=k)
    images = load_dataset(f"folder:{tmp_path}", image_size=(16, 20), resize=policy).images
    for k, (w, h) in enumerate(sizes):
        image = Image.open(tmp_path / "train" / "a" / f"{k}.png")
        expected = Image.new(mode, (20, 16))
        if policy == "stretch":
            expected = image.resize((20, 16), Image.Resampling.BILINEAR)
        elif policy == "contain":
            width, height = min(20, round(w * 16 / h)), min(16, round(h * 20 / w))
            width, height = max(1, width), max(1, height)
            small = image.resize((width, height), Image.Resampling.BILINEAR)
            expected.paste(small, (round((20 - width) / 2), round((16 - height) / 2)))
        else:
            width, height = min(w, round(h * 20 / 16)), min(h, round(w * 16 / 20))
            left, top = (w - width) // 2, (h - height) // 2
            cut = image.crop((left, top, left + width, top + height))
            expected = cut.resize((20, 16), Image.Resampling.BILINEAR)
        wanted = np.asarray(expected).astype(int).reshape(16, 20, -1).transpose(2, 0, 1)
        # both count in whole numbers, but with other precisions
        assert np.abs(images[k].numpy() - wanted).max() <= 1, (w, h)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_turned_as_by_pillow(tmp_path: Path, turn: int) -> None:
    tree(tmp_path, size=(10, 8))
    for suffix in ("jpg", "png", "webp"):
        image = Image.fromarray(np.random.default_rng(turn).integers(0, 256, (8, 10, 3), dtype=np.uint8))
        exif = image.getexif()
        exif[0x0112] = turn
        image.save(tmp_path / "train" / "cat" / f"zz.{suffix}", exif=exif, lossless=True)
    images = load_dataset(f"folder:{tmp_path}", image_size=(8, 10) if turn < 5 else (10, 8)).images
    for k, suffix in enumerate(("jpg", "png", "webp")):
        upright = ImageOps.exif_transpose(Image.open(tmp_path / "train" / "cat" / f"zz.{suffix}"))
        assert np.array_equal(images[12 + k].numpy(), np.asarray(upright).transpose(2, 0, 1)), suffix


def test_what_systems_leave_behind_is_no_image(tmp_path: Path) -> None:
    tree(tmp_path)
    picture(tmp_path / "train" / "cat" / "@eaDir" / "SYNOPHOTO_THUMB.jpg")
    picture(tmp_path / "train" / "cat" / "deep" / "__MACOSX" / "001.png")
    picture(tmp_path / "train" / "dog" / ".ipynb_checkpoints" / "001.png")
    picture(tmp_path / "train" / "__MACOSX" / "cat" / "001.png")
    images = load_dataset(f"folder:{tmp_path}")
    assert images.classes == ("cat", "dog")
    assert len(images.labels) == 24
    notes = "\n".join(images.notes)
    assert (
        "3 hidden folders in classes were not read: .ipynb_checkpoints (1), @eaDir (1), __MACOSX (1)" in notes
    )
    assert f"hidden folders in {tmp_path / 'train'} are not classes: __MACOSX/" in notes


@pytest.mark.parametrize("stream", [False, True])
def test_one_picture_in_two_classes_or_parts_is_named(tmp_path: Path, stream: bool) -> None:
    """As copies or hard links, which no name shows."""
    root = tmp_path / "data"
    tree(root)
    tree(root, "test", count=4)
    for own in ("cat", "dog"):
        for k in range(4):  # `tree` draws the same pictures for both parts
            picture(root / "test" / own / f"{k:03}.png", seed=500 + 1000 * (own == "dog") + k)

    def notes() -> str:
        return notes_of(root, stream=stream, cache_dir=tmp_path / "cache")

    assert "equal pixels" not in notes()
    cat, dog = root / "train" / "cat" / "003.png", root / "train" / "dog" / "copy.png"
    os.link(cat, dog)
    said = f"1 pairs of images have equal pixels, one of them of another class than the other, such as {cat}"
    assert said in notes()
    dog.unlink()
    copy = root / "test" / "cat" / "copy.bmp"
    Image.open(cat).save(copy)
    said = f"1 pairs of images have equal pixels, one of them of another part than the other, such as {cat} and {copy}"
    assert said in notes()
    assert "of another class" not in notes()


def test_class_folders_that_differ_in_case_alone_are_named(tmp_path: Path) -> None:
    tree(tmp_path, classes=("Cat", "cat", "dog"))
    assert "the class folders Cat and cat in" in notes_of(tmp_path)


def test_a_part_without_classes_says_what_to_do(tmp_path: Path) -> None:
    tree(tmp_path)
    picture(tmp_path / "test" / "0001.png")
    refused(
        tmp_path, r"test part .*test has no class folders.*sort them into cat/, dog/ …, or move test/ out of"
    )


def test_broken_headers_and_broken_pixels_are_named_together(tmp_path: Path) -> None:
    tree(tmp_path, size=(40, 40))
    for k, length in ((1, 0), (2, 20), (3, 2000)):
        file = tmp_path / "train" / "cat" / f"{k:03}.png"
        file.write_bytes(file.read_bytes()[:length])
    refused(tmp_path, r"(?s)3 images cannot be read.*001\.png.*002\.png.*003\.png")


@pytest.mark.parametrize("suffix", ["ppm", "jp2"])
def test_colours_of_16_bits_that_pillow_cuts_are_reported(tmp_path: Path, suffix: str) -> None:
    """A PPM by the letter of its specification; a JPEG 2000 file whose header says 16 bits."""
    for own in "ab":
        for k in range(6):
            path = tmp_path / "train" / own / f"{k}.{suffix}"
            pixels = picture(path, seed=k + 10 * (own == "b"))
            if suffix == "ppm":
                path.write_bytes(b"P6\n# by hand\n10 8 65535\n" + (pixels.astype(">u2") * 257).tobytes())
            else:
                at = (data := bytearray(path.read_bytes())).index(b"\xff\x51")
                assert data[at + 40] == 7  # Ssiz of the first component: bits less one
                data[at + 40] = 15
                path.write_bytes(data)
    if suffix == "jp2":
        from reborn_nas.data.files.probe import _bits

        with Image.open(path) as image:
            assert _bits(path, image) == 16
        return
    assert "12 colour images have 16 bits a channel, of which the upper 8 are read" in notes_of(tmp_path)


def test_values_that_outliers_squeeze_are_reported(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for k in range(12):
        (own := tmp_path / "train" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        np.save(own / f"{k:02}.npy", draws.normal(size=(8, 10)))
    assert "cut outliers off" not in notes_of(tmp_path)
    np.save(own / "11.npy", draws.normal(size=(8, 10)) + 1e6)
    assert "in half of the images the standard deviation is below 64 of the 65,536 levels" in notes_of(
        tmp_path
    )
