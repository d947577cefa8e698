"""Hadamard matrices and the designs made of them."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reborn_nas.analysis.designs.blocks import HONEST, honesty, split_allowance
from reborn_nas.analysis.designs.design import (
    confirmation_design,
    control_design,
    plan_confirmation,
    plan_control,
    plan_screen,
    screen_design,
    screen_sizes,
    smallest_screen,
)
from reborn_nas.analysis.designs.matrices import (
    factorial,
    factorial_size,
    hadamard,
    hadamard_order,
    is_constructible,
)
from reborn_nas.analysis.designs.options import option_counts
from reborn_nas.analysis.effects.aliases import find_aliases
from reborn_nas.analysis.effects.effects import site_effects
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
    for n_sites, n_runs, splits in (
        (33, 72, 2),
        (33, 144, 4),
        (33, 288, 8),
        (33, 96, 4),
        (5, 32, 8),
        (5, 16, 4),
    ):
        plan = plan_screen(n_sites, n_runs, seed=1)
        x = signs(plan.design)
        assert len(np.unique(plan.block)) == splits
        for block in np.unique(plan.block):
            assert not x[plan.block == block].sum(axis=0).any()
        for row in range(0 if plan.regular else n_runs):  # the mirror image of a run is in another split
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


def test_confirmation_is_a_factorial_in_whole_units_of_16() -> None:
    """Main effects are apart from one another and from all pairs; in 32 runs the pairs from one another too."""
    for n_runs in (16, 32, 48):
        x = signs(confirmation_design(5, n_runs, seed=1))
        assert x.shape == (n_runs, 5)
        pairs = np.column_stack([x[:, i] * x[:, j] for i, j in itertools.combinations(range(5), 2)])
        assert np.array_equal(x.T @ np.hstack([x, pairs]), n_runs * np.eye(5, 15, dtype=int))
        assert np.array_equal(x, signs(confirmation_design(5, 64, seed=1))[:n_runs])
    full = confirmation_design(5, 32, seed=1)
    assert len(np.unique(full, axis=0)) == 32
    with pytest.warns(UserWarning, match="17 became 32"):
        assert len(confirmation_design(5, 17)) == 32
    assert (confirmation_design(3, 16).sum(axis=0) == 8).all()
    with pytest.raises(ConfigError, match="1 to 5"):
        confirmation_design(6, 32)


@pytest.mark.parametrize("n_sites", [1, 2, 3, 4, 5])
def test_retest_and_control_have_as_many_splits_as_a_screen(n_sites: int) -> None:
    """With one split in 16 runs the expected variance is a third of the true one, where a split's luck is as large."""
    for n_runs, (design, block) in {
        32: plan_confirmation(n_sites, 32, seed=2),
        48: plan_control(n_sites, 48, seed=2),
    }.items():
        x = signs(design)
        assert block.max() + 1 == n_runs // 4
        assert not (np.eye(block.max() + 1)[block].T @ x).any()  # each site is balanced in each split
        assert honesty(x.astype(np.int8), block) >= (0.86 if n_sites in (3, 5) else 0.64)
        before = plan_confirmation(n_sites, n_runs, seed=2, edition=2)
        assert np.array_equal(before[1], np.arange(n_runs) // 16)
        assert honesty(signs(before[0]).astype(np.int8), before[1]) < 0.45


def test_control_is_a_stack_of_whole_designs_of_at_least_48_runs() -> None:
    for n_sites in (1, 2, 5, 12, 30):
        with pytest.warns(UserWarning, match="whole design"):
            design = control_design(n_sites, 10)
        assert len(design) >= 48
        x = signs(design)
        assert np.array_equal(x.T @ x, len(design) * np.eye(n_sites, dtype=int))
        assert find_aliases(design).two == 0


@pytest.mark.parametrize(
    ("n_sites", "size"),
    [
        (2, 8),
        (3, 8),
        (4, 16),
        (5, 16),
        (5, 32),
        (6, 32),
        (6, 64),
        (7, 64),
        (8, 64),
        (9, 128),
        (10, 128),
        (11, 128),
    ],
)
def test_regular_designs_keep_pairs_and_triples_apart(n_sites: int, size: int) -> None:
    """By counting: every product of up to four columns has as many +1 as −1."""
    assert factorial_size(n_sites, size) == size
    x = factorial(n_sites, size)[0].astype(int)
    for length in range(1, min(4, n_sites) + 1):
        for sites in itertools.combinations(range(n_sites), length):
            assert x[:, sites].prod(axis=1).sum() == 0, sites


def test_the_largest_regular_design_that_fits_is_taken() -> None:
    sizes = {(5, 16): 16, (5, 32): 32, (5, 48): 16, (5, 64): 32, (5, 24): None, (6, 16): None, (7, 32): None}
    sizes |= {
        (8, 64): 64,
        (8, 128): 128,
        (2, 8): 8,
        (3, 24): 8,
        (10, 128): 128,
        (12, 256): None,
        (33, 96): None,
    }
    assert {key: factorial_size(*key) for key in sizes} == sizes
    plan = plan_screen(5, 32, seed=4, kernels=())
    assert plan.regular
    assert len({tuple(row) for row in plan.design}) == 32  # a foldover of order 8, twice, has 16 to 24
    assert plan_screen(5, 64, seed=4).replicates == 2


def test_aliases_are_the_counted_ones() -> None:
    for n_sites, n_runs in ((5, 32), (7, 32), (10, 48)):
        design = screen_design(n_sites, n_runs, seed=2)
        x = signs(design)
        largest = 0.0
        for i in range(n_sites):
            for others in itertools.combinations([k for k in range(n_sites) if k != i], 3):
                largest = max(largest, abs((x[:, i] * x[:, others].prod(axis=1)).mean()))
        found = find_aliases(design)
        assert found.three == pytest.approx(largest, abs=1e-6)
        assert found.two == 0
        assert found.complete
        if found.three:
            product = x[:, found.others].prod(axis=1)
            assert abs((x[:, found.site] * product).mean()) == pytest.approx(largest, abs=1e-6)
    assert find_aliases(screen_design(5, 32)).sentence(range(5)).startswith("No joint effect of two or three")
    told = find_aliases(screen_design(7, 32)).sentence("abcdefg")
    assert "a joint effect of three can: up to 50 % of it enters" in told
    cut = find_aliases(screen_design(5, 32)[:19])
    assert cut.two > 0.05
    assert "joint effect of two sites can look like" in cut.sentence(range(5))


def test_splits_are_as_many_as_honest_intervals_need() -> None:
    """The ratio of expected estimated to true variance against simulated splits; and where it is reached."""
    rng = np.random.default_rng(0)
    for n_sites, n_runs in ((5, 32), (6, 32), (33, 72)):
        plan = plan_screen(n_sites, n_runs, kernels=())
        assert honesty(np.where(plan.design, 1, -1).astype(np.int8), plan.block) >= HONEST
    for edition, covered in ((1, (0.90, 0.93)), (2, (0.93, 0.965))):
        plan = plan_screen(5, 32, kernels=(), edition=edition)
        x, blocks = signs(plan.design) / 2, np.eye(plan.block.max() + 1)[plan.block]
        matrix = np.hstack([x, blocks])
        inverse = np.linalg.inv(matrix.T @ matrix)
        split = rng.normal(0, 1, (8000, blocks.shape[1], 5))
        y = rng.normal(0, 1, (8000, 32)) + (x * split[:, plan.block]).sum(axis=2)
        found = y @ matrix @ inverse
        df = 32 - matrix.shape[1]
        error = np.sqrt(((y - found @ matrix.T) ** 2).sum(axis=1)[:, None] / df * np.diag(inverse)[:5])
        share = (np.abs(found[:, :5]) <= stats.t.ppf(0.975, df) * error).mean()
        assert covered[0] < share < covered[1]


@pytest.mark.parametrize(("n_sites", "n_runs"), [(2, 8), (5, 16), (33, 96)])
def test_intervals_are_wider_where_the_splits_are_too_few(n_sites: int, n_runs: int) -> None:
    """With as much luck of a split as noise: coverage below .93 without the allowance, and .93 with it."""
    plan = plan_screen(n_sites, n_runs, kernels=())
    rng = np.random.default_rng(0)
    x, blocks = signs(plan.design) / 2, np.eye(plan.block.max() + 1)[plan.block]
    matrix = np.hstack([x, blocks])
    weights = np.linalg.pinv(matrix)
    split = rng.normal(0, 1, (6000, blocks.shape[1], n_sites))
    y = rng.normal(0, 1, (6000, n_runs)) + (x * split[:, plan.block]).sum(axis=2)
    found = y @ weights.T
    df = n_runs - matrix.shape[1]
    error = np.sqrt(
        ((y - found @ matrix.T) ** 2).sum(axis=1)[:, None] / df * (weights[:n_sites] ** 2).sum(axis=1)
    )
    quantile = stats.t.ppf(0.975, df)
    allowed = split_allowance(matrix, n_sites, plan.block)
    assert (np.abs(found[:, :n_sites]) <= quantile * error).mean() < 0.926
    assert (np.abs(found[:, :n_sites]) <= quantile * error * allowed).mean() >= 0.935
    table = site_effects(plan.design, 0.5 + y[0] / 100, block=plan.block)
    half = (table["ci_high"] - table["effect"]).to_numpy()
    assert half == pytest.approx(quantile * error[0] * allowed)


def test_earlier_editions_are_drawn_as_ever() -> None:
    """A study that was begun before the present edition goes on with its runs: digests of what was drawn then."""
    drawn = {(5, 32): "a03b1db941b5daab", (10, 48): "96a0373670757e1f", (33, 96): "d4be79bcef651b08"}
    for (n_sites, n_runs), digest in drawn.items():
        plan = plan_screen(n_sites, n_runs, 7, edition=1)
        assert plan.kernel is not None
        parts = (plan.design, plan.block, plan.order, plan.seeds, plan.kernel)
        assert hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16] == digest
    fresh = {
        "36d1468d9bfe6ec0": control_design(5, 48, 3, edition=1),
        "e9649c4c33ecb862": control_design(5, 48, 3, edition=2),
        "15c42016368788c1": plan_confirmation(5, 32, 3, edition=2)[0],
    }
    for digest, design in fresh.items():
        assert hashlib.sha256(design.tobytes()).hexdigest()[:16] == digest
