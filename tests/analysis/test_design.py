"""Hadamard matrices and the designs made of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reborn_nas.analysis.design import (
    confirmation_design,
    control_design,
    plan_screen,
    screen_design,
    screen_sizes,
    smallest_screen,
)
from reborn_nas.analysis.hadamard import hadamard, hadamard_order, is_constructible
from reborn_nas.analysis.options import option_counts
from reborn_nas.errors import ConfigError


def signs(design: np.ndarray) -> np.ndarray:
    return np.where(design, 1, -1)


def test_hadamard_matrices_are_orthogonal() -> None:
    missed = []
    for order in (1, 2, *range(4, 261, 4)):
        if not is_constructible(order):
            missed.append(order)
            continue
        matrix = hadamard(order).astype(int)
        assert np.array_equal(matrix.T @ matrix, order * np.eye(order, dtype=int)), order
        assert set(np.unique(matrix)) <= {-1, 1}
        assert (matrix[:, 0] == 1).all()
    # what Paley and Sylvester miss up to 260, after Hedayat and Wallis (1978)
    assert missed == [92, 116, 156, 172, 184, 188, 232, 236, 260]


def test_prime_power_fields_are_used() -> None:
    # 28 = 27 + 1 needs GF(3³); 52 = 2(25 + 1) needs GF(5²); 244 = 243 + 1 needs GF(3⁵)
    for order in (28, 52, 244):
        matrix = hadamard(order).astype(int)
        assert np.array_equal(matrix @ matrix.T, order * np.eye(order, dtype=int))


def test_missed_order_is_said() -> None:
    with pytest.raises(ConfigError, match=r"order 92.*96"):
        hadamard(92)
    assert hadamard_order(90) == 96
    assert hadamard_order(34) == 36


def test_sizes_for_33_and_5_sites() -> None:
    assert {72, 96, 144, 288} <= set(screen_sizes(33, 288))
    assert min(screen_sizes(33, 288)) == 72
    assert screen_sizes(5, 33) == (16, 24, 32)
    assert screen_sizes(33, 71) == ()


@pytest.mark.parametrize("n_sites", [2, 3, 4, 5, 7, 9, 16, 17, 33, 35, 36, 64, 91, 127, 200])
def test_screen_is_exactly_orthogonal(n_sites: int) -> None:
    for n_runs in (smallest_screen(n_sites), 2 * smallest_screen(n_sites)):
        design = screen_design(n_sites, n_runs, seed=n_sites)
        assert design.shape == (n_runs, n_sites)
        assert design.dtype == np.bool_
        x = signs(design)
        assert (design.sum(axis=0) == n_runs // 2).all()
        assert np.array_equal(x.T @ x, n_runs * np.eye(n_sites, dtype=int))


@pytest.mark.parametrize(("n_sites", "n_runs"), [(2, 8), (5, 16), (12, 32), (33, 72), (33, 96), (33, 144)])
def test_main_effects_are_orthogonal_to_all_two_factor_interactions(n_sites: int, n_runs: int) -> None:
    x = signs(screen_design(n_sites, n_runs, seed=3))
    products = np.column_stack([x[:, i] * x[:, j] for i, j in itertools.combinations(range(n_sites), 2)])
    assert not (x.T @ products).any()


def test_blocks_are_orthogonal_to_the_sites_and_new_in_each_half() -> None:
    for n_sites, n_runs, splits in ((33, 72, 2), (33, 144, 4), (33, 288, 8), (33, 96, 4), (5, 32, 4)):
        plan = plan_screen(n_sites, n_runs, seed=1)
        x = signs(plan.design)
        assert len(np.unique(plan.block)) == splits
        for block in np.unique(plan.block):
            assert not x[plan.block == block].sum(axis=0).any()
        for row in range(n_runs):  # the mirror image of a run is in another split
            mirrored = (plan.design == ~plan.design[row]).all(axis=1)
            assert mirrored.any()
            half = plan.order // plan.order_h
            assert (half[mirrored & (plan.order // (2 * plan.order_h) == half[row] // 2)] != half[row]).all()


def test_a_longer_screen_begins_with_the_shorter_one() -> None:
    levels = ("1x1", "3x3", "none")
    short, long = (plan_screen(33, n, 5, compressions=levels) for n in (72, 144))
    assert short.kernel is not None
    assert long.kernel is not None
    assert np.array_equal(long.design[:72], short.design)
    assert np.array_equal(long.block[:72], short.block)
    assert np.array_equal(long.kernel[:72], short.kernel)
    assert np.array_equal(long.seeds[:72], short.seeds)


def test_rows_are_shuffled_and_seeds_unique() -> None:
    plan = plan_screen(33, 288, seed=2)
    assert len(np.unique(plan.seeds)) == 288
    assert plan.seeds.min() >= 0
    assert not np.array_equal(plan.order, np.arange(288))
    assert np.array_equal(np.sort(plan.order), np.arange(288))
    # `order` undoes the shuffle: the stack is a foldover, replicate by replicate
    stack = plan.design[np.argsort(plan.order)]
    for start in range(0, 288, 72):
        assert np.array_equal(stack[start : start + 36], ~stack[start + 36 : start + 72])


def test_seeds_change_the_design_and_equal_seeds_do_not() -> None:
    assert np.array_equal(screen_design(33, 96, seed=4), screen_design(33, 96, seed=4))
    assert not np.array_equal(screen_design(33, 96, seed=4), screen_design(33, 96, seed=5))


def test_a_size_in_between_is_rounded_up_aloud() -> None:
    with pytest.warns(UserWarning, match="rounded up to 96"):
        assert screen_design(33, 90).shape == (96, 33)
    with pytest.warns(UserWarning, match="rounded up to 72"):
        assert screen_design(33, 40).shape == (72, 33)
    assert plan_screen(33, 96).notes == ()
    assert "96" in plan_screen(33, 90).notes[0]


@pytest.mark.parametrize(("n_sites", "n_runs"), [(1, 8), (201, 1000), (0, 8), (5, 0), (5, -8)])
def test_impossible_screens_are_refused(n_sites: int, n_runs: int) -> None:
    with pytest.raises(ConfigError):
        screen_design(n_sites, n_runs)


@given(
    n_sites=st.integers(2, 12),
    kernels=st.integers(1, 4),
    compressions=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_options_are_balanced_inside_each_site(
    n_sites: int, kernels: int, compressions: int, seed: int
) -> None:
    ks, cs = tuple(range(1, 2 * kernels, 2)), ("1x1", "3x3", "none")[:compressions]
    plan = plan_screen(n_sites, 2 * smallest_screen(n_sites), seed, kernels=ks, compressions=cs)
    for chosen, levels, nothing in ((plan.kernel, ks, 0), (plan.compression, cs, "")):
        if len(levels) == 1:
            assert chosen is None
            continue
        assert chosen is not None
        assert ((chosen != nothing) == plan.design).all()
        for site in range(n_sites):
            counts = [int((chosen[:, site] == level).sum()) for level in levels]
            assert sum(counts) == plan.n_runs // 2
            assert max(counts) - min(counts) <= 1


def test_option_counts_are_nearly_uncorrelated_with_the_sites() -> None:
    plan = plan_screen(33, 96, seed=0, compressions=("1x1", "3x3", "none"))
    counts = option_counts(kernel=plan.kernel, compression=plan.compression)
    assert list(counts.columns) == ["kernel=1", "kernel=3", "compression=1x1", "compression=3x3"]
    assert plan.kernel is not None
    by_hand = (plan.kernel == 3).sum(axis=1) - (plan.kernel == 5).sum(axis=1)
    assert np.array_equal(counts["kernel=3"], by_hand)
    x = signs(plan.design)
    columns = counts.to_numpy() - counts.to_numpy().mean(axis=0)
    shared = ((x.T @ columns) ** 2).sum(axis=0) / 96 / (columns**2).sum(axis=0)
    assert shared.max() < 0.5  # random columns share 33/95 ≈ .35 with 33 sites


def test_confirmation_has_resolution_five() -> None:
    for n_runs in (16, 32, 48):
        x = signs(confirmation_design(5, n_runs, seed=1))
        assert x.shape == (n_runs, 5)
        pairs = [x[:, i] * x[:, j] for i, j in itertools.combinations(range(5), 2)]
        matrix = np.column_stack([x, *pairs])
        assert np.array_equal(matrix.T @ matrix, n_runs * np.eye(15, dtype=int))
    with pytest.warns(UserWarning, match="17 became 32"):
        assert len(confirmation_design(5, 17)) == 32
    assert (confirmation_design(3, 16).sum(axis=0) == 8).all()
    with pytest.raises(ConfigError, match="1 to 5"):
        confirmation_design(6, 32)


def test_control_is_a_foldover_of_at_least_48_runs() -> None:
    for n_sites in (1, 2, 5, 12, 30):
        with pytest.warns(UserWarning, match="foldover"):
            design = control_design(n_sites, 10)
        assert len(design) >= 48
        x = signs(design)
        assert np.array_equal(x.T @ x, len(design) * np.eye(n_sites, dtype=int))
        rows = {tuple(row) for row in design}
        assert {tuple(~row) for row in design} == rows
