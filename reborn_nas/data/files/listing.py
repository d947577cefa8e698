"""Which files of a folder are images of which class and part, and what is not used."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from reborn_nas.data.files.entries import (
    all_entries,
    entries_of,
    folders_of,
    identity,
    is_dangling,
    is_file,
    is_folder,
    is_hidden,
    shown,
    some,
)
from reborn_nas.errors import DataError

__all__ = [
    "ARRAY",
    "EXTENSIONS",
    "PARTS",
    "Listing",
    "class_names",
    "list_files",
    "not_used",
    "once",
    "part_folders",
    "part_of",
]

EXTENSIONS = frozenset((
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
    ".pbm", ".pnm", ".pfm", ".tga", ".jp2", ".j2k", ".avif",
))  # fmt: skip
"""What Pillow decodes by itself. Beside these `ARRAY`; a file with another extension is reported and not read."""

ARRAY = ".npy"
_READ = EXTENSIONS | {ARRAY}

_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "unclear",
    "evaluation": "unclear",
    "holdout": "unclear",
}
_FILLERS = frozenset(("", "data", "dataset", "images", "image", "imgs", "img", "part", "seg", "set", "split"))
PARTS = ("train", "validation", "test")


@dataclass
class Listing:
    """What a folder holds: files in a fixed order, their labels, the part of each, and what is not used."""

    files: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    links: int = 0
    loops: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    hidden: Counter[str] = field(default_factory=Counter)

    def without(self, dropped: set[str]) -> Listing:
        """The listing without these files."""
        kept = [k for k, file in enumerate(self.files) if file not in dropped]
        return replace(
            self,
            files=[self.files[k] for k in kept],
            labels=[self.labels[k] for k in kept],
            parts=[self.parts[k] for k in kept],
        )


# -- parts ----------------------------------------------------------------------------------------------------


def part_folders(name: str, root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each part, and notes."""
    entries = entries_of(root)
    folders = [entry.name for entry in entries if is_folder(entry)]
    found: dict[str, list[str]] = {part: [] for part in (*PARTS, "unclear")}
    for folder in folders:
        part = part_of(folder)
        if part is not None:
            found[part].append(folder)
    if _are_classes(root, folders, found["train"]):
        _check_classes(name, root, folders)
        return {"train": root}, [f"{root} has no train/; its folders are taken as the classes"]
    for entry in entries:
        if is_dangling(entry) and part_of(entry.name):
            raise DataError(f"data set {name!r}: the link {entry.path} leads nowhere; mend it or remove it")
    for part, several in found.items():
        names = " and ".join(f"{folder}/" for folder in several)
        if part == "unclear" and several:
            raise DataError(
                f"data set {name!r}: {root} has {names}, which may be for validation or for the test; rename it to "
                "val/ or test/"
            )
        if len(several) > 1:
            raise DataError(f"data set {name!r}: {root} has {names} for {part}; keep one of them")
    roots = {part: root / found[part][0] for part in PARTS if found[part]}
    if "train" not in roots:
        names = ", ".join(f"{folder.name}/" for folder in roots.values())
        raise DataError(
            f"data set {name!r}: {root} has {names} but no train/; put the training images into train/<class>/…"
        )
    used = {folder.name for folder in roots.values()}
    own = set(folders_of(roots["train"]))
    unused = []
    for entry in entries:
        if entry.name not in used:
            alike = " (with folders of the same names as train/)" if _shares(entry, own) else ""
            unused.append(f"{entry.name}/{alike}" if is_folder(entry) else entry.name)
    return roots, [f"not used in {root}: {some(unused)}"] if unused else []


def _shares(entry: os.DirEntry[str], classes: set[str]) -> bool:
    """Whether a folder holds two of the classes, as another part would."""
    return is_folder(entry) and len(classes.intersection(folders_of(Path(entry.path)))) > 1


def part_of(folder: str) -> str | None:
    """The part that a folder is named after: `Train`, `test_set`, `val2017`; None for other names."""
    words = [word for word in re.split(r"[^a-z]+", folder.casefold()) if word not in _FILLERS]
    return _WORDS.get(words[0].removesuffix("set")) if len(words) == 1 else None


