"""timm's readers on small local copies, and what is said where their packages are missing."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reborn_nas.data import load_dataset
from reborn_nas.data.items.readers import READERS
from reborn_nas.errors import DataError

CLASSES = ("ant", "bee", "cow")
COUNTS = {"train": 30, "val": 9, "test": 12}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REBORN_NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNGs of three classes, one of them grey, in train/, val/ and test/."""
    root = tmp_path_factory.mktemp("photos")
    draws = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for k in range(count):
            own = root / part / CLASSES[k % 3]
            own.mkdir(parents=True, exist_ok=True)
            pixels = draws.integers(0, 256, (8, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels[:, :, 0] if k == 4 else pixels).save(own / f"{k:02d}.png")
    return root


def shards(photos: Path, root: Path, *, broken: bool = False) -> Path:
    """The photos in order of their number, as tars of WebDataset, two for training."""
    root.mkdir()
    for part, count in COUNTS.items():
        for first in range(0, count, 20):
            with tarfile.open(root / f"photos-{part}-{first // 20:04d}.tar", "w") as tar:
                for k in range(first, min(first + 20, count)):
                    image = (photos / part / CLASSES[k % 3] / f"{k:02d}.png").read_bytes()
                    if broken and part == "train" and k == 5:
                        image = image[:60]
                    for kind, data in (("png", image), ("cls", str(k % 3).encode())):
                        info = tarfile.TarInfo(f"{k:06d}.{kind}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
    return root


def like_the_folder(images: Any, photos: Path) -> None:
    """Each part has the folder's images of each class, whatever their order."""
    folder = load_dataset(f"folder:{photos}", stream=False)
    assert images.input_size == folder.input_size
    assert images.validation is not None
    assert folder.validation is not None
    for own, other in ((images.test, folder.test), (images.validation, folder.validation)):
        assert sorted(_digests(images, own)) == sorted(_digests(folder, other))
    everything = [torch.arange(len(one.labels)) for one in (images, folder)]
    assert sorted(_digests(images, everything[0])) == sorted(_digests(folder, everything[1]))


def _digests(images: Any, rows: torch.Tensor) -> list[tuple[bytes, int]]:
    return [(images.images[row].numpy().tobytes(), int(images.labels[row])) for row in rows]


def test_torchvisions_image_folder(photos: Path) -> None:
    images = load_dataset("torch/image_folder", data_dir=photos)
    assert images.classes == CLASSES
    like_the_folder(images, photos)


def test_a_part_without_a_folder_is_not_read_as_all_images(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "train").symlink_to(photos / "train")
    images = load_dataset("torch/image_folder", data_dir=tmp_path / "part")
    assert len(images.labels) == COUNTS["train"]
    with pytest.raises(DataError, match=r"has no folder train/; it holds ant, bee, cow"):
        load_dataset("torch/image_folder", data_dir=photos / "train")


def test_torchvisions_own_sets(tmp_path: Path) -> None:
    from tests.data.test_datasets import fake_mnist

    pixels = fake_mnist(tmp_path)
    images = load_dataset("torch/mnist", data_dir=tmp_path)
    assert np.array_equal(images.images[:].numpy()[:, 0], pixels)
    assert images.classes[:2] == ("0 - zero", "1 - one")
    assert len(images.test) == 50
    with pytest.raises(DataError, match=r"timm cannot open its part 'train' in .*nothing.*Dataset not found"):
        load_dataset("torch/cifar10", data_dir=tmp_path / "nothing")
    with pytest.raises(
        DataError, match=r"timm cannot open its part 'train' .*Unknown torchvision dataset mnits"
    ):
        load_dataset("torch/mnits", data_dir=tmp_path)


@pytest.mark.parametrize(("name", "words"), [("wds/photos", "--data-dir"), ("hfds/", "such as hfds/cifar10")])
def test_what_a_reader_needs_to_know(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, name.partition("/")[0], ("json", ""))  # whether or not its package is there
    with pytest.raises(DataError, match=words):
        load_dataset(name)


@pytest.mark.parametrize(
    ("name", "package", "line"),
    [
        ("hfds/cifar10", "datasets", "pip install datasets"),
        ("hfids/cifar10", "datasets", "pip install datasets"),
        ("wds/photos", "webdataset", "pip install webdataset"),
        ("tfds/cifar10", "tensorflow_datasets", "pip install tensorflow-datasets tensorflow"),
    ],
)
def test_a_missing_package_is_named(
    name: str, package: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DataError, match=rf"{name.partition('/')[0]}/ is read by the package {package}, .*; {line}$"
    ):
        load_dataset(name, data_dir=tmp_path)


# -- Hugging Face ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["hfds", "hfids"])
def test_a_local_hugging_face_folder(prefix: str, photos: Path, cache: Path) -> None:
    pytest.importorskip("datasets")
    images = load_dataset(f"{prefix}/{photos}")
    assert images.classes == CLASSES
    like_the_folder(images, photos)
    again = load_dataset(f"{prefix}/{photos}")
    assert again.fingerprint == images.fingerprint
    assert len(list(cache.glob("*/items.json"))) == 1


def test_a_broken_image_is_not_replaced_by_its_neighbour(photos: Path, tmp_path: Path) -> None:
    """timm reads the next one in its place, with a warning only."""
    pytest.importorskip("datasets")
    import shutil

    root = tmp_path / "broken"
    shutil.copytree(photos, root)
    file = root / "train" / "bee" / "07.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"image item \d+ of the train part cannot be read \(.*\)"):
        load_dataset(f"hfds/{root}")
    images = load_dataset(f"hfds/{root}", skip_broken=True)
    assert len(images.labels) == sum(COUNTS.values()) - 1
    assert any("1 images that cannot be read were skipped" in note for note in images.notes)


def test_what_hugging_face_answers_is_passed_on(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(
        DataError, match=r"data set 'hfds/.*nowhere': timm cannot open its part 'train' \(.*nowhere"
    ):
        load_dataset(f"hfds/{tmp_path}/nowhere")


# -- WebDataset -----------------------------------------------------------------------------------------------------


def test_shards_of_a_webdataset(photos: Path, tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("webdataset")
    root = shards(photos, tmp_path / "shards")
    images = load_dataset("wds/photos", data_dir=root)
    assert images.classes == ("0", "1", "2")
    like_the_folder(images, photos)
    assert load_dataset("wds/photos", data_dir=root, stream=True).fingerprint == images.fingerprint
    assert len(list(cache.glob("*/items.json"))) == 1
    (root / "photos-test-0000.tar").rename(root / "photos-0000.tar")
    with pytest.raises(DataError, match=r"photos-0000.tar does not show what it is for"):
        load_dataset("wds/photos", data_dir=root)


def test_a_webdataset_with_an_info_file(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    root = shards(photos, tmp_path / "shards")
    splits = {}
    for part, count in COUNTS.items():
        files = sorted(file.name for file in root.glob(f"photos-{part}-*"))
        lengths = [min(20, count - first) for first in range(0, count, 20)]
        splits[part] = {"name": part, "num_samples": count, "filenames": files, "shard_lengths": lengths}
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    like_the_folder(load_dataset("wds/photos", data_dir=root), photos)
    splits["train"]["num_samples"] = 31  # the file promises one more than there is
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(DataError, match=r"len\(\) of the train part is 31, but there is no item 30"):
        load_dataset("wds/photos", data_dir=root)
    (root / "_info.json").write_text("{")
    with pytest.raises(DataError, match=r"_info.json cannot be read"):
        load_dataset("wds/photos", data_dir=root)


def test_a_broken_image_of_a_webdataset_is_not_dropped_without_a_word(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    root = shards(photos, tmp_path / "shards", broken=True)
    with pytest.raises(
        DataError, match=r"before item 5 of the train part cannot be read \(Handling webdataset"
    ):
        load_dataset("wds/photos", data_dir=root)
    images = load_dataset("wds/photos", data_dir=root, skip_broken=True)
    assert len(images.labels) == sum(COUNTS.values()) - 1
    assert any("1 images that cannot be read were skipped" in note for note in images.notes)
