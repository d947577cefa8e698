"""`load_dataset`: a data set by name."""

from __future__ import annotations

from pathlib import Path

from reborn_nas.data.digits import load_digits
from reborn_nas.data.files.headers import RESIZES
from reborn_nas.data.folder import load_folder
from reborn_nas.data.images import ImageSet, as_rgb
from reborn_nas.data.standard import SOURCES, load_standard
from reborn_nas.errors import DataError, unknown_name

_ALIASES = {"fashionmnist": "fashion_mnist", "fmnist": "fashion_mnist", "fashion-mnist": "fashion_mnist"}


def dataset_names() -> tuple[str, ...]:
    """What `load_dataset` knows by name; beside these there is `folder:PATH`."""
    return ("digits", *SOURCES)


def load_dataset(
    name: str,
    *,
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
) -> ImageSet:
    """Read a data set and give each image its use.

    Args:
        name: `digits` (scikit-learn's, always there), one of torchvision's `cifar10`, `cifar100`, `svhn`, `mnist`,
            `kmnist`, `fashion_mnist` (downloaded where they are absent), or `folder:PATH`.
        data_dir: where torchvision's sets lie or are put; `$REBORN_NAS_DATA`, else `~/.cache/reborn-nas`.
        image_size: side, or (height, width), that images are resized to.
        seed: draws the reserved part and, with `fraction`, the images kept. The test part never depends on it.
        fraction: share of every part that is kept, stratified, in (0, 1].
        flip: overrides whether training images are mirrored at random.
        skip_broken: leave out images of a folder that cannot be read, instead of raising; the notes count them.
        resize: what becomes of images of a folder that have another size: "cover" (scaled, and cut in the middle),
            "contain" (scaled, black around) or "stretch".
        stream: whether the decoded images of a folder are read from a cache on disk in every epoch, instead of being
            held in memory; where None, only if they take more than 0.6 of the memory that is free.
        cache_dir: where that cache lies; `$REBORN_NAS_CACHE`, else `~/.cache/reborn-nas/decoded`.
        rgb: give grey images three equal channels.

    Raises:
        UnknownNameError: no such data set.
        DataError: absent and not to be had, broken, or unusable.

    >>> images = load_dataset("digits")
    >>> images.input_size, len(images.pool), len(images.reserve), len(images.test)
    ((1, 8, 8), 1077, 360, 360)
    """
    if rgb:
        grey = load_dataset(
            name, data_dir=data_dir, image_size=image_size, seed=seed, fraction=fraction, flip=flip,
            skip_broken=skip_broken, resize=resize, stream=stream, cache_dir=cache_dir,
        )  # fmt: skip
        return as_rgb(grey)
    size = _size(image_size)
    if resize not in RESIZES:
        raise unknown_name("way to resize", resize, RESIZES)
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise DataError(f"data set {name!r}: fraction is a number in (0, 1], not {fraction!r}")
    if name.startswith("folder:"):
        path = name.removeprefix("folder:")
        return load_folder(
            name, path, image_size=size, seed=seed, fraction=fraction, flip=flip, skip_broken=skip_broken,
            resize=resize, stream=stream, cache_dir=cache_dir,
        )  # fmt: skip
    if resize != "cover":
        raise DataError(f"data set {name!r}: its images have one size; --resize is for folder:PATH")
    if stream:
        raise DataError(f"data set {name!r}: only folder:PATH is streamed; leave --stream out")
    plain = name.strip().lower()
    plain = _ALIASES.get(plain, plain)
    if plain == "digits":
        return load_digits(image_size=size, seed=seed, fraction=fraction, flip=flip)
    if plain not in SOURCES:
        raise unknown_name("data set", name, dataset_names(), hint="or folder:PATH for images of your own")
    return load_standard(plain, data_dir, image_size=size, seed=seed, fraction=fraction, flip=flip)


def _size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    sides = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= 4096 for side in sides):
        raise DataError(f"image_size is a side, or height and width, each 1 … 4096, not {image_size!r}")
    return sides[0], sides[1]
