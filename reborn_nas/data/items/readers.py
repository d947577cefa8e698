"""timm's readers as a data set: `hfds/NAME`, `hfids/NAME`, `wds/NAME`, `tfds/NAME`, `torch/NAME`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reborn_nas.data.files.listing import PARTS, part_of
from reborn_nas.errors import DataError, blame_machine

__all__ = ["READERS", "is_reader", "open_reader"]

READERS = {
    "hfds": ("datasets", "pip install datasets"),
    "hfids": ("datasets", "pip install datasets"),
    "wds": ("webdataset", "pip install webdataset"),
    "tfds": ("tensorflow_datasets", "pip install tensorflow-datasets tensorflow"),
    "torch": ("torchvision", ""),
}
"""Prefix → the package that it needs, and the line that installs it."""

_EVERY_SPLIT = {"train": "train", "test": "test"}
"""Of torchvision's sets, which know these two."""


def is_reader(name: str) -> bool:
    """Whether the name of a data set is for one of timm's readers."""
    prefix, sign, _ = name.partition("/")
    return bool(sign) and prefix.lower() in READERS and ":" not in prefix


def open_reader(name: str, root: str | Path | None) -> tuple[dict[str, Any], str]:
    """The Datasets of each part, and what they are known by beside what they hold.

    Raises:
        DataError: the package that reads them is missing, or what it answers.
    """
    from timm.data.dataset_factory import create_dataset

    prefix, _, rest = name.partition("/")
    prefix = prefix.lower()
    _require(name, prefix)
    place = None if root is None else str(Path(root).expanduser())
    if not rest and prefix != "wds":
        raise DataError(f"data set {name!r}: name the set after the slash, such as {prefix}/cifar10")
    if place is None and prefix in ("wds", "torch"):
        raise DataError(f"data set {name!r}: name the folder that it is in with --data-dir")

    def opened(split: str, **more: Any) -> Any:
        try:
            return create_dataset(name, root=place, split=split, **more)
        except Exception as error:
            blame_machine(error, f"data set {name!r}")
            reason = f"{type(error).__name__}: {error}".strip().removesuffix(":")
            raise DataError(
                f"data set {name!r}: timm cannot open its part {split!r}"
                + (f" in {place}" if place else "")
                + f" ({reason})"
            ) from error

    if prefix == "torch":
        return _of_torch(name, rest.lower(), place or "", opened)
    mode = {} if prefix == "tfds" else {"input_img_mode": ""}
    splits = _shards(name, Path(place or ".")) if prefix == "wds" else None
    if splits is None:
        found = {"train": opened("train", **mode)}
        splits = _splits(found["train"])
    else:
        found = {}
    for split, asked in splits.items():
        part = part_of(split)
        if part in PARTS and part not in found:
            found[part] = opened(asked, **mode)
    if "train" not in found:
        raise DataError(f"data set {name!r}: has no part for training, but {', '.join(splits) or 'none'}")
    return found, _known_by(found)


def _require(name: str, prefix: str) -> None:
    """Raise DataError where the package behind a reader is missing, or cannot be imported."""
    module, install = READERS[prefix]
    try:
        __import__(module)
    except ImportError as error:
        raise DataError(
            f"data set {name!r}: {prefix}/ is read by the package {module}, which cannot be imported ({error}); "
            f"{install}"
        ) from error


def _of_torch(name: str, kind: str, place: str, opened: Any) -> tuple[dict[str, Any], str]:
    """torchvision's own sets have train and test; its image folder has what there is."""
    if kind.rpartition("/")[2] not in ("image_folder", "folder"):
        return {part: opened(split) for part, split in _EVERY_SPLIT.items()}, ""
    there = (
        {entry.name for entry in Path(place).iterdir() if entry.is_dir()} if Path(place).is_dir() else set()
    )
    # timm would read all images for a split that has no folder
    found = {part: folder for folder in sorted(there) if (part := part_of(folder)) in PARTS}
    if "train" not in found:
        raise DataError(
            f"data set {name!r}: {place} has no folder train/; it holds {', '.join(sorted(there)) or 'no folder'}"
        )
    return {part: opened(folder) for part, folder in found.items()}, ""


def _splits(dataset: Any) -> dict[str, str]:
    """The parts that a set has by its own account: name → what to ask for."""
    reader = getattr(dataset, "reader", None)
    for owner in (getattr(reader, "dataset", None), getattr(reader, "builder", None)):
        splits = getattr(getattr(owner, "info", None), "splits", None)
        if isinstance(splits, Mapping) or (splits is not None and hasattr(splits, "keys")):
            return {str(split): str(split) for split in splits}
    return {}


def _shards(name: str, root: Path) -> dict[str, str]:
    """The parts of a webdataset: of its info file, else of the names of its shards, `NAME-train-0000.tar`."""
    for file in ("_info.json", "info.json"):
        if (root / file).is_file():
            try:
                return {str(split): str(split) for split in json.loads((root / file).read_bytes())["splits"]}
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"data set {name!r}: {root / file} cannot be read ({type(error).__name__}: {error})"
                ) from error
    found: dict[str, list[str]] = {}
    for shard in sorted(root.glob("*.tar")):
        words = [word for word in re.split(r"[^a-z]+", shard.stem.lower()) if part_of(word) in PARTS]
        if len(set(words)) != 1:
            raise DataError(
                f"data set {name!r}: {shard} does not show what it is for; name shards such as photos-train-0000.tar, "
                f"photos-val-0000.tar, photos-test-0000.tar, or put an info.json beside them"
            )
        found.setdefault(words[0], []).append(shard.name)
    if not found:
        raise DataError(f"data set {name!r}: there is no .tar in {root}")
    return {split: "::".join(shards) for split, shards in found.items()}


def _known_by(found: Mapping[str, Any]) -> str:
    """The files that a reader reads, with their sizes and times; "" where it does not name any.

    Of the Hugging Face library its Arrow files, which are made anew when a source changes; of a webdataset its shards.
    """
    known: list[Any] = []
    for part, dataset in found.items():
        reader = getattr(dataset, "reader", None)
        files = [
            file["filename"] for file in getattr(getattr(reader, "dataset", None), "cache_files", None) or ()
        ]
        shards = getattr(getattr(reader, "split_info", None), "filenames", None) or ()
        files += [Path(getattr(reader, "root", None) or ".", shard) for shard in shards]
        for file in filter(os.path.isfile, files):
            status = os.stat(file)
            known.append((part, os.fspath(file), status.st_size, status.st_mtime_ns))
    return repr(known) if known else ""
