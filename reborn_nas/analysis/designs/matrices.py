"""Matrices of ±1 that designs are made of: regular factorials and Hadamard matrices.

In a regular design nothing below four sites can be taken for the effect of one: it is a full factorial, or a fraction
of resolution V or more, in which main effects and joint effects of two sites are all estimable apart, and a joint
effect of three sites never looks like a single site's.

Hadamard matrices are made by Sylvester's doubling and Paley's two constructions over GF(q), q a prime power. SciPy has
only the powers of two, and the sizes between them are what a screen needs. Of the orders that these three miss (92 is
the first), the next constructible one is taken: a screen needs a matrix of at least so many columns.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from reborn_nas.errors import ConfigError

Signs = npt.NDArray[np.int8]

LEAST_FACTORS, MOST_FACTORS = 3, 8
"""Base factors of one complete design: 8 to 256 runs."""

_GENERATORS = {
    (8, 6): ("ABCD", "ABEF"),
    (9, 7): ("ACDFG", "BCEFG"),
    (10, 7): ("ABCG", "BCDE", "ACDF"),
    (11, 7): ("ABCG", "BCDE", "ACDF", "ABCDEFG"),
}
"""(sites, base factors) → the words of the sites beyond the base factors. Box, Hunter and Hunter (2005), table 6.22,
and Montgomery (2017), appendix VIII. One site beyond the base is the product of all of them."""


def factorial_size(n_sites: int, n_runs: int) -> int | None:
    """Runs of the largest regular design for `n_sites` of which `n_runs` is a multiple; None where there is none."""
    for factors in range(min(max(n_sites, LEAST_FACTORS), MOST_FACTORS), LEAST_FACTORS - 1, -1):
        if n_runs % 2**factors == 0 and _words(n_sites, factors) is not None:
            return int(2**factors)
    return None


def factorial(n_sites: int, size: int) -> tuple[Signs, Signs]:
    """A regular design of `size` runs: the sites' columns (size, n) and all other columns that are balanced."""
    factors = size.bit_length() - 1
    words = _words(n_sites, factors)
    if words is None or size != 2**factors:
        raise ValueError(f"no regular design of {n_sites} sites in {size} runs")
    base = np.array(list(itertools.product((-1, 1), repeat=factors)), dtype=np.int8)
    masks = [tuple(sorted(word)) for word in words]
    subsets = [
        subset
        for length in range(1, factors + 1)
        for subset in itertools.combinations(range(factors), length)
    ]
    columns = {subset: base[:, subset].prod(axis=1, dtype=np.int8) for subset in subsets}
    sites = np.column_stack([columns[mask] for mask in masks])
    spare = [column for subset, column in columns.items() if subset not in set(masks)]
    return sites, np.column_stack(spare) if spare else np.zeros((size, 0), dtype=np.int8)


def _words(n_sites: int, factors: int) -> list[tuple[int, ...]] | None:
    """The base factors whose product each site's column is; None without a design of resolution V."""
    base: list[tuple[int, ...]] = [(k,) for k in range(factors)]
    if n_sites <= factors:
        return base[:n_sites]
    if n_sites == factors + 1 and factors >= 4:
        return [*base, tuple(range(factors))]
    letters = _GENERATORS.get((n_sites, factors))
    return None if letters is None else base + [tuple("ABCDEFGH".index(c) for c in word) for word in letters]


Matrix = npt.NDArray[np.int8]


def is_constructible(order: int) -> bool:
    """Whether `hadamard(order)` exists."""
    return _recipe(order) is not None


def hadamard_order(at_least: int) -> int:
    """The smallest constructible order ≥ `at_least`."""
    order = max(1, at_least)
    while not is_constructible(order):
        order += 1
    return order