def _are_classes(root: Path, folders: Sequence[str], train: Sequence[str]) -> bool:
    """Whether the folders are classes: none is named after a part, or those that are hold images, not classes.

    `train/` beside `car/` and `plane/` is a class, if it holds no folders.
    """
    named = [folder for folder in folders if part_of(folder) is not None]
    if not named:
        return True
    plain = len(folders) - len(named) >= 1
    return (
        plain and not any(folders_of(root / folder) for folder in named) and bool(train or len(folders) > 2)
    )


def _check_classes(name: str, root: Path, folders: Sequence[str]) -> None:
    """Refuse folders that look like parts with names of their own: they hold the same sub-folders."""
    owner: dict[str, str] = {}
    for folder in folders:
        inner = folders_of(root / folder)
        for other in dict.fromkeys(owner[own] for own in inner if own in owner):
            shared = [own for own in inner if owner.get(own) == other]
            if len(shared) > 1:
                raise DataError(
                    f"data set {name!r}: {other}/ and {folder}/ in {root} both hold {some(shared)}; if they are "
                    "parts, rename them to train/, val/ or test/; if they are classes, put them into train/"
                )
        owner.update({own: folder for own in inner if own not in owner})


# -- classes --------------------------------------------------------------------------------------------------


def class_names(name: str, roots: dict[str, Path]) -> tuple[tuple[str, ...], list[str]]:
    """The folders in train/, sorted, and notes; every other part must have exactly these."""
    train = roots["train"]
    classes = tuple(folders_of(train))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        inner = f"; if the data set lies in it, give folder:{train / classes[0]}" if classes else ""
        raise DataError(
            f"data set {name!r}: {train} should hold a folder for each of at least two classes, found {found} "
            f"(hidden folders do not count){inner}"
        )
    notes = _check_names(name, train, classes)
    for part, root in roots.items():
        names = set(folders_of(root))
        if not names:
            raise DataError(
                f"data set {name!r}: the {part} part {root} has no class folders, so that nobody knows what its images "
                f"show; sort them into {', '.join(f'{own}/' for own in classes[:2])} …, or move {root.name}/ out of "
                f"{root.parent} to do without it"
            )
        extra, missing = sorted(names - set(classes)), sorted(set(classes) - names)
        if extra or missing:
            words = [f"lacks {', '.join(map(shown, missing))}"] * bool(missing)
            words += [f"has {', '.join(map(shown, extra))}, which train/ has not"] * bool(extra)
            raise DataError(
                f"data set {name!r}: the {part} part {root} {' and '.join(words)}; classes must agree"
                + _same_but(missing, extra)
            )
        hidden = [
            f"{entry.name}/" for entry in all_entries(root) if is_hidden(entry.name) and is_folder(entry)
        ]
        if hidden:
            notes.append(f"hidden folders in {root} are not classes: {some(hidden)}")
        for entry in entries_of(root):
            if is_dangling(entry):
                raise DataError(
                    f"data set {name!r}: the link {entry.path} leads nowhere; mend it or remove it"
                )
        if beside := [entry.name for entry in entries_of(root) if not is_folder(entry)]:
            notes.append(
                f"files beside the classes of {root} belong to none and are not read: {some(beside)}"
            )
    return classes, notes


def _check_names(name: str, train: Path, classes: Sequence[str]) -> list[str]:
    """Refuse names that cannot be kept apart; notes on those that hardly can."""
    seen: dict[str, str] = {}
    alike: dict[str, list[str]] = {}
    for own in classes:
        try:
            own.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"data set {name!r}: the class folder {os.fsencode(own)!r} in {train} has a name that is not UTF-8; "
                "rename it"
            ) from None
        plain = unicodedata.normalize("NFC", own)
        if plain in seen:
            raise DataError(
                f"data set {name!r}: {train} has two class folders {own!r} whose names differ only in how Unicode "
                "composes their letters (NFC and NFD); merge them"
            )
        seen[plain] = own
        alike.setdefault(plain.casefold(), []).append(own)
    return [
        f"the class folders {' and '.join(several)} in {train} differ only in case; they are two classes"
        for several in alike.values()
        if len(several) > 1
    ]


