"""Balanced designs: which site is reborn in which run.

A screen is a stack of whole designs. Where the runs are many enough for the sites, that is a full factorial or a
fraction of resolution V; else a foldover [H; −H] of a Hadamard matrix. Either way every site is reborn in half of the
runs, the sites are uncorrelated with one another, and no site's effect is mixed up with any interaction of two sites.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.designs.blocks import split_blocks
from reborn_nas.analysis.designs.matrices import (
    factorial,
    factorial_size,
    hadamard,
    hadamard_order,
    is_constructible,
)
from reborn_nas.analysis.designs.options import balanced_options
from reborn_nas.errors import ConfigError

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Signs = npt.NDArray[np.int8]

MOST_SITES = 200
MOST_RUNS = 100_000
LEAST_CONTROL = 48
CONFIRM_UNIT = 16
TOP_SITES = 5
"""Sites of the retest."""
SPARE_COLUMNS = 8
"""Edition 1: with so many columns of H to spare, one of them halves the splits once more."""

EDITION = 3
"""How designs are drawn. 1: foldovers of Hadamard matrices throughout. 2: full factorials and fractions of resolution V
where they fit, and as many splits as honest intervals need. 3: such splits in the retest and the control too, which had
one split in 16 runs. A study keeps the edition that it began with."""


@dataclass(frozen=True)
class ScreenPlan:
    """A screen, one row a run, in the order in which the runs are to be made.

    Replicate by replicate, shuffled inside each: a screen that stops early has whole foldovers, and a longer
    screen of the same seed and `order_h` begins with the shorter one.

    Args:
        design: (N, n) whether the site is reborn in the run.
        block: (N,) index of the train/validation split. Each half of a foldover, [H] and [−H], has its own:
            were a run and its mirror image trained on the same split, what that split does to a site would
            enter both with opposite sign and add up in the effect, but not in the residuals (with ±.1 pp a site
            and split, 95 % intervals then cover 87 % of the effects at 288 runs, against 95 %). For the same reason
            a whole design has as many splits as `blocks.split_blocks` finds to be needed.
        order: (N,) the run's row in the unshuffled stack of whole designs, [H₁; −H₁; H₂; −H₂; …] of foldovers.
        seeds: (N,) unique seeds in [0, 2**63).
        kernel: (N, n) kernel size where reborn, 0 elsewhere; None where there is only one.
        compression: (N, n) compression where reborn, "" elsewhere; None where there is only one.
        order_h: half the runs of one whole design; of a foldover the order of the Hadamard matrix.
        replicates: whole designs in the stack.
        regular: whether they are full factorials or fractions of resolution V.
        requested: the number of runs that was asked for.
        seed: what the plan was drawn from.
        notes: what the user should be told.
    """

    design: BoolArray
    block: IntArray
    order: IntArray
    seeds: IntArray
    kernel: IntArray | None
    compression: npt.NDArray[np.str_] | None
    order_h: int
    replicates: int
    requested: int
    seed: int
    notes: tuple[str, ...] = ()
    regular: bool = False

    @property
    def n_runs(self) -> int:
        """Runs in the screen."""
        return int(self.design.shape[0])

    @property
    def n_sites(self) -> int:
        """Sites under study."""
        return int(self.design.shape[1])


def screen_sizes(n_sites: int, up_to: int) -> tuple[int, ...]:
    """The numbers of runs ≤ `up_to` for which a complete screen of `n_sites` exists, ascending."""
    _check_sites(n_sites)
    step = 2 * hadamard_order(n_sites + 1)
    return tuple(size for size in range(step, up_to + 1, 2) if _order_for(n_sites, size) is not None)


def screen_design(n_sites: int, n_runs: int, seed: int = 0) -> BoolArray:
    """A balanced screen: bool array (runs, sites), True where the site is reborn.

    Each column has N/2 True, any two columns are uncorrelated, and each is orthogonal to the product of any
    two others. Where a full factorial or a fraction of resolution V fits, the joint effects of three sites are kept out
    of each site's effect too. Columns, signs and the rows' order are random, drawn from `seed`. The runs are a
    multiple of 2h, h a Hadamard order > `n_sites`; a request in between is rounded up to the next whole
    design with a warning.

    Raises:
        ConfigError: fewer than 2 or more than 200 sites, or no positive number of runs.

    Example:
        >>> screen_design(n_sites=33, n_runs=96).shape
        (96, 33)
    """
    plan = plan_screen(n_sites, n_runs, seed, kernels=(), compressions=())
    for note in plan.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return plan.design


def plan_screen(
    n_sites: int,
    n_runs: int,
    seed: int = 0,
    *,
    kernels: Sequence[int] = (1, 3, 5),
    compressions: Sequence[str] = ("1x1",),
    edition: int = EDITION,
) -> ScreenPlan:
    """`screen_design` with everything that running it needs: splits, seeds, kernels and compressions.

    Kernels and compressions are balanced among each site's reborn runs (counts differ by one at most) and
    nearly uncorrelated with the sites, so that their pooled effects can be estimated beside them.
    """
    _check_sites(n_sites)
    if not 1 <= n_runs <= MOST_RUNS:
        raise ConfigError(f"a screen has between 1 and {MOST_RUNS} runs, not {n_runs}")
    size, h = _next_size(n_sites, n_runs)
    notes = _size_notes(n_sites, n_runs, size)
    regular = factorial_size(n_sites, size) if edition > 1 else None
    unit = regular or 2 * h
    design, block, order = _stack(n_sites, unit, size // unit, seed, regular is not None, edition)
    option_rng = np.random.default_rng(np.random.SeedSequence([abs(seed), int(seed < 0), 1]))
    kernel, compression = balanced_options(design, order // unit, kernels, compressions, option_rng)
    return ScreenPlan(
        design, block, order, _unique_seeds(size, seed), kernel, compression, unit // 2, size // unit, n_runs, seed,
        tuple(notes), regular is not None,
    )  # fmt: skip


def confirmation_design(n_sites: int = 5, n_runs: int = 32, seed: int = 0) -> BoolArray:
    """The confirmation: bool array (runs, sites) of the top sites on the incumbent, all others held.

    Two units of 16 runs make the full factorial of five sites; a single one is the half fraction of resolution IV.
    Fewer sites have full factorials. Multiples of 16, rounded up; rows are shuffled within each unit.
    """
    return plan_confirmation(n_sites, n_runs, seed)[0]


def plan_confirmation(
    n_sites: int = 5, n_runs: int = 32, seed: int = 0, *, edition: int = EDITION
) -> tuple[BoolArray, IntArray]:
    """`confirmation_design` and the split (runs,) of each run."""
    if not 1 <= n_sites <= TOP_SITES:
        raise ConfigError(f"a confirmation has 1 to 5 sites, not {n_sites}; take the top 5 by P(top-5)")
    if not 1 <= n_runs <= MOST_RUNS:
        raise ConfigError(f"a confirmation has between 1 and {MOST_RUNS} runs, not {n_runs}")
    size = -(-n_runs // CONFIRM_UNIT) * CONFIRM_UNIT
    if size != n_runs:
        warnings.warn(
            f"a confirmation is a multiple of {CONFIRM_UNIT} runs: {n_runs} became {size}",
            UserWarning,
            stacklevel=3,
        )
    if edition > 2:
        return _few_sites(n_sites, size, seed, stream=2)
    rng = np.random.default_rng(np.random.SeedSequence([abs(seed), int(seed < 0), 2]))
    base = np.array(list(itertools.product((-1, 1), repeat=4)))
    full = np.column_stack([base, base.prod(axis=1)])[:, :n_sites]
    parts = []
    for _ in range(size // CONFIRM_UNIT):
        signs = rng.choice((-1, 1), size=n_sites)
        parts.append((full * signs)[rng.permutation(CONFIRM_UNIT)] > 0)
    return np.concatenate(parts), np.arange(size) // CONFIRM_UNIT


def control_design(
    n_sites: int, n_runs: int = LEAST_CONTROL, seed: int = 0, *, edition: int = EDITION
) -> BoolArray:
    """The control: bool array (runs, sites) over the top sites, True for reborn, False for its positive twin.

    A stack of whole designs as in a screen, of at least 48 runs.
    """
    return plan_control(n_sites, n_runs, seed, edition=edition)[0]


def plan_control(
    n_sites: int, n_runs: int = LEAST_CONTROL, seed: int = 0, *, edition: int = EDITION
) -> tuple[BoolArray, IntArray]:
    """`control_design` and the split (runs,) of each run."""
    if not 1 <= n_sites <= MOST_SITES:
        raise ConfigError(f"a control has 1 to {MOST_SITES} sites, not {n_sites}")
    size, h = _next_size(n_sites, max(n_runs, LEAST_CONTROL))
    if size != n_runs:
        warnings.warn(
            f"a control of {n_sites} sites is a whole design of at least {LEAST_CONTROL} runs: "
            f"{n_runs} became {size}",
            UserWarning,
            stacklevel=3,
        )
    if edition > 2 and n_sites <= TOP_SITES and size % CONFIRM_UNIT == 0:
        return _few_sites(n_sites, size, seed, stream=4)
    regular = factorial_size(n_sites, size) if edition > 1 else None
    unit = regular or 2 * h
    design, block, _ = _stack(n_sites, unit, size // unit, seed, regular is not None, max(1, edition - 1))
    return design, block if edition > 2 else np.arange(size) // CONFIRM_UNIT


def _few_sites(n_sites: int, size: int, seed: int, stream: int) -> tuple[BoolArray, IntArray]:
    """Levels and splits of up to five sites in units of 16 runs: a longer design begins with the shorter one.

    Two neighbouring units of five sites complement each other to the full factorial. A fraction of resolution V in 16
    runs would keep joint effects of three sites out too, but has no four honest splits (`blocks.honesty` .57, not .86).
    """
    designs, blocks = [], []
    sites, split = _unit_of_five() if n_sites == TOP_SITES else _regular_blocks(n_sites, _unit_size(n_sites))
    for unit in range(size // len(sites)):
        pair = np.random.default_rng(np.random.SeedSequence([abs(seed), int(seed < 0), stream, unit // 2]))
        own = np.random.default_rng(
            np.random.SeedSequence([abs(seed), int(seed < 0), stream, unit // 2, unit % 2])
        )
        columns, signs = pair.permutation(n_sites), pair.choice((-1, 1), size=n_sites).astype(np.int8)
        if unit % 2:
            signs[columns == n_sites - 1] *= -1  # the column that is the product of three others
        shuffle = own.permutation(len(sites))
        designs.append((sites[:, columns] * signs > 0)[shuffle])
        blocks.append(unit * (int(split.max()) + 1) + split[shuffle])
    return np.concatenate(designs), np.concatenate(blocks)


def _unit_size(n_sites: int) -> int:
    size = factorial_size(n_sites, CONFIRM_UNIT)
    assert size is not None  # there is a factorial of up to four sites
    return size


@lru_cache(maxsize=1)
def _unit_of_five() -> tuple[Signs, IntArray]:
    """Four sites' full factorial with the fifth as the product of three, and the split of each run."""
    base, spare = factorial(4, CONFIRM_UNIT)
    fifth = base[:, :3].prod(axis=1, dtype=np.int8)
    others = spare[:, np.abs(spare.T.astype(int) @ fifth) < CONFIRM_UNIT]
    sites = np.column_stack([base, fifth])
    return sites, split_blocks(sites, others, None, np.random.default_rng(0))


