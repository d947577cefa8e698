"""torch Datasets as a data set: the same pixels in every form, and what makes one unusable noticed before training."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from reborn_nas.data import ImageSet, load_dataset
from reborn_nas.data.cache import Records, list_caches
from reborn_nas.data.items.identity import digest_of
from reborn_nas.data.items.stored import hold
from reborn_nas.errors import DataError, MachineError
from tests.data import datasets as own

COUNT, TEST = 60, 30
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT + TEST, 3, 6, 5), dtype=np.uint8)
LABELS = [k % 3 for k in range(COUNT + TEST)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REBORN_NAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Items(Dataset[Any]):
    """What a list holds, counting how often it is asked."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> Any:
        self.asked.append(k)
        return self.items[k]


def pairs(form: Callable[[np.ndarray], Any], pixels: np.ndarray = PIXELS) -> dict[str, Items]:
    items = [(form(image), label) for image, label in zip(pixels, LABELS, strict=True)]
    return {"train": Items(items[:COUNT]), "test": Items(items[COUNT:])}


def pixels_of(images: ImageSet) -> torch.Tensor:
    return images.images[:] if isinstance(images.images, Records) else images.images


FORMS = {
    "uint8 tensor": torch.from_numpy,
    "float tensor": lambda image: torch.from_numpy(image).float() / 255,
    "half tensor": lambda image: torch.from_numpy(image).half(),
    "float of 255": lambda image: torch.from_numpy(image).double(),
    "whole numbers": lambda image: torch.from_numpy(image).long(),
    "array": lambda image: image.transpose(1, 2, 0),
    "float array": lambda image: image.transpose(1, 2, 0) / np.float32(255),
    "picture": lambda image: Image.fromarray(image.transpose(1, 2, 0)),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_pixels_are_the_same_in_every_form(form: str) -> None:
    images = load_dataset(pairs(FORMS[form]))
    assert np.array_equal(pixels_of(images).numpy(), PIXELS)
    assert images.labels.tolist() == LABELS
    assert images.classes == ("0", "1", "2")
    assert images.test.tolist() == list(range(COUNT, COUNT + TEST))
    assert len(images.pool) + len(images.reserve) == COUNT


@pytest.mark.parametrize(
    "form", [torch.from_numpy, lambda x: x, Image.fromarray, lambda x: torch.tensor(x > 9)]
)
def test_grey_images(form: Callable[[np.ndarray], Any]) -> None:
    grey = PIXELS[:, 0]
    images = load_dataset(pairs(form, grey))
    expected = grey if not isinstance(form(grey[0]), torch.Tensor) or form(grey[0]).dtype != torch.bool else (
        (grey > 9) * np.uint8(255)
    )  # fmt: skip
    assert np.array_equal(pixels_of(images).numpy(), expected[:, None])


def test_grey_pictures_among_coloured_ones_have_three_equal_channels() -> None:
    forms = [lambda x: Image.fromarray(x[0]), lambda x: Image.fromarray(x.transpose(1, 2, 0))]
    items = [(forms[k % 2](image), LABELS[k]) for k, image in enumerate(PIXELS)]
    found = pixels_of(load_dataset({"train": Items(items[:COUNT]), "test": Items(items[COUNT:])})).numpy()
    assert np.array_equal(found[1::2], PIXELS[1::2])
    assert np.array_equal(found[::2], np.repeat(PIXELS[::2, :1], 3, axis=1))


@pytest.mark.parametrize("channels", [2, 4, 16])
def test_images_of_many_channels(channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT + TEST, channels, 4, 4), dtype=np.uint8)
    for form in (torch.from_numpy, lambda image: image.transpose(1, 2, 0)):
        assert np.array_equal(pixels_of(load_dataset(pairs(form, pixels))).numpy(), pixels)


def test_one_range_of_fractions_for_the_whole_set() -> None:
    """As of normalised images: −2 … 3 become 0 … 65535, also where only one image, a test one, reaches the ends."""
    values = np.linspace(-1, 1, 2 * (COUNT + TEST) * 4).reshape(COUNT + TEST, 2, 2, 2).astype(np.float32)
    values[-1, 0, 0, 0], values[-1, 1, 1, 1] = -2, 3
    images = load_dataset(pairs(torch.from_numpy, values))
    assert np.array_equal(pixels_of(images).numpy(), np.round((values.astype(np.float64) + 2) * 13107))
    assert any("-2 … 3 become 0 … 65535 in all of them" in note for note in images.notes)


