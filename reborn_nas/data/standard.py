"""torchvision's data sets of the paper: read where they lie, downloaded where there is a network."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.datasets

from reborn_nas.data.augment.settings import NO_AUGMENTATION, PAPER_AUGMENTATION, Augmentation
from reborn_nas.data.images import resize
from reborn_nas.data.source import Source
from reborn_nas.errors import DataError, blame_machine

DIGITS = tuple("0123456789")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
KMNIST = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
FASHION_MNIST = tuple(_FASHION.split(","))
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""
CIFAR100 = tuple(_CIFAR100.split())


Arrays = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]
"""uint8 images (N, H, W) or (N, H, W, C), and labels (N,)."""


@dataclass(frozen=True)
class Published:
    """How one of torchvision's sets is found, read and downloaded.

    Args:
        torchvision: its class there.
        url: where torchvision downloads it from; known here, so that a missing network is noticed before the import.
        files: what must lie under the root for it to be there at all.
        read: (root, train) → arrays.
        augmentation: the paper's (Sec. 4.3).
        classes: names by label.
    """

    torchvision: str
    url: str
    files: tuple[str, ...]
    read: Callable[[Path, bool], Arrays]
    augmentation: Augmentation
    classes: tuple[str, ...]


def read_standard(
    name: str, data_dir: str | Path | None, image_size: tuple[int, int] | None = None
) -> Source:
    """The set `name`; its test images are the published ones, its reserve comes out of the training images."""
    source = PUBLISHED[name]
    root = _find(name, source, data_root(data_dir))
    try:
        (train, train_labels), (test, test_labels) = source.read(root, True), source.read(root, False)
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes a reader raise
        blame_machine(error, f"data set {name!r} under {root}")
        raise DataError(
            f"data set {name!r} under {root} cannot be read: {error}; delete its files there and let them be "
            "downloaded again, or put whole ones there"
        ) from error
    labels = torch.from_numpy(np.concatenate([train_labels, test_labels]).astype(np.int64))
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= len(source.classes):
        raise DataError(f"data set {name!r} under {root}: labels are 0 … {len(source.classes) - 1}")
    positions = torch.arange(len(labels))

    def pixels(kept: torch.Tensor, notes: list[str]) -> torch.Tensor:
        halves = [
            torch.from_numpy(train[kept[kept < len(train)].numpy()]),
            torch.from_numpy(test[kept[kept >= len(train)].numpy() - len(train)]),
        ]
        images = torch.cat([_channels_first(half) for half in halves])
        return resize(images, image_size or (images.shape[2], images.shape[3]))

    parts = {"train": positions[: len(train_labels)], "test": positions[len(train_labels) :]}
    return Source(name, source.classes, labels, parts, pixels, source.augmentation)


def data_root(data_dir: str | Path | None = None) -> Path:
    """Where torchvision's sets lie: `data_dir`, else `$REBORN_NAS_DATA`, else `~/.cache/reborn-nas`."""
    given = data_dir or os.environ.get("REBORN_NAS_DATA") or "~/.cache/reborn-nas"
    return Path(given).expanduser()


def _find(name: str, source: Published, root: Path) -> Path:
    """The folder that holds the set, which is downloaded to `root` if none does."""
    places = [root, root / name, root / source.torchvision]
    for place in places:
        if _present(place, source):
            return place
    url = source.url
    looked = ", ".join(str(place) for place in places)
    wanted = ", ".join(f"{root}/{file}" for file in source.files)
    way_out = (
        f"put {wanted} there yourself (torchvision.datasets.{source.torchvision}(root, download=True) on a machine "
        "with a network makes them), name another folder with --data-dir, or use --dataset digits, which needs no "
        "network"
    )
    if not reachable(url):
        raise DataError(
            f"data set {name!r} is not there (looked in {looked}), and {url} cannot be reached; {way_out}"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        _download(source, root)
    except Exception as error:  # torchvision raises what urllib, tarfile or the disk raised
        blame_machine(error, f"data set {name!r}, downloaded to {root}")
        raise DataError(
            f"data set {name!r} is not there (looked in {looked}), and its download from {url} failed: {error}; "
            f"{way_out}"
        ) from error
    if not _present(root, source):
        raise DataError(f"data set {name!r}: the download from {url} left no {wanted}; {way_out}")
    return root


def _present(place: Path, source: Published) -> bool:
    return all((place / file).exists() or (place / f"{file}.gz").exists() for file in source.files)


def _download(source: Published, root: Path) -> None:
    kind = getattr(torchvision.datasets, source.torchvision)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # torchvision sets none, and a dead mirror would hang for ever
    try:
        for train in (True, False):
            with contextlib.redirect_stdout(io.StringIO()):
                if source.torchvision == "SVHN":
                    kind(root, split="train" if train else "test", download=True)
                else:
                    kind(root, train=train, download=True)
    finally:
        socket.setdefaulttimeout(before)


def _channels_first(images: torch.Tensor) -> torch.Tensor:
    """(N, H, W) or (N, H, W, C) → (N, C, H, W)."""
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)