def smallest_screen(n_sites: int) -> int:
    """Runs of one complete foldover, 2h: with fewer there is no verdict."""
    return 2 * hadamard_order(n_sites + 1)


def _check_sites(n_sites: int) -> None:
    if not 2 <= n_sites <= MOST_SITES:
        raise ConfigError(
            f"a screen has 2 to {MOST_SITES} sites, not {n_sites}; a single site is candidate against parent, "
            "and more than that can be grouped by block or stage"
        )


def _order_for(n_sites: int, size: int) -> int | None:
    """The smallest Hadamard order h > n_sites of which `size` is a multiple of 2h, if any."""
    for h in range(hadamard_order(n_sites + 1), size // 2 + 1):
        if size % (2 * h) == 0 and is_constructible(h):
            return h
    return None


def _next_size(n_sites: int, n_runs: int) -> tuple[int, int]:
    """The smallest complete design of at least `n_runs`, and its Hadamard order."""
    size = max(n_runs + n_runs % 2, smallest_screen(n_sites))
    while (h := _order_for(n_sites, size)) is None:
        size += 2
    return size, h


def _size_notes(n_sites: int, n_runs: int, size: int) -> list[str]:
    if size == n_runs:
        return []
    smaller = [other for other in screen_sizes(n_sites, size) if other < n_runs]
    before = f" (the next smaller is {smaller[-1]})" if smaller else " (the smallest)"
    return [
        f"a screen of {n_sites} sites cannot have {n_runs} runs: rounded up to {size}, "
        f"the next whole balanced design{before}"
    ]


def _stack(
    n_sites: int, unit: int, replicates: int, seed: int, regular: bool, edition: int
) -> tuple[BoolArray, IntArray, IntArray]:
    """Whole designs of `unit` runs: levels, split and unshuffled row, in run order."""
    designs: list[BoolArray] = []
    blocks: list[IntArray] = []
    orders: list[IntArray] = []
    for replicate in range(replicates):
        # a stream of its own each, so that a longer screen begins with the shorter one
        rng = np.random.default_rng(np.random.SeedSequence([abs(seed), int(seed < 0), 0, replicate]))
        signs, split = (
            _factorial(n_sites, unit, rng) if regular else _foldover(n_sites, unit // 2, rng, edition)
        )
        shuffle = rng.permutation(unit)
        designs.append((signs > 0)[shuffle])
        first = int(blocks[-1].max()) + 1 if blocks else 0
        blocks.append(first + split[shuffle])
        orders.append(unit * replicate + shuffle)
    return (
        np.concatenate(designs),
        np.concatenate(blocks).astype(np.int64),
        np.concatenate(orders).astype(np.int64),
    )


def _foldover(n_sites: int, h: int, rng: np.random.Generator, edition: int) -> tuple[Signs, IntArray]:
    """[H; −H] of `n_sites` random columns of a matrix of order h with random signs, and the split of each row."""
    columns = hadamard(h)[:, 1:]  # the constant column is the mean
    mixed = columns[:, rng.permutation(h - 1)]
    chosen = mixed[:, :n_sites] * rng.choice((-1, 1), size=n_sites)
    signs = np.concatenate([chosen, -chosen]).astype(np.int8)
    half = np.repeat(np.array([0, 1]), h)
    if edition > 1:
        spare = np.tile(mixed[:, n_sites:], (2, 1))  # the same in both halves, so balanced in each
        return signs, split_blocks(signs, spare, half, rng)
    if h - 1 - n_sites >= SPARE_COLUMNS:
        half = 2 * half + np.tile(mixed[:, n_sites] > 0, 2)
    return signs, half


@lru_cache(maxsize=32)
def _regular_blocks(n_sites: int, size: int) -> tuple[Signs, IntArray]:
    sites, spare = factorial(n_sites, size)
    return sites, split_blocks(sites, spare, None, np.random.default_rng(0))


def _factorial(n_sites: int, size: int, rng: np.random.Generator) -> tuple[Signs, IntArray]:
    """A full factorial or a fraction of resolution V, its columns in random order with random signs."""
    sites, split = _regular_blocks(n_sites, size)
    return sites[:, rng.permutation(n_sites)] * rng.choice((-1, 1), size=n_sites).astype(np.int8), split


def _unique_seeds(count: int, seed: int) -> IntArray:
    """`count` different seeds; the first ones do not depend on `count`."""
    rng = np.random.default_rng(np.random.SeedSequence([abs(seed), int(seed < 0), 3]))
    seen: dict[int, None] = {}
    while len(seen) < count:
        seen[int(rng.integers(0, 2**63 - 1))] = None
    return np.array(list(seen), dtype=np.int64)
