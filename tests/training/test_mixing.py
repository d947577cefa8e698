"""Mixup and cutmix against timm's `Mixup` with the same draws, and the laws that they are drawn by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.mixup import Mixup

from reborn_nas.errors import ConfigError
from reborn_nas.training import mixing
from reborn_nas.training.losses import Criterion, one_hot
from reborn_nas.training.mixing import Mixing
from reborn_nas.training.recipe.recipe import Recipe

K = 4


def batch(size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 16, 12, generator=draws), torch.randint(K, (size,), generator=draws)


def mixed(augment: dict[str, Any], size: int = 12, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch(size)
    return next(Mixing(augment, K, seed=5).batches([(images.clone(), labels)], epoch))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_timm_with_the_same_draws(
    mode: str, cut: bool, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our λ and rectangles handed to timm: the same images, and the same loss of the targets."""
    shares: list[Any] = []
    boxes: list[Any] = []
    draw, box = Mixing._draw, mixing._box

    def drawn(self: Mixing, count: int, draws: Any) -> Any:
        shares.append(draw(self, count, draws))
        return shares[-1]

    def boxed(*arguments: Any) -> Any:
        boxes.append(box(*arguments))
        return boxes[-1]

    monkeypatch.setattr(Mixing, "_draw", drawn)
    monkeypatch.setattr(mixing, "_box", boxed)
    augment = {"cutmix" if cut else "mixup": 0.7, "mixup_mode": mode, "mixup_prob": 0.8}
    for epoch in range(4):
        shares.clear()
        boxes.clear()
        ours, targets = mixed(augment, epoch=epoch)
        theirs = Mixup(0.7, 0.7, mode=mode, label_smoothing=smoothing, num_classes=K)
        lam, cuts = shares[0]
        each = (np.array(lam, dtype=np.float32), np.array(cuts))
        monkeypatch.setattr(theirs, "_params_per_elem", lambda size, each=each: each)
        monkeypatch.setattr(theirs, "_params_per_batch", lambda lam=lam, cuts=cuts: (lam[0], cuts[0]))
        places = iter(boxes)

        def given(shape: Any, lam: Any, places: Any = places, **more: Any) -> Any:
            top, bottom, left, right = next(places)
            return (top, bottom, left, right), 1 - (bottom - top) * (right - left) / (16 * 12)

        monkeypatch.setattr("timm.data.mixup.cutmix_bbox_and_lam", given)
        images, labels = batch()
        expected, soft = theirs(images, labels)
        torch.testing.assert_close(ours, expected)
        logits = torch.randn(12, K, generator=torch.Generator().manual_seed(9))
        loss = -(soft * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(Criterion(smoothing=smoothing)(logits, targets), loss.float())
        assert not torch.equal(ours, batch()[0]) or lam[0] == 1


def test_the_rectangle_is_as_large_as_the_target_says() -> None:
    images, labels = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 20, 20).clone(), torch.arange(6) % K
    for epoch in range(20):
        cut, targets = next(Mixing({"cutmix": 1.0}, K, 3).batches([(images.clone(), labels)], epoch))
        own = (cut == torch.arange(6.0).view(6, 1, 1, 1)).float().mean((1, 2, 3))
        expected = own[:, None] * one_hot(labels, K) + (1 - own[:, None]) * one_hot(labels.flip(0), K)
        torch.testing.assert_close(targets, expected)


def test_the_law_of_the_shares() -> None:
    mixer = Mixing({"mixup": 0.4, "cutmix": 2.0, "mixup_prob": 0.7, "mixup_switch_prob": 0.3}, K, 0)
    shares, cuts = map(np.array, mixer._draw(20_000, np.random.default_rng(2)))
    assert np.mean(shares < 1) == pytest.approx(0.7, abs=0.015)
    assert np.mean(cuts[shares < 1]) == pytest.approx(0.3, abs=0.02)
    assert stats.kstest(shares[(shares < 1) & ~cuts], stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    assert stats.kstest(shares[cuts], stats.beta(2, 2).cdf).pvalue > 1e-3


def test_sides_within_their_limits() -> None:
    draws = np.random.default_rng(0)
    boxes = [mixing._box(0.5, (20, 10), (0.3, 0.6), draws) for _ in range(300)]
    assert {bottom - top for top, bottom, _, _ in boxes} == set(range(6, 12))
    assert {right - left for _, _, left, right in boxes} == set(range(3, 6))


def test_from_an_epoch_on_nothing_is_mixed_and_targets_stay_soft() -> None:
    images, labels = batch()
    augment = {"mixup": 1.0, "mixup_off_epoch": 2}
    assert not torch.equal(mixed(augment, epoch=1)[0], images)
    same, targets = mixed(augment, epoch=2)
    assert torch.equal(same, images)
    assert torch.equal(targets, one_hot(labels, K))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_odd_batches_and_other_epochs(mode: str) -> None:
    augment = {"mixup": 1.0, "mixup_mode": mode}
    one, targets = mixed(augment, size=7)
    torch.testing.assert_close(one[3], batch(7)[0][3])  # the middle one has no other
    torch.testing.assert_close(targets.sum(1), torch.ones(7))
    assert torch.equal(one, mixed(augment, size=7)[0])
    assert not torch.equal(one, mixed(augment, size=7, epoch=1)[0])


def test_without_mixing_the_batches_are_the_same_objects() -> None:
    given = [batch()]
    assert next(Mixing({"reprob": 0.2}, K, 0).batches(given, 0))[0] is given[0][0]


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"mixup": -1}, "a number ≥ 0"),
        ({"mixup": 0.2, "mixup_prob": 1.5}, r"probability in \[0, 1\], not 1.5"),
        ({"mixup_prob": 0.5}, "with mixup or cutmix"),
        ({"mixup": 0.2, "mixup_mode": "half"}, "one of batch, pair, elem, not 'half'"),
        ({"mixup": 0.2, "mixup_switch_prob": 0.5}, "there is no cutmix"),
        ({"cutmix_minmax": [0.2]}, "two shares"),
        ({"mixpu": 0.2}, "did you mean mixup"),
    ],
)
def test_what_is_refused(augment: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe(augment=augment)


def test_a_batch_of_one_cannot_be_mixed() -> None:
    with pytest.raises(ConfigError, match="take batch_size 2"):
        Recipe(batch_size=1, augment={"cutmix": 1.0})