def _same_but(missing: Sequence[str], extra: Sequence[str]) -> str:
    """A hint where the names differ in case or in the composition of their letters alone."""
    composed = {unicodedata.normalize("NFC", own) for own in missing}
    if any(unicodedata.normalize("NFC", own) in composed for own in extra):
        return " (these names look alike: one has composed letters, NFC, the other decomposed ones, NFD; rename one)"
    if {own.casefold() for own in missing} & {own.casefold() for own in extra}:
        return " (upper and lower case count)"
    return ""


# -- files ----------------------------------------------------------------------------------------------------


def list_files(name: str, roots: dict[str, Path], classes: Sequence[str]) -> Listing:
    listing = Listing()
    for part, root in roots.items():
        for label, own in enumerate(classes):
            before, others = len(listing.files), Counter(listing.others)
            for file in _walk(root / own, listing, frozenset((identity(root), identity(root / own)))):
                listing.files.append(file)
                listing.labels.append(label)
                listing.parts.append(part)
            listing.links += (root / own).is_symlink()
            if len(listing.files) == before and (unread := listing.others - others):
                raise DataError(
                    f"data set {name!r}: {root / own} holds no image of a format that is read, but "
                    f"{_kinds(unread)}; convert these, such as to PNG"
                )
        listing.links += root.is_symlink()
    return _without_arrays(listing)


def _without_arrays(listing: Listing) -> Listing:
    """The listing; beside pictures arrays are something else, such as features, and are not read."""
    arrays = {file for file in listing.files if file.endswith(ARRAY)}
    if not arrays or len(arrays) == len(listing.files):
        return listing
    listing.others[ARRAY] += len(arrays)
    return listing.without(arrays)


def _walk(folder: Path, listing: Listing, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Image files under `folder`, in an order that depends on their names only.

    Args:
        above: the folders around it, so that a link back to one of them is no loop.
    """
    for entry in all_entries(folder):
        if is_hidden(entry.name):
            listing.hidden[shown(entry.name)] += is_folder(entry)
            continue
        linked = entry.is_symlink()
        listing.links += linked
        kind = os.path.splitext(entry.name)[1].lower()
        if not linked and kind in _READ and is_file(entry):  # nearly all, so this is asked first
            yield entry.path
        elif is_folder(entry):
            inner = Path(entry.path)
            own = identity(inner)
            if own in above:
                listing.loops.append(shown(entry.name))
            else:
                yield from _walk(inner, listing, above | {own})
        elif is_dangling(entry):
            listing.dangling.append(shown(entry.name))
        elif kind in _READ and is_file(entry):
            yield entry.path
        else:  # no image, or a pipe or device, which would block or never end
            listing.others[kind or "without extension"] += 1


def once(name: str, listing: Listing, notes: list[str]) -> Listing:
    """Each file once, where links may lead to one file twice."""
    if not listing.links:
        return listing
    notes.append(f"{listing.links} symbolic links were followed")
    first: dict[tuple[int, int], int] = {}
    again: set[str] = set()
    for k, file in enumerate(listing.files):
        j = first.setdefault(identity(file), k)
        if j == k:
            continue
        if (listing.labels[j], listing.parts[j]) != (listing.labels[k], listing.parts[k]):
            raise DataError(
                f"data set {name!r}: {listing.files[j]} and {file} are one file, by a link, in two classes or parts; "
                "remove one of them"
            )
        again.add(file)
    if again:
        notes.append(f"{len(again)} images are reached twice by links, and count once")
    return listing.without(again)


def not_used(listing: Listing) -> list[str]:
    notes = []
    if listing.loops:
        notes.append(f"links to a folder around them were not followed: {some(listing.loops)}")
    if listing.dangling:
        notes.append(f"{len(listing.dangling)} links lead nowhere: {some(listing.dangling)}")
    if hidden := +listing.hidden:
        notes.append(f"{hidden.total()} hidden folders in classes were not read: {_kinds(hidden)}")
    if listing.others:
        notes.append(
            f"{listing.others.total()} files that are not images of a known format were not read: "
            + _kinds(listing.others)
        )
    return notes


def _kinds(others: Counter[str]) -> str:
    """`.heic (6), .txt (1)`."""
    return some([f"{kind} ({count})" for kind, count in sorted(others.items())])
