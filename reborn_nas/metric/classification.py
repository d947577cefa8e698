"""What classifiers can be judged by: one `Metric` a name, what a guess has, and where a metric means nothing.

Averages over classes are over the classes that a part has images of. The values are computed in `training.scores`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.metric.metric import ACCURACY, Metric

__all__ = ["METRICS", "guess", "imbalance", "read_metric", "undefined"]

TOP = 5
"""Classes with the largest logits among which `top5` looks for the right one."""

UNEQUAL = 3.0
"""How many times the others' mean the largest class must have for a set to be called imbalanced."""


def _share(name: str, label: str, unit: str) -> Metric:
    return Metric(
        name, label=label, unit=unit, scale=100.0, higher_is_better=True, low=0.0, high=1.0, counted="images"
    )


METRICS: Mapping[str, Metric] = {
    one.name: one
    for one in (
        ACCURACY,
        _share("balanced_accuracy", "balanced accuracy", "percentage points"),
        _share("macro_f1", "macro F1", "points"),
        _share("auroc", "AUROC", "points"),
        _share("top5", "top-5 accuracy", "percentage points"),
        Metric("log_loss", label="log loss", unit="nats", higher_is_better=False, low=0.0, counted="images"),
    )
}
"""Name → metric of the built-in training.

balanced_accuracy: the mean of the classes' shares of right answers (recall). macro_f1: the mean of the classes' F1.
auroc: the mean over classes of the area under the ROC curve of one class against all others, by its probability.
top5: the share of images whose class is among the five with the largest logits. log_loss: the mean of −ln of the right
class's probability, in nats.
"""

_GUESSES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "balanced_accuracy": lambda shares: 1 / len(shares),
    "macro_f1": lambda shares: 2 * max(shares) / (1 + max(shares)) / len(shares),
    "auroc": lambda shares: 0.5,
    "top5": lambda shares: min(1.0, sum(sorted(shares)[-TOP:])),
    "log_loss": lambda shares: -sum(share * math.log(share) for share in shares if share > 0),
}
"""Metric → what is reached by someone who knows how frequent the classes are and looks at no image."""


def read_metric(given: Any) -> Metric:
    """A metric by its name in `METRICS`, or as `Metric.parse` reads it.

    Raises:
        ConfigError: a bare name that there is not, or what `Metric.parse` refuses.
    """
    if isinstance(given, str) and given.isidentifier():
        if given in METRICS:
            return METRICS[given]
        hint = f"or of a training of your own, which also needs a direction: larger values are better, {given}:higher, "
        own = f"{hint}or smaller ones, {given}:lower"
        raise ConfigError(str(unknown_name("metric", given, METRICS, hint=own)))
    return Metric.parse(given)


def guess(metric: Metric, counts: Sequence[int]) -> Metric:
    """`metric` with what a guess has as its `worst`; the accuracy as it is, whose guess is one of the classes.

    Args:
        counts: images of each class.
    """
    rule = _GUESSES.get(metric.name)
    if rule is None:
        return metric
    worst = rule([count / sum(counts) for count in counts])
    return Metric(**{**vars(metric), "worst": float(f"{worst:.9g}")})


def undefined(name: str, counts: Sequence[int], part: str = "") -> str:
    """Why the metric means nothing on images with these counts by class; "" where it does.

    Args:
        part: name of the part that the images are.
    """
    where = f" of the {part} part" if part else ""
    present = sum(count > 0 for count in counts)
    if not present:
        return f"metric {name}: there are no images{where}"
    if name == "auroc" and present < 2:
        return f"metric auroc: compares classes, and the images{where} have one class; take accuracy"
    if name == "top5" and len(counts) <= TOP:
        return (
            f"metric top5: with {len(counts)} classes the right one is always among the first {TOP}; it takes more "
            f"than {TOP} classes: take accuracy or log_loss"
        )
    return ""


def imbalance(metric: Metric, classes: Sequence[str], counts: Sequence[int]) -> str:
    """Advice for training images of which one class has three times the others' mean or more; "" for all others."""
    largest = max(range(len(counts)), key=lambda k: counts[k])
    others = (sum(counts) - counts[largest]) / max(1, len(counts) - 1)
    if counts[largest] < UNEQUAL * others:
        return ""
    fact = (
        f"imbalanced: {classes[largest]!r} has {counts[largest]:,} of {sum(counts):,} training images, "
        f"{counts[largest] / max(others, 1):.1f} times the mean of the other classes"
    )
    if metric.name in ("balanced_accuracy", "macro_f1", "auroc"):
        return f"{fact}; {metric.label} gives every class the same weight"
    return (
        f"{fact}, so that {metric.label} is mostly about large classes; --metric balanced_accuracy or macro_f1 gives "
        "every class the same weight"
    )
