"""`load_dataset`: a data set by its name, or made of Datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reborn_nas.data.digits import read_digits
from reborn_nas.data.files.layout import RESIZES
from reborn_nas.data.folder import load_folder
from reborn_nas.data.images import ImageSet, as_rgb
from reborn_nas.data.items.readers import is_reader, open_reader
from reborn_nas.data.items.stored import CACHED, is_live, read_cached, read_items, take
from reborn_nas.data.source import Reading, Source, make_images
from reborn_nas.data.standard import PUBLISHED, read_standard
from reborn_nas.errors import DataError, unknown_name

_ALIASES = {"fashionmnist": "fashion_mnist", "fmnist": "fashion_mnist", "fashion-mnist": "fashion_mnist"}
_OWN = "or images of your own: folder:PATH, file.py:factory, or timm's hfds/NAME, wds/NAME, tfds/NAME, torch/NAME"


def dataset_names() -> tuple[str, ...]:
    """What `load_dataset` knows by name; beside these there is `folder:PATH`."""
    return ("digits", *PUBLISHED)


def load_dataset(
    dataset: Any,
    *,
    name: str = "",
    data_dir: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    fraction: float = 1.0,
    flip: bool | None = None,
    skip_broken: bool = False,
    resize: str = "cover",
    stream: bool | None = None,
    cache_dir: str | Path | None = None,
    rgb: bool = False,
    stored_size: int | tuple[int, int] | None = None,
    decode: bool = True,
) -> ImageSet:
    """Read a data set and give each image its use.

    Args:
        dataset: `digits` (scikit-learn's, always there), one of torchvision's `cifar10`, `cifar100`, `svhn`, `mnist`,
            `kmnist`, `fashion_mnist` (downloaded where they are absent), `folder:PATH`, one of timm's readers
            (`hfds/NAME`, `wds/…`), or torch Datasets: one for training, or a mapping of "train", "validation" and
            "test", whose items are (image, label).
        name: of Datasets; that of their class where it is "".
        data_dir: where torchvision's sets lie or are put; `$REBORN_NAS_DATA`, else `~/.cache/reborn-nas`. Of timm's
            readers their root.
        image_size: side, or (height, width), that images are resized to.
        seed: draws the reserved part and, with `fraction`, the images kept. The test part never depends on it.
        fraction: share of every part that is kept, stratified, in (0, 1].
        flip: overrides whether training images are mirrored at random.
        skip_broken: leave out images that cannot be read, instead of raising; the notes count them.
        resize: what becomes of images that have another size than most: "cover" (scaled, and cut in the middle),
            "contain" (scaled, black around) or "stretch".
        stream: whether decoded images are read from a cache on disk in every epoch, instead of being held in memory;
            where None, only if they take more than 0.6 of the memory that is free.
        cache_dir: where that cache lies; `$REBORN_NAS_CACHE`, else `~/.cache/reborn-nas/decoded`.
        rgb: give grey images three equal channels.
        stored_size: side, or (height, width), at which images of your own are kept, larger than `image_size`: training
            shows random parts of them (or rectangles, by the recipe's `scale`, resized), and judging their middle.
        decode: read all pixels of a folder; without it, for a plan, headers and a sample.

    Raises:
        UnknownNameError: no such data set.
        DataError: absent and not to be had, broken, or unusable.

    >>> images = load_dataset("digits")
    >>> images.input_size, len(images.pool), len(images.reserve), len(images.test)
    ((1, 8, 8), 1077, 360, 360)
    """
    size, stored = _size(image_size, "image_size"), _size(stored_size, "stored_size")
    if stored is not None and (size is None or stored[0] < size[0] or stored[1] < size[1]):
        given = "no image_size" if size is None else f"an image_size of {size[0]}×{size[1]}"
        raise DataError(
            f"data set {name or dataset!r}: stored_size is at least the image_size that networks get, and "
            f"{stored[0]}×{stored[1]} was given with {given}; such as --image-size 224 --stored-size 256"
        )
    if resize not in RESIZES:
        raise unknown_name("way to resize", resize, RESIZES)
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise DataError(f"data set {name or dataset!r}: fraction is a number in (0, 1], not {fraction!r}")

    def make(source: Source) -> ImageSet:
        side = None if stored is None else size
        return make_images(source, seed=seed, fraction=fraction, flip=flip, side=side)

    how = Reading(stored or size, resize, stream, cache_dir, skip_broken, decode)
    if is_live(dataset):
        images = make(read_items(take(dataset, name), how))
    elif dataset.startswith(CACHED):
        images = make(read_cached(dataset, how))
    elif dataset.startswith("folder:"):
        images = load_folder(dataset, make, how)
    elif is_reader(dataset):
        found, known = open_reader(dataset, data_dir)
        images = make(read_items(take(found, dataset, known=known, ends=True), how))
    else:
        if stored is not None:
            raise DataError(
                f"data set {dataset!r}: only images of your own are kept larger; leave --stored-size out"
            )
        images = make(_named(dataset, data_dir, how))
    return as_rgb(images) if rgb else images


def _named(name: str, data_dir: str | Path | None, how: Reading) -> Source:
    """A set that is known by its name."""
    if how.resize != "cover":
        raise DataError(f"data set {name!r}: its images have one size; --resize is for images of your own")
    if how.stream:
        raise DataError(f"data set {name!r}: only images of your own are streamed; leave --stream out")
    plain = name.strip().lower()
    plain = _ALIASES.get(plain, plain)
    if plain == "digits":
        return read_digits(how.image_size)
    if plain not in PUBLISHED:
        raise unknown_name("data set", name, dataset_names(), hint=_OWN)
    return read_standard(plain, data_dir, how.image_size)


def _size(given: int | tuple[int, int] | None, name: str) -> tuple[int, int] | None:
    if given is None:
        return None
    sides = tuple(given) if isinstance(given, tuple | list) else (given, given)
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= 4096 for side in sides):
        raise DataError(f"{name} is a side, or height and width, each 1 … 4096, not {given!r}")
    return sides[0], sides[1]
