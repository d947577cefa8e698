"""Parts and splits: stratified, disjoint, reproducible."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reborn_nas.data import Parts, draw_stratified, load_dataset, plan_parts, split
from reborn_nas.errors import DataError


def labels_of(*counts: int) -> torch.Tensor:
    """`counts[c]` labels c, mixed."""
    flat = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    return flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(5))]


def counts_of(labels: torch.Tensor, part: torch.Tensor, classes: int) -> list[int]:
    return [int((labels[part] == c).sum()) for c in range(classes)]


def test_a_draw_is_in_proportion_by_largest_remainders() -> None:
    labels = labels_of(100, 50, 25)
    drawn = draw_stratified(labels, torch.arange(175), 18, seed=0)
    # 18·(100, 50, 25)/175 = 10.29, 5.14, 2.57: floors make 17, the largest remainder gets the last
    assert counts_of(labels, drawn, 3) == [10, 5, 3]
    assert drawn.tolist() == sorted(set(drawn.tolist()))


def test_small_classes_get_their_one_and_the_large_pay_for_it() -> None:
    labels = labels_of(1000, 3, 3)
    assert counts_of(labels, draw_stratified(labels, torch.arange(1006), 10, seed=0), 3) == [8, 1, 1]


def test_keep_leaves_images_behind() -> None:
    labels = labels_of(40, 2)
    drawn = draw_stratified(labels, torch.arange(42), 41, seed=0, keep=1)
    assert counts_of(labels, drawn, 2) == [39, 1]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(4, 60), min_size=2, max_size=6),
    share=st.floats(0.05, 0.9),
    seed=st.integers(0, 99),
)
def test_draws_have_the_size_asked_for_and_are_near_their_share(
    counts: list[int], share: float, seed: int
) -> None:
    labels = labels_of(*counts)
    size = max(len(counts), round(share * sum(counts)))
    drawn = draw_stratified(labels, torch.arange(len(labels)), size, seed=seed)
    got = counts_of(labels, drawn, len(counts))
    assert sum(got) == size
    for n, k in zip(counts, got, strict=True):
        # at least one, and within one of the share unless others' "at least one" had to be paid for
        assert 1 <= k <= n
        assert n * size / sum(counts) - len(counts) < k < n * size / sum(counts) + 1


def test_a_draw_depends_on_the_seed_only() -> None:
    labels = labels_of(30, 30)
    one, same, other = (draw_stratified(labels, torch.arange(60), 20, seed=s) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def parts_of(labels: torch.Tensor, **more: object) -> Parts:
    names = [f"c{c}" for c in range(int(labels.max()) + 1)]
    return plan_parts(labels, names, name="toy", train=torch.arange(len(labels)), **more)  # type: ignore[arg-type]


def test_parts_are_disjoint_and_cover_everything() -> None:
    parts = parts_of(labels_of(50, 30, 20))
    everything = torch.cat([parts.pool, parts.reserve, parts.test])
    assert everything.sort().values.tolist() == list(range(100))
    # a fifth of 100 for the test, a fifth of the other 80 for the reserve and for the validation
    assert (len(parts.test), len(parts.reserve), parts.validation_size) == (20, 16, 16)


def test_large_sets_give_a_tenth() -> None:
    labels = torch.arange(50_000) % 10
    parts = plan_parts(
        labels,
        [str(c) for c in range(10)],
        name="toy",
        train=torch.arange(40_000),
        test=torch.arange(40_000, 50_000),
    )
    assert (len(parts.pool), len(parts.reserve), len(parts.test)) == (36_000, 4_000, 10_000)
    assert parts.validation_size == 4_000


def test_the_test_part_does_not_depend_on_the_seed_and_the_reserve_does() -> None:
    labels = labels_of(50, 50)
    one, two = parts_of(labels, seed=1), parts_of(labels, seed=2)
    assert torch.equal(one.test, two.test)
    assert not torch.equal(one.reserve, two.reserve)


def test_a_fraction_thins_every_part_within_itself() -> None:
    labels = labels_of(200, 100, 100)
    whole, tenth = parts_of(labels), parts_of(labels, fraction=0.1)
    for part in ("pool", "reserve", "test"):
        few, many = getattr(tenth, part), getattr(whole, part)
        assert set(few.tolist()) <= set(many.tolist())
        assert len(few) == round(len(many) * 0.1)
        assert min(counts_of(labels, few, 3)) >= 1
    assert tenth.validation_size == round(whole.validation_size * 0.1)


def test_a_tiny_fraction_leaves_a_class_one_training_and_one_validation_image() -> None:
    labels = labels_of(60, 60, 60)
    parts = parts_of(labels, fraction=0.001)
    assert counts_of(labels, parts.pool, 3) == [2, 2, 2]
    assert counts_of(labels, parts.test, 3) == [1, 1, 1]
    assert parts.validation_size == 3


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="fraction"):
        parts_of(labels_of(50, 50), fraction=fraction)


def test_a_class_too_small_for_its_uses_is_named() -> None:
    with pytest.raises(DataError, match=r"at least 4 images of each class.*'c1' has 3"):
        parts_of(labels_of(50, 3))


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="at least two classes"):
        parts_of(labels_of(50))


def test_compact_renumbers_into_the_kept_images() -> None:
    parts = Parts(torch.tensor([2, 7]), torch.tensor([4]), torch.tensor([9]), 1, torch.tensor([7]))
    kept, new = parts.compact()
    assert kept.tolist() == [2, 4, 7, 9]
    assert (new.pool.tolist(), new.reserve.tolist(), new.test.tolist()) == ([0, 2], [1], [3])
    assert new.validation is not None
    assert new.validation.tolist() == [2]


def test_each_block_splits_the_pool_afresh() -> None:
    digits = load_dataset("digits")
    first, again, second = (split(digits, block=block, seed=3) for block in (0, 0, 1))
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.validation, again.validation)
    assert not torch.equal(first.validation, second.validation)
    for own in (first, second):
        assert torch.cat([own.train, own.validation]).sort().values.tolist() == digits.pool.tolist()
        assert (len(own.train), len(own.validation)) == (717, 360)
        shares = torch.bincount(digits.labels[own.validation]) / torch.bincount(digits.labels[digits.pool])
        assert float((shares - 360 / 1077).abs().max()) < 0.01


def test_another_seed_splits_otherwise() -> None:
    digits = load_dataset("digits")
    assert not torch.equal(split(digits, block=0, seed=0).train, split(digits, block=0, seed=1).train)


@pytest.mark.parametrize("size", [0, 1077, -5])
def test_a_validation_part_that_leaves_nothing_is_refused(size: int) -> None:
    with pytest.raises(DataError, match="validation images"):
        split(load_dataset("digits"), block=0, seed=0, validation=size)
