"""`folder:PATH`: a user's own images, one folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from reborn_nas.data.decode import decode
from reborn_nas.data.images import PAPER_AUGMENTATION, Augmentation, ImageSet, assemble
from reborn_nas.data.split import plan_parts
from reborn_nas.errors import DataError

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
)
_PARTS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


@dataclass
class _Listing:
    """What a folder holds: files in a fixed order, their labels, the part of each, and what was passed over."""

    files: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    links: int = 0
    others: int = 0


def load_folder(
    name: str,
    path: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    fraction: float = 1.0,
    flip: bool | None = None,
) -> ImageSet:
    """Images under `path`: `train/<class>/…`, optionally `val/<class>/…` and `test/<class>/…`.

    Without `train/`, the folders in `path` are the classes. Sub-folders of a class belong to it. Hidden files
    and symbolic links are passed over, so that nothing outside `path` is ever read. Images of another size than
    the most common one (or `image_size`) are scaled to cover it and cut in the middle. If all are grey, there is one
    channel, else three.

    Raises:
        DataError: no such folder, fewer than two classes, a class without images in some part, a broken image.
    """
    if not str(path):
        raise DataError("data set 'folder:': name the folder, as in folder:/home/me/pictures")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"data set {name!r}: there is no folder {root}; it should hold train/<class>/…")
    roots, notes = _part_folders(name, root)
    classes = _class_names(name, roots)
    listing = _list(roots, classes)
    notes += _passed_over(listing)
    labels = torch.tensor(listing.labels, dtype=torch.int64)
    where = {
        part: torch.tensor([k for k, own in enumerate(listing.parts) if own == part], dtype=torch.int64)
        for part in _PARTS
    }
    parts = plan_parts(
        labels,
        classes,
        name=name,
        train=where["train"],
        test=where["test"] if "test" in roots else None,
        validation=where["validation"] if "validation" in roots else None,
        seed=seed,
        fraction=fraction,
    )
    if "test" not in roots:
        notes.append(
            f"{root} has no test/; a fixed stratified part of {len(parts.test)} images is the test set"
        )
    if "validation" in roots:
        notes.append(
            f"the {parts.validation_size} images of {roots['validation'].name}/ validate in every block"
        )

    def pixels(kept: torch.Tensor) -> torch.Tensor:
        return decode([listing.files[k] for k in kept.tolist()], name, image_size, notes)

    augmentation = Augmentation(PAPER_AUGMENTATION.crop_padding, True if flip is None else flip)
    return assemble(name, pixels, labels, classes, parts, augmentation, notes)


def _part_folders(name: str, root: Path) -> tuple[dict[str, Path], list[str]]:
    """Where the images of each part lie, and what is to be said about it."""
    found = {
        part: [root / word for word in words if _is_folder(root / word)] for part, words in _PARTS.items()
    }
    for part, folders in found.items():
        if len(folders) > 1:
            names = " and ".join(f"{folder.name}/" for folder in folders)
            raise DataError(f"data set {name!r}: {root} has {names} for {part}; keep one of them")
    roots = {part: folders[0] for part, folders in found.items() if folders}
    if "train" in roots:
        return roots, []
    if roots:
        names = ", ".join(f"{folder.name}/" for folder in roots.values())
        raise DataError(
            f"data set {name!r}: {root} has {names} but no train/; put the training images into train/<class>/…"
        )
    return {"train": root}, [f"{root} has no train/; its folders are taken as the classes"]


def _class_names(name: str, roots: dict[str, Path]) -> tuple[str, ...]:
    """The folders in train/, sorted; every other part must have exactly these."""
    train = roots["train"]
    classes = tuple(entry.name for entry in _entries(train) if entry.is_dir(follow_symlinks=False))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(
            f"data set {name!r}: {train} should hold a folder for each of at least two classes, found {found} "
            "(hidden folders and links do not count)"
        )
    for part, root in roots.items():
        names = {entry.name for entry in _entries(root) if entry.is_dir(follow_symlinks=False)}
        extra, missing = sorted(names - set(classes)), sorted(set(classes) - names)
        if extra or missing:
            words = [f"lacks {', '.join(missing)}"] * bool(missing)
            words += [f"has {', '.join(extra)}, which train/ has not"] * bool(extra)
            raise DataError(
                f"data set {name!r}: the {part} part {root} {' and '.join(words)}; classes must agree"
            )
    return classes


def _list(roots: dict[str, Path], classes: Sequence[str]) -> _Listing:
    listing = _Listing()
    for part, root in roots.items():
        for label, own in enumerate(classes):
            for file in _walk(root / own, listing):
                listing.files.append(file)
                listing.labels.append(label)
                listing.parts.append(part)
    return listing


def _walk(folder: Path, listing: _Listing) -> Iterator[Path]:
    """Image files under `folder`, in an order that depends on their names only."""
    for entry in _entries(folder):
        if entry.is_symlink():
            listing.links += 1
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), listing)
        elif entry.is_file(follow_symlinks=False) and Path(entry.name).suffix.lower() in EXTENSIONS:
            yield Path(entry.path)
        else:  # no image, or a pipe or device, which would block or never end
            listing.others += 1


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in `folder` by name, without hidden entries."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read: {error.strerror or error}") from error


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _passed_over(listing: _Listing) -> list[str]:
    notes = []
    if listing.links:
        notes.append(
            f"{listing.links} symbolic links were passed over; copy or hard-link what should be used"
        )
    if listing.others:
        notes.append(f"{listing.others} files that are no images were passed over")
    return notes