def _idx_files(folder: str) -> tuple[str, ...]:
    return tuple(
        f"{folder}/raw/{part}-{kind}"
        for part in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )


def _idx_reader(folder: str) -> Callable[[Path, bool], Arrays]:
    def read(root: Path, train: bool) -> Arrays:
        images, labels = (root / file for file in _idx_files(folder)[0 if train else 2 :][:2])
        pictures, names = read_idx(images), read_idx(labels)
        if pictures.ndim != 3 or names.shape != pictures.shape[:1]:
            raise DataError(
                f"{images} holds {pictures.shape}, {labels} {names.shape}: they do not belong together"
            )
        return pictures, names

    return read


def _cifar_reader(kind: str) -> Callable[[Path, bool], Arrays]:
    def read(root: Path, train: bool) -> Arrays:
        # torchvision checks the MD5 of every batch before it unpickles it
        batch = getattr(torchvision.datasets, kind)(root, train=train, download=False)
        return batch.data, np.asarray(batch.targets)

    return read


def _read_svhn(root: Path, train: bool) -> Arrays:
    batch = torchvision.datasets.SVHN(root, split="train" if train else "test", download=False)
    return batch.data.transpose(0, 2, 3, 1), batch.labels


_TORONTO = "https://www.cs.toronto.edu/~kriz"

PUBLISHED = {
    "cifar10": Published(
        "CIFAR10",
        f"{_TORONTO}/cifar-10-python.tar.gz",
        ("cifar-10-batches-py",),
        _cifar_reader("CIFAR10"),
        PAPER_AUGMENTATION,
        CIFAR10,
    ),
    "cifar100": Published(
        "CIFAR100",
        f"{_TORONTO}/cifar-100-python.tar.gz",
        ("cifar-100-python",),
        _cifar_reader("CIFAR100"),
        PAPER_AUGMENTATION,
        CIFAR100,
    ),
    "svhn": Published(
        "SVHN",
        "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
        ("train_32x32.mat", "test_32x32.mat"),
        _read_svhn,
        NO_AUGMENTATION,
        DIGITS,
    ),
    "mnist": Published(
        "MNIST",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        _idx_files("MNIST"),
        _idx_reader("MNIST"),
        NO_AUGMENTATION,
        DIGITS,
    ),
    "kmnist": Published(
        "KMNIST",
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        _idx_files("KMNIST"),
        _idx_reader("KMNIST"),
        NO_AUGMENTATION,
        KMNIST,
    ),
    "fashion_mnist": Published(
        "FashionMNIST",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        _idx_files("FashionMNIST"),
        _idx_reader("FashionMNIST"),
        PAPER_AUGMENTATION,
        FASHION_MNIST,
    ),
}


def read_idx(path: Path) -> np.ndarray[Any, Any]:
    """An IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist), plain or gzipped."""
    packed = path.with_name(path.name + ".gz")
    data = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an IDX file of bytes; delete it and let it be downloaded again")
    shape = [int.from_bytes(data[4 + 4 * k : 8 + 4 * k], "big") for k in range(data[3])]
    body = data[4 + 4 * data[3] :]
    if int(np.prod(shape)) != len(body):
        raise DataError(f"{path} is cut short: {len(body)} bytes for the shape {shape}; download it again")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


PROBE_SECONDS = 2.5
"""How long the host of a download may take to answer before we say that there is no network."""


def reachable(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether the host of `url`, or the proxy on the way to it, accepts a connection within `seconds`.

    In a thread, because looking a name up knows no timeout.
    """
    address = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(address.hostname or ""):
        address = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or (443 if address.scheme == "https" else 80)
    answered = threading.Event()

    def knock() -> None:
        with contextlib.suppress(OSError), socket.create_connection((address.hostname or "", port), seconds):
            answered.set()

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
