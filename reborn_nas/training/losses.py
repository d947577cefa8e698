"""What a training minimises: cross entropy or binary cross entropy, of classes or of soft targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from reborn_nas.errors import TrainingError, unknown_name

LOSSES = ("cross_entropy", "bce")
_BCE_ARGS = ("target_threshold", "sum")
BALANCED = "balanced"


class Criterion:
    """The loss of logits (B, K) against classes (B,), int64, or soft targets (B, K) whose rows add up to 1.

    Targets are smoothed first: (1 − s)·target + s / K. "cross_entropy" is torch's. "bce" is that of timm: K binary
    problems an image, averaged over these and the images.

    Args:
        name: one of `LOSSES`.
        smoothing: s, in [0, 1).
        target_threshold: of "bce": targets above it count as 1, all others as 0 (ResNet strikes back, Wightman et al.
            2021, has 0.2); None leaves them.
        total: of "bce": add the classes up in place of averaging over them.
        weights: of "cross_entropy" and classes: float (K,); an image counts by its class, as in torch.
    """

    def __init__(
        self,
        name: str = "cross_entropy",
        smoothing: float = 0.0,
        *,
        target_threshold: float | None = None,
        total: bool = False,
        weights: torch.Tensor | None = None,
    ) -> None:
        self.name, self.smoothing, self.weights = name, smoothing, weights
        self.threshold, self.total = target_threshold, total

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean over the images, float32."""
        logits = logits.float()
        if self.name == "cross_entropy":
            return F.cross_entropy(logits, targets, self.weights, label_smoothing=self.smoothing)
        soft = targets if targets.ndim == 2 else one_hot(targets, logits.shape[1])
        if self.smoothing:
            soft = soft * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        if self.threshold is not None:
            soft = soft.gt(self.threshold).float()
        loss = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
        return loss.sum(1).mean() if self.total else loss.mean()


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """float32 (B, K). `F.one_hot` reads the labels, which waits for the device."""
    empty = torch.zeros(len(labels), classes, device=labels.device)
    return empty.scatter_(1, labels[:, None], 1.0)


def loss_faults(name: str, args: object, class_weights: object, mixed: bool) -> Iterator[str]:
    """What is wrong with a recipe's loss.

    Args:
        mixed: whether the images of a batch are mixed.
    """
    if name not in LOSSES:
        yield f"recipe.loss: {unknown_name('loss', str(name), LOSSES)}"
    if not isinstance(args, Mapping):
        yield f"recipe.loss_args is a map from names to values, not {args!r}"
        return
    for key, value in args.items():
        if name == "cross_entropy":
            yield f"recipe.loss_args: cross_entropy takes none, not {key}; {' and '.join(_BCE_ARGS)} belong to bce"
        elif key not in _BCE_ARGS:
            yield f"recipe.loss_args: {unknown_name('argument of bce', str(key), _BCE_ARGS)}"
        elif key == "sum" and type(value) is not bool:
            yield f"recipe.loss_args.sum is true or false, not {value!r}"
        elif key == "target_threshold" and not (value is None or _inside(value)):
            yield f"recipe.loss_args.target_threshold is in [0, 1), or null, not {value!r}"
    if class_weights is None:
        return
    if class_weights != BALANCED and not _weights(class_weights):
        yield f"recipe.class_weights is balanced, or a number ≥ 0 for each class, not {class_weights!r}"
    elif name == "bce":
        yield "recipe.class_weights belongs to the cross entropy; leave it out, or take loss cross_entropy"
    elif mixed:
        yield (
            "recipe.class_weights weighs images by their class, but mixup and cutmix make images of two; leave out one "
            "of them"
        )


def _inside(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _weights(value: object) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    real = [one for one in value if isinstance(one, int | float) and not isinstance(one, bool)]
    return len(real) == len(value) and all(0 <= one < float("inf") for one in real) and sum(real) > 0


def class_weights(
    wanted: str | Sequence[float] | None, labels: torch.Tensor, classes: int
) -> torch.Tensor | None:
    """A weight for each class: those given, or by "balanced" n / (K·nₖ), scikit-learn's, of the training labels.

    A class without training images has weight 0 by "balanced".

    Raises:
        TrainingError: not as many weights as classes.
    """
    if wanted is None:
        return None
    if isinstance(wanted, str):
        counts = torch.bincount(labels.cpu(), minlength=classes).double()
        return torch.where(counts > 0, len(labels) / (classes * counts), 0.0).float()
    if len(wanted) != classes:
        raise TrainingError(
            f"class_weights: {len(wanted)} weights for {classes} classes; give one for each, or balanced"
        )
    return torch.tensor(wanted, dtype=torch.float32)


def make_criterion(recipe: Any, weights: torch.Tensor | None = None) -> Criterion:
    """The loss of a recipe."""
    more = recipe.loss_args
    return Criterion(
        recipe.loss,
        recipe.label_smoothing,
        target_threshold=more.get("target_threshold"),
        total=more.get("sum", False),
        weights=weights,
    )