def test_images_of_several_sizes_follow_the_policy() -> None:
    """The most common size wins, although the first items have another one; Pillow shows what the others become."""
    draws = np.random.default_rng(2)
    sizes = [(9, 7) if k < 20 else (6, 8) for k in range(COUNT)]
    raw = [draws.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    train = Items([(image, LABELS[k]) for k, image in enumerate(raw)])
    test = Items([(raw[30 + k], LABELS[k]) for k in range(TEST)])

    def cover(image: Image.Image, size: tuple[int, int], **method: Any) -> Image.Image:
        """As `ImageOps.fit`, but cut at whole pixels: of 7 × 9 ones 7 × 5."""
        return image.crop((0, 2, 7, 7)).resize(size, method["method"])

    how = {"cover": cover, "contain": ImageOps.pad, "stretch": Image.Image.resize}
    for resize, oracle in how.items():
        images = load_dataset({"train": train, "test": test}, resize=resize)
        assert images.input_size == (3, 6, 8)
        sized, equal = images.notes[-2:]
        assert sized.startswith("20 of 90 images are not 6×8: ")
        assert equal.startswith(
            "30 pairs of images have equal pixels, one of them of another part than the other, "
        )
        assert equal.endswith("such as item 34 of the train part and item 4 of the test part")
        found = pixels_of(images).numpy()
        name = "resample" if resize == "stretch" else "method"
        small = oracle(Image.fromarray(raw[3]), (8, 6), **{name: Image.Resampling.BILINEAR})
        assert np.abs(found[3].astype(int) - np.asarray(small).transpose(2, 0, 1)).max() <= 1
        assert np.array_equal(found[40], raw[40].transpose(2, 0, 1))
    assert load_dataset({"train": train, "test": test}, image_size=5).input_size == (3, 5, 5)


def test_train_alone_and_a_validation_part() -> None:
    both = pairs(torch.from_numpy)
    alone = load_dataset(ConcatDataset([both["train"], both["test"]]))
    assert len(alone.test) == 18  # a fifth, as of a folder without test/
    assert "no test part was given; a fixed stratified part of 18 images is the test set" in alone.notes
    three = {
        "train": both["train"],
        "val": Subset(both["test"], range(15)),
        "test": Subset(both["test"], range(15, 30)),
    }
    images = load_dataset(three)
    assert images.validation is not None
    assert images.validation.tolist() == list(range(COUNT, COUNT + 15))
    assert images.test.tolist() == list(range(COUNT + 15, COUNT + 30))


# -- class names --------------------------------------------------------------------------------------------------


def named(**names: Any) -> dict[str, Items]:
    both = pairs(torch.from_numpy)
    for part in both.values():
        vars(part).update(names)
    return both


@pytest.mark.parametrize(
    "names", [{"classes": ["cat", "dog", "eel"]}, {"class_to_idx": {"eel": 2, "cat": 0, "dog": 1}}]
)
def test_class_names(names: dict[str, Any]) -> None:
    both = named(**names)
    expected = ("cat", "dog", "eel")
    assert load_dataset(both).classes == expected
    assert load_dataset({k: Subset(v, range(len(v))) for k, v in both.items()}).classes == expected
    assert load_dataset(ConcatDataset(list(both.values()))).classes == expected


def test_class_names_that_do_not_fit() -> None:
    other = named(classes=["cat", "dog", "eel"]) | {"test": named(classes=["cat", "eel", "dog"])["test"]}
    with pytest.raises(
        DataError, match=r"classes of the train and the test part differ: number 1 is 'dog' .* 'eel'"
    ):
        load_dataset(other)
    with pytest.raises(DataError, match=r"has the label 2, but there are 2 classes, 0 … 1: cat, dog"):
        load_dataset(named(classes=["cat", "dog"]))
    with pytest.raises(DataError, match=r"the training part has no image of class 'fox'"):
        load_dataset(named(classes=["cat", "dog", "eel", "fox"]))
    with pytest.raises(DataError, match=r"class_to_idx numbers 3 classes, but not 0 … 2"):
        load_dataset(named(class_to_idx={"cat": 1, "dog": 2, "eel": 3}))


# -- what cannot be used ------------------------------------------------------------------------------------------

GOOD = [(torch.from_numpy(image), label) for image, label in zip(PIXELS[:COUNT], LABELS)]


def changed(k: int, item: Any) -> Items:
    return Items([*GOOD[:k], item, *GOOD[k + 1 :]])


class Augmented(Items):
    def __getitem__(self, k: int) -> Any:
        image, label = self.items[k]
        return (image.flip(-1) if torch.rand(()) < 0.5 else image), label


class Growing(Items):
    """Another label from the second reading on, of an item that is not looked at in advance."""

    def __getitem__(self, k: int) -> Any:
        self.asked.append(k)
        image, label = self.items[k]
        return image, int(label or (k == 6 and self.asked.count(6) > 1))


class TooLong(Items):
    def __len__(self) -> int:
        return len(self.items) + 5


class Fails(Items):
    def __getitem__(self, k: int) -> Any:
        if k in (7, 8):
            raise KeyError(f"no row {k}")
        return self.items[k]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from GOOD


class Counted(Endless):
    def __len__(self) -> int:
        return COUNT


class Short(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from GOOD[:-3]

    def __len__(self) -> int:
        return COUNT


class Shuffled(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from (GOOD[k] for k in torch.randperm(COUNT))

    def __len__(self) -> int:
        return COUNT


class Breaks(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from GOOD[:20]
        raise RuntimeError("the stream is gone")

    def __len__(self) -> int:
        return COUNT


IMAGE = GOOD[0][0]
BAD: dict[str, tuple[Any, str]] = {
    "a tuple of parts": ((Items(GOOD), Items(GOOD)), r"2 values without names may be for validation or for the test"),
    "another part": ({"train": Items(GOOD), "extra": Items(GOOD)}, r"has 'extra', but the parts are"),
    "no training part": ({"test": Items(GOOD)}, r"has no 'train'"),
    "a number": (5, r"the train part is 5, which is no Dataset"),
    "a class": (Items, r"which is no Dataset"),
    "a loader": (DataLoader(Items(GOOD)), r"is a DataLoader; give its Dataset, loader.dataset"),
    "empty": (Items([]), r"the train part is empty: len\(Items\) is 0"),
    "random augmentation": (Augmented(GOOD), r"is another one each time it is read.*Leave random transforms out"),
    "one value": (changed(7, IMAGE), r"item 7 .*: an item is \(image, label\), but it is one torch.Tensor"),
    "three values": (changed(7, (IMAGE, 0, 0)), r"item 7 .* but it is 3 values"),
    "a mapping": (changed(7, {"image": IMAGE, "label": 0}), r"item 7 .* a mapping with 'image', 'label'"),
    "text": (changed(7, ("a.png", 0)), r"item 7 .*: an image is a tensor, a NumPy array or a PIL image, not str"),
    "a batch": (changed(7, (IMAGE[None], 0)), r"item 7 .* \(C, H, W\) or \(H, W\), .* not \(1, 3, 6, 5\)"),
    "a vector": (changed(7, (IMAGE.flatten(), 0)), r"item 7 .* not \(90,\)"),
    "a tensor (H, W, C)": (
        changed(7, (torch.zeros(20, 20, 3), 0)), r"item 7 .* not \(20, 20, 3\); permute\(2, 0, 1\)"
    ),
    "an array (C, H, W)": (
        changed(7, (np.zeros((3, 20, 20)), 0)), r"item 7 .* not \(3, 20, 20\); transpose\(1, 2, 0\)"
    ),
    "no pixel": (changed(7, (torch.zeros(3, 0, 4), 0)), r"item 7 .* not \(3, 0, 4\)"),
    "complex values": (changed(7, (IMAGE * 1j, 0)), r"item 7 .* whole numbers or fractions, not complex64"),
    "other channels": (changed(7, (IMAGE[:2], 0)), r"same number of channels, but item 7 of the train part has 2"),
    "another type": (changed(7, (IMAGE / 255, 0)), r"some arrays are uint8 and others not"),
    "not finite": (changed(7, (IMAGE / 0.0, 0)), r"item 7 .* cannot be read \(it holds values that are not finite"),
    "a negative label": (changed(7, (IMAGE, -1)), r"item 7 .*: a label is a whole number from 0, not -1"),
    "a float label": (changed(7, (IMAGE, 1.0)), r"item 7 .*: a label is .*, not float 1.0; return int\(label\)"),
    "a float tensor": (changed(7, (IMAGE, torch.tensor(1.0))), r"item 7 .*: a label is .*, not float 1.0"),
    "a truth value": (changed(7, (IMAGE, True)), r"item 7 .*: a label is .*, not bool True; return int\(label\)"),
    "text as a label": (changed(7, (IMAGE, "cat")), r"item 7 .*: a label is .*, not str 'cat'"),
    "one-hot": (changed(7, (IMAGE, torch.tensor([0, 1]))), r"item 7 .* of shape \(2,\); of a one-hot vector"),
    "labels from 1": (Items([(x, y + 1) for x, y in GOOD]), r"labels are 1 … 3, but .* return label - 1"),
    "a hole": (Items([(x, 3 * (y == 2)) for x, y in GOOD]), r"the training part has no image of class '1', '2'"),
    "one class": (Items([(x, 0) for x, y in GOOD]), r"a classifier needs at least two classes"),
    "one constant": (Items([(IMAGE * 0 + 9, y) for _, y in GOOD]), r"every pixel of all 60 images is 9"),
    "a longer len": (TooLong(GOOD), r"len\(\) of the train part is 65, but there is no item 6\d"),
    "failures": (Fails(GOOD), r"2 images cannot be read; .* item 7 .* \(KeyError: 'no row 7'\)\n  - item 8"),
    "an endless iterable": (Endless(), r"the iterable Endless has no len\(\), so that nothing says where it ends"),
    "a longer iterable": (Counted(), r"len\(\) of the train part is 60, but more items come out of it"),
    "a shorter iterable": (Short(), r"len\(\) of the train part is 60, but there is no item 57"),
    "a shuffled iterable": (Shuffled(), r"is another one each time it is read.*shuffling out of an iterable"),
    "a breaking iterable": (Breaks(), r"item 20 of the train part cannot be read \(RuntimeError: the stream is gone\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused(case: str, cache: Path) -> None:
    given, message = BAD[case]
    with pytest.raises(DataError, match=f"(?s){message}"):
        load_dataset(given)
    with pytest.raises(DataError, match=f"(?s){message}"):  # what was stored of it is not taken for complete
        load_dataset(given)


def test_an_item_that_changes_later_is_noticed() -> None:
    """One that is not looked at in advance, when it is read again for images of another size."""
    name = hold(Growing(GOOD))
    load_dataset(name)
    with pytest.raises(DataError, match="item 6 of the train part is another one each time"):
        load_dataset(name, image_size=9)


def test_items_that_cannot_be_read_are_left_out_on_request() -> None:
    images = load_dataset(Fails(GOOD), skip_broken=True)
    left = [k for k in range(COUNT) if k not in (7, 8)]
    assert np.array_equal(pixels_of(images).numpy(), PIXELS[left])
    assert images.labels.tolist() == [LABELS[k] for k in left]
    assert (
        "2 images that cannot be read were skipped: item 7 of the train part, item 8 of the train part"
        in images.notes
    )
    with pytest.raises(DataError, match="2 images cannot be read"):  # also where they are stored
        load_dataset(Fails(GOOD))


def test_the_machines_faults_are_not_the_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Items):
        def __getitem__(self, k: int) -> Any:
            raise OSError(errno.ESTALE, "stale")

    with pytest.raises(MachineError):
        load_dataset(Failing(GOOD))


# -- read once ----------------------------------------------------------------------------------------------------


def test_items_are_read_once_and_known_again(cache: Path) -> None:
    first, second = pairs(torch.from_numpy), pairs(torch.from_numpy)
    memory = load_dataset(first)
    assert set(first["train"].asked) == set(range(COUNT))
    disk = load_dataset(second, stream=True)
    assert len(set(second["train"].asked)) == 16  # a look whether it is the same
    assert isinstance(disk.images, Records)
    assert torch.equal(disk.images[:], pixels_of(memory))
    assert (disk.fingerprint, disk.mean, disk.std) == (memory.fingerprint, memory.mean, memory.std)
    assert "are read from the cache" in disk.notes[-1]
    (entry,) = list_caches()
    assert (entry.source, entry.images) == ("Items", {"3x6x5-uint8": COUNT + TEST})


def test_what_differs_is_another_cache(cache: Path) -> None:
    """One pixel or one label of an item that is not looked at in advance."""
    fingerprints = [load_dataset(Items(GOOD)).fingerprint]
    other = IMAGE.clone()
    other[0, 0, 0] ^= 1
    for item in ((other, 0), (IMAGE, 2)):
        fingerprints.append(load_dataset(changed(6, item)).fingerprint)
    assert len(set(fingerprints)) == len(list_caches()) == 3


class Opaque(Items):
    """Holds what pickle refuses, as an open file does, so that only its items tell it from others."""

    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self.stream = iter(open(os.devnull))  # noqa: SIM115


def test_what_cannot_be_looked_into_is_known_by_its_items(cache: Path) -> None:
    assert digest_of(Opaque(GOOD)) is None
    one, again = load_dataset(Opaque(GOOD)), load_dataset(Opaque(GOOD))
    other = IMAGE.clone()
    other[0, 0, 0] ^= 1
    different = load_dataset(Opaque([*GOOD[:6], (other, 0), *GOOD[7:]]))
    assert one.fingerprint == again.fingerprint != different.fingerprint
    assert len(list_caches()) == 2


def test_a_finite_iterable(cache: Path) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from GOOD

        def __len__(self) -> int:
            return COUNT

    for more in ({}, {"image_size": 7}, {}):
        images = load_dataset(Stream(), **more)
        assert images.labels.tolist() == LABELS[:COUNT]
    assert np.array_equal(pixels_of(images).numpy(), PIXELS[:COUNT])


# -- what a Dataset is known by -----------------------------------------------------------------------------------


def test_a_digest_covers_arrays_files_and_code(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("a")
    os.utime(file, (1, 1))

    def made(add: int = 0, value: float = 0.0, name: Any = str(file)) -> Any:
        class Own(Dataset[Any]):
            def __init__(self) -> None:
                self.array, self.tensor = np.zeros(3) + value, torch.zeros(3)
                self.names, self.words = [name], {"a", "b", "c"}
                self.transform = lambda image: image + add

        return digest_of(Own())

    plain = made()
    assert plain is not None
    assert made() == plain
    assert len({plain, made(add=1), made(value=1e-9), made(name=str(tmp_path / "no.csv"))}) == 4
    os.utime(file, (1, 2))
    assert made() != plain
    by_path = made(name=file)
    os.utime(file, (1, 3))
    assert made(name=file) != by_path


def test_a_digest_is_the_same_in_every_process() -> None:
    text = (
        "from tests.data import datasets as own; from reborn_nas.data.items.identity import digest_of; "
        "print(digest_of(own.shapes()))"
    )
    found = set()
    for seed in "12":
        done = subprocess.run(
            [sys.executable, "-c", text],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout.strip())
    assert found == {digest_of(own.shapes())}


# -- by name in other processes -----------------------------------------------------------------------------------

CHILD = """
import json, sys
from reborn_nas.data import load_dataset
from reborn_nas.errors import DataError
try:
    images = load_dataset(sys.argv[1], **json.loads(sys.argv[2]))
    print(json.dumps([images.name, images.fingerprint, list(images.classes)]))
except DataError as error:
    print(json.dumps(str(error)))
"""


def elsewhere(name: str, **how: Any) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, name, json.dumps(how)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_another_process_opens_what_was_read_here(cache: Path) -> None:
    both = named(classes=["cat", "dog", "eel"])
    name = hold(both)
    assert name.startswith("cached:Items-")
    assert "was made of Datasets given from Python" in elsewhere(name)
    images = load_dataset(name)
    assert elsewhere(name) == [images.name, images.fingerprint, ["cat", "dog", "eel"]]
    refused = elsewhere(name, image_size=9)
    assert (
        "its images are not stored as 3×9×9 (cover), and the Datasets that they come from are not here"
        in refused
    )
    larger = load_dataset(name, image_size=9)
    assert larger.input_size == (3, 9, 9)
    assert elsewhere(name, image_size=9)[1] == larger.fingerprint
    assert "nothing that can be read is stored under this name" in elsewhere(
        "cached:../Items-0123456789abcdef"
    )


def test_tensors_as_pytorch_users_have_them() -> None:
    data = TensorDataset(torch.from_numpy(PIXELS[:COUNT]), torch.tensor(LABELS[:COUNT]))
    images = load_dataset(data)
    assert images.name == "TensorDataset"
    assert np.array_equal(pixels_of(images).numpy(), PIXELS[:COUNT])


@pytest.mark.parametrize(
    ("image", "size", "note"),
    [
        (lambda grey: grey[None], (8, 1, 8), "channels first or last"),
        (lambda grey: torch.from_numpy(np.stack([grey] * 3, 2)), (8, 8, 3), "channels first or last"),
        (lambda grey: Image.fromarray(np.stack([grey] * 4, 2)), (3, 8, 8), "transparency"),
        (lambda grey: np.stack([grey] * 3, 2), (3, 8, 8), ""),
        (lambda grey: torch.from_numpy(grey[None]), (1, 8, 8), ""),
        (Image.fromarray, (1, 8, 8), ""),
    ],
)
def test_what_an_image_may_mean_otherwise_is_noted(
    tmp_path: Path, image: Callable[[Any], Any], size: tuple[int, ...], note: str
) -> None:
    """Small images have axes that could be channels: a note says which were taken, and what is not read."""
    rng = np.random.default_rng(0)
    items = [(image(rng.integers(0, 256, (8, 8), dtype=np.uint8)), k % 2) for k in range(60)]
    images = load_dataset(Items(items), cache_dir=tmp_path)
    assert images.input_size == size
    found = [text for text in images.notes if "first or last" in text or "transparency" in text]
    assert [note in text for text in found] == ([True] if note else [])
