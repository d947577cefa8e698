"""The values of `classification.METRICS` from logits and labels, and their standard errors over images.

A value is one number on the device of the logits, computed without a host read, so that judging waits for nothing; an
error is computed once a training. Averages are over the classes that the labels hold; a class that is only predicted
lowers the others' precision and has no average of its own (scikit-learn's macro F1 would count it with 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from reborn_nas.errors import TrainingError
from reborn_nas.metric.classification import TOP, undefined

__all__ = ["ClassCounts", "Value", "check_defined", "class_counts", "confusion", "score_error", "score_value"]

DRAWS = 200
"""Of the bootstrap. Its standard error is then known to a twentieth."""

CLASSES_AT_ONCE = 64
"""Of the ranks for the area under the ROC curve, so that their memory stays small."""

Tensor = torch.Tensor
FloatArray = npt.NDArray[np.float64]


class Value(NamedTuple):
    """A metric's value on a part, and its standard error over other images of the same kind."""

    value: float
    error: float


def score_value(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """The metric's value, one number on the device of `logits`.

    Args:
        name: of `classification.METRICS`.
        logits: (n, C). labels: int64 (n,).
    """
    return _VALUES[name](logits, labels)


def score_error(name: str, logits: Tensor, labels: Tensor) -> float:
    """The value's standard error over images that are drawn anew.

    Shares (accuracy, top5): binomial. balanced_accuracy: that of each class's share. log_loss: of a mean. auroc:
    DeLong's, summed over classes image by image. macro_f1: the bootstrap over images, `DRAWS` draws, always the same.
    """
    return _ERRORS[name](logits.detach().cpu(), labels.cpu())


def check_defined(name: str, labels: Tensor, classes: int, part: str) -> None:
    """Raise TrainingError where the metric means nothing on images with these labels."""
    if reason := undefined(name, torch.bincount(labels.cpu(), minlength=classes).tolist(), part):
        raise TrainingError(reason)


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts (C, C), int64: a row for the right class, a column for the predicted one."""
    C = logits.shape[1]
    counts = torch.zeros(C * C, dtype=torch.int64, device=logits.device)
    counts.scatter_add_(0, labels * C + logits.argmax(1), torch.ones_like(labels))
    return counts.view(C, C)


@dataclass(frozen=True)
class ClassCounts:
    """By class: images, right answers, and images that were taken for it."""

    images: Sequence[int]
    right: Sequence[int]
    predicted: Sequence[int]

    def rows(self, classes: Sequence[str]) -> list[dict[str, str | int]]:
        """One row a class: class, images, right, predicted."""
        counts = zip(classes, self.images, self.right, self.predicted)
        return [
            {"class": name, "images": images, "right": right, "predicted": predicted}
            for name, images, right, predicted in counts
        ]


def class_counts(logits: Tensor, labels: Tensor) -> ClassCounts:
    """What a part's judging left of each class."""
    table = confusion(logits, labels)
    return ClassCounts(table.sum(1).tolist(), table.diagonal().tolist(), table.sum(0).tolist())


def _double(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _over_present(values: Tensor, images: Tensor) -> Tensor:
    """Mean over the classes that have images; no boolean index, which would wait for the device."""
    present = images > 0
    return torch.where(present, values, 0.0).sum() / present.sum()


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return _double(logits.argmax(1) == labels).mean()


def _balanced(logits: Tensor, labels: Tensor) -> Tensor:
    table = _double(confusion(logits, labels))
    images = table.sum(1)
    return _over_present(table.diagonal() / images.clamp(min=1), images)


def _macro_f1(logits: Tensor, labels: Tensor) -> Tensor:
    return _f1(_double(confusion(logits, labels)))


def _f1(table: Tensor) -> Tensor:
    images = table.sum(1)
    both = (images + table.sum(0)).clamp(min=1)
    return _over_present(2 * table.diagonal() / both, images)


def _top(logits: Tensor, labels: Tensor) -> Tensor:
    first = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
    return _double((first == labels[:, None]).any(1)).mean()


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(_double(logits), labels, reduction="none")


def _auroc(logits: Tensor, labels: Tensor) -> Tensor:
    n, C = logits.shape
    scores = _double(logits).log_softmax(1).T.contiguous()  # (C, n)
    areas, positives = [], []
    for first in range(0, C, CLASSES_AT_ONCE):
        rows = scores[first : first + CLASSES_AT_ONCE]
        mine = _double(labels[None] == torch.arange(first, first + len(rows), device=labels.device)[:, None])
        count = mine.sum(1)
        ranks = _ranks(rows.sort(1).values, rows)
        above = (ranks * mine).sum(1) - count * (count + 1) / 2
        areas.append(above / (count * (n - count)).clamp(min=1))
        positives.append(count * (n - count))
    return _over_present(torch.cat(areas), torch.cat(positives))


def _ranks(ordered: Tensor, rows: Tensor) -> Tensor:
    """Ranks of `rows` among `ordered`, from 1; equal ones share the middle."""
    below = torch.searchsorted(ordered, rows)
    upto = torch.searchsorted(ordered, rows, right=True)
    return _double(below + upto + 1) / 2


def _binomial(value: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], float]:
    def error(logits: Tensor, labels: Tensor) -> float:
        share = float(value(logits, labels))
        return math.sqrt(share * (1 - share) / len(labels))

    return error


def _balanced_error(logits: Tensor, labels: Tensor) -> float:
    """Binomial class by class; a right and a wrong answer are added to each (Agresti and Coull), or a class of three
    images that are all right would seem to be known exactly."""
    table = confusion(logits, labels).double()
    images = table.sum(1)
    share = (table.diagonal() + 1) / (images + 2)
    variance = torch.where(images > 0, share * (1 - share) / images.clamp(min=1), 0.0).sum()
    return math.sqrt(float(variance)) / int((images > 0).sum())


def _loss_error(logits: Tensor, labels: Tensor) -> float:
    losses = _losses(logits, labels)
    return float(losses.std(unbiased=len(losses) > 1)) / math.sqrt(len(losses))


def _f1_error(logits: Tensor, labels: Tensor) -> float:
    """Images drawn with replacement are cells of the confusion matrix drawn by their shares."""
    table = confusion(logits, labels).numpy()
    cells = np.flatnonzero(table)
    shares = table.ravel()[cells] / table.sum()
    drawn = np.random.default_rng(0).multinomial(int(table.sum()), shares, size=DRAWS)
    again, C = np.zeros(table.size, dtype=np.float64), len(table)
    values = []
    for one in drawn:
        again[cells] = one
        values.append(float(_f1(torch.from_numpy(again.reshape(C, C)))))
    return float(np.std(values, ddof=1))


def _auroc_error(logits: Tensor, labels: Tensor) -> float:
    """By each image's share in the mean area: how far its place among the other side is from the mean place.

    Unbiased, as DeLong's is: n/(n − 1) of a side of n images. Of a single image nothing is known but the range of
    places, so its variance is the largest that the area allows, A·(1 − A).
    """
    n, C = logits.shape
    scores = logits.double().log_softmax(1).numpy()
    right = labels.numpy()
    shares, classes = np.zeros(n), 0
    for k in range(C):
        mine = right == k
        if not 0 < mine.sum() < n:
            continue
        classes += 1
        ours, theirs = scores[mine, k], scores[~mine, k]
        places, others = _places(ours, theirs), 1 - _places(theirs, ours)
        area = places.mean()
        shares[mine] += _deviations(places, area) / len(ours)
        shares[~mine] += _deviations(others, area) / len(theirs)
    return float(np.sqrt((shares**2).sum())) / max(1, classes)


def _deviations(places: FloatArray, area: float) -> FloatArray:
    n = len(places)
    if n == 1:
        return np.full(1, math.sqrt(max(0.0, area * (1 - area))))
    scaled: FloatArray = (places - area) * math.sqrt(n / (n - 1))
    return scaled


def _places(values: FloatArray, among: FloatArray) -> FloatArray:
    """The share of `among` that lies below each value, equal ones half."""
    ordered = np.sort(among)
    below, upto = np.searchsorted(ordered, values), np.searchsorted(ordered, values, side="right")
    places: FloatArray = (below + upto) / (2 * len(among))
    return places


_VALUES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced,
    "macro_f1": _macro_f1,
    "auroc": _auroc,
    "top5": _top,
    "log_loss": lambda logits, labels: _losses(logits, labels).mean(),
}
_ERRORS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": _binomial(_accuracy),
    "balanced_accuracy": _balanced_error,
    "macro_f1": _f1_error,
    "auroc": _auroc_error,
    "top5": _binomial(_top),
    "log_loss": _loss_error,
}
