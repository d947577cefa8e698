"""Losses against timm's and torch's own, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from reborn_nas.errors import ConfigError, TrainingError
from reborn_nas.training.losses import Criterion, class_weights, one_hot
from reborn_nas.training.recipe.recipe import Recipe

K = 5


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, classes and soft targets whose rows add up to 1."""
    draws = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(24, K, generator=draws)
    labels = torch.randint(K, (24,), generator=draws)
    share = torch.rand(24, 1, generator=draws)
    other = torch.randint(K, (24,), generator=draws)
    return logits, labels, share * F.one_hot(labels, K) + (1 - share) * F.one_hot(other, K)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_timms(smoothing: float) -> None:
    logits, labels, soft = drawn()
    ours = Criterion("cross_entropy", smoothing)
    torch.testing.assert_close(ours(logits, labels), LabelSmoothingCrossEntropy(smoothing)(logits, labels))
    smoothed = soft * (1 - smoothing) + smoothing / K
    torch.testing.assert_close(ours(logits, soft), SoftTargetCrossEntropy()(logits, smoothed))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("total", [False, True])
def test_bce_is_timms(smoothing: float, threshold: float | None, total: bool) -> None:
    logits, labels, soft = drawn()
    ours = Criterion("bce", smoothing, target_threshold=threshold, total=total)
    theirs = BinaryCrossEntropy(smoothing, threshold, sum_classes=total)
    torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))
    smoothed = soft * (1 - smoothing) + smoothing / K  # timm smooths soft targets where it mixes
    torch.testing.assert_close(ours(logits, soft), theirs(logits, smoothed))


def test_class_weights_are_torchs_and_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    logits, labels, _ = drawn()
    weights = class_weights("balanced", labels, K)
    assert weights is not None
    expected = compute_class_weight("balanced", classes=labels.unique().numpy(), y=labels.numpy())
    assert weights[labels.unique()].tolist() == pytest.approx(expected.tolist())
    loss = Criterion(weights=weights)(logits, labels)
    # by hand: each image counts by its class, and the sum of these weights is what is divided by
    each = -logits.log_softmax(1)[torch.arange(24), labels]
    assert float(loss) == pytest.approx(float((each * weights[labels]).sum() / weights[labels].sum()))
    assert class_weights([1, 0.5, 2, 1, 1], labels, K).tolist() == [1, 0.5, 2, 1, 1]  # type: ignore[union-attr]
    assert class_weights("balanced", torch.tensor([0, 0, 2]), 3).tolist() == [0.5, 0, 1]  # type: ignore[union-attr]
    with pytest.raises(TrainingError, match="2 weights for 5 classes"):
        class_weights([1, 2], labels, K)


def test_one_hot_is_torchs() -> None:
    labels = torch.tensor([2, 0, 1])
    assert torch.equal(one_hot(labels, 4), F.one_hot(labels, 4).float())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "bec"}, "did you mean bce"),
        ({"loss_args": {"sum": True}}, "belong to bce"),
        ({"loss": "bce", "loss_args": {"treshold": 1}}, "did you mean target_threshold"),
        ({"loss": "bce", "loss_args": {"target_threshold": 1.5}}, r"is in \[0, 1\), or null, not 1.5"),
        ({"loss": "bce", "loss_args": {"sum": 1}}, "true or false, not 1"),
        ({"loss": "bce", "class_weights": "balanced"}, "belongs to the cross entropy"),
        ({"class_weights": "even"}, "balanced, or a number"),
        ({"class_weights": [1, -1]}, "a number ≥ 0 for each class"),
        ({"class_weights": [0, 0]}, "a number ≥ 0 for each class"),
        ({"class_weights": "balanced", "augment": {"cutmix": 1.0}}, "leave out one"),
    ],
)
def test_what_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.from_dict(settings)
