"""scikit-learn's handwritten digits: 1,797 images of 8×8, inside the package, so no network is ever needed."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reborn_nas.data.augment.settings import NO_AUGMENTATION
from reborn_nas.data.images import resize
from reborn_nas.data.source import Source

PART = 360
"""Images for validation, in the reserve and in the test; the other 717 train."""


def read_digits(image_size: tuple[int, int] | None = None) -> Source:
    """The digits, one channel, their grey levels 0 … 16 spread over 0 … 255."""
    table = torch.from_numpy(_table())
    levels = table[:, :64].double().view(-1, 1, 8, 8)
    pictures = (levels * (255 / 16)).round().to(torch.uint8)
    labels = table[:, 64].long().contiguous()
    return Source(
        "digits",
        tuple(str(digit) for digit in range(10)),
        labels,
        {"train": torch.arange(len(labels))},
        lambda kept, notes: resize(pictures[kept], image_size or (8, 8)),
        NO_AUGMENTATION,
        ("digits came undivided; training, validation, reserve and test are fixed stratified parts",),
        sizes={"test_size": PART, "reserve_size": PART, "validation_size": PART},
    )


def _table() -> np.ndarray[Any, Any]:
    """(1797, 65): 64 grey levels and the label of each image.

    Read from scikit-learn's own file, because importing `sklearn.datasets` costs seconds; where the file is not
    found in its place, through `sklearn.datasets.load_digits`.
    """
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                return np.loadtxt(lines, delimiter=",")
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    return np.concatenate([bunch.data, bunch.target[:, None]], axis=1)