@lru_cache(maxsize=64)
def hadamard(order: int) -> Matrix:
    """A Hadamard matrix (order, order) of ±1 whose first column is all +1; H'H = order·I.

    Raises ConfigError for an order that neither Sylvester nor Paley reach.
    """
    recipe = _recipe(order)
    if recipe is None:
        raise ConfigError(
            f"no Hadamard matrix of order {order} by Sylvester or Paley; the next is {hadamard_order(order)}"
        )
    kind, size = recipe
    if kind == "unit":
        matrix = np.ones((1, 1), dtype=np.int8)
    elif kind == "double":
        half = hadamard(size)
        matrix = np.block([[half, half], [half, -half]]).astype(np.int8)
    else:
        matrix = _paley_one(size) if kind == "paley1" else _paley_two(size)
    matrix = (matrix * matrix[:, :1]).astype(np.int8)  # rows signed so that the first column is +1
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=4096)
def _recipe(order: int) -> tuple[str, int] | None:
    """Which construction makes `order`, and its argument (q, or the half order)."""
    if order == 1:
        return ("unit", 1)
    if order < 1 or (order > 2 and order % 4):
        return None
    if order > 2 and _prime_power(order - 1) is not None:  # order ≡ 0 mod 4, so q ≡ 3 mod 4
        return ("paley1", order - 1)
    q = order // 2 - 1
    if q % 4 == 1 and _prime_power(q) is not None:
        return ("paley2", q)
    if order % 2 == 0 and _recipe(order // 2) is not None:
        return ("double", order // 2)
    return None


def _prime_power(q: int) -> tuple[int, int] | None:
    """(p, k) with q = p**k and p prime, or None."""
    if q < 2:
        return None
    p = next((d for d in range(2, int(q**0.5) + 1) if q % d == 0), q)
    k = 0
    rest = q
    while rest % p == 0:
        rest //= p
        k += 1
    return (p, k) if rest == 1 else None


def _jacobsthal(q: int) -> npt.NDArray[np.int64]:
    """Q[a, b] = χ(a − b), χ the quadratic character of GF(q): 0 at 0, +1 on squares, −1 elsewhere."""
    power = _prime_power(q)
    if power is None:
        raise ConfigError(f"GF({q}) does not exist: {q} is no prime power")
    p, k = power
    digits = np.array(list(itertools.product(range(p), repeat=k)), dtype=np.int64)  # (q, k)
    weights = p ** np.arange(k - 1, -1, -1)
    character = np.full(q, -1, dtype=np.int64)
    character[0] = 0
    character[_squares(p, k) @ weights] = 1
    difference = (digits[:, None, :] - digits[None, :, :]) % p  # (q, q, k)
    return np.asarray(character[difference @ weights])


def _squares(p: int, k: int) -> npt.NDArray[np.int64]:
    """The non-zero squares of GF(p^k) as digit rows, highest power first."""
    if k == 1:
        return np.unique(np.arange(1, p, dtype=np.int64) ** 2 % p)[:, None]
    for tail in itertools.product(range(p), repeat=k):
        # x^k = tail·(x^(k−1), …, 1). If x has order p^k − 1, the polynomial is primitive, so this is the
        # field, and its non-zero squares are the even powers of x.
        powers = [(0,) * (k - 1) + (1,)]
        while True:
            element = powers[-1]
            shifted = (*element[1:], 0)
            following = tuple((s + element[0] * t) % p for s, t in zip(shifted, tail, strict=True))
            if following == powers[0] or not any(following) or len(powers) >= p**k:
                break
            powers.append(following)
        if following == powers[0] and len(powers) == p**k - 1:
            return np.array(powers[::2], dtype=np.int64)
    raise ConfigError(f"no primitive polynomial of degree {k} over GF({p})")  # there always is one


def _paley_one(q: int) -> Matrix:
    """Order q + 1 for q ≡ 3 mod 4: I + S with S skew-symmetric, built on the Jacobsthal matrix."""
    skew = np.zeros((q + 1, q + 1), dtype=np.int64)
    skew[0, 1:] = 1
    skew[1:, 0] = -1
    skew[1:, 1:] = _jacobsthal(q)
    return (skew + np.eye(q + 1, dtype=np.int64)).astype(np.int8)


def _paley_two(q: int) -> Matrix:
    """Order 2(q + 1) for q ≡ 1 mod 4: S ⊗ [[1, 1], [1, −1]] + I ⊗ [[1, −1], [−1, −1]], S symmetric."""
    conference = np.zeros((q + 1, q + 1), dtype=np.int64)
    conference[0, 1:] = 1
    conference[1:, 0] = 1
    conference[1:, 1:] = _jacobsthal(q)
    plus = np.array([[1, 1], [1, -1]])
    minus = np.array([[1, -1], [-1, -1]])
    return (np.kron(conference, plus) + np.kron(np.eye(q + 1, dtype=np.int64), minus)).astype(np.int8)
