"""What is planted in the studies of the acceptance table, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.sentences.planted import FloatArray, Planted

FIVE = (0.5, 0.42, 0.35, 0.3, 0.25)


def _at(n: int, rng: np.random.Generator, sizes: tuple[float, ...]) -> FloatArray:
    """`sizes` at random sites, as many as there is room for."""
    effects = np.zeros(n)
    chosen = rng.permutation(n)[: len(sizes)]
    effects[chosen] = sizes[: len(chosen)]
    return effects


def _null(n: int, rng: np.random.Generator) -> Planted:
    return Planted(np.zeros(n))


def _one(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, (0.35,)))


def _harm(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, (-0.3,)), sigma=0.71)


def _five(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, FIVE))


def _weak(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, (0.15,) * 5))


def _many(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, (0.35,) * (2 * n // 3)))


def _small(n: int, rng: np.random.Generator) -> Planted:
    return Planted(rng.normal(0, 0.05, n))


def _scatter(n: int, rng: np.random.Generator) -> Planted:
    return Planted(rng.normal(0, 0.2, n))


def _depth(n: int, rng: np.random.Generator) -> Planted:
    return Planted(0.1 + 0.25 * np.linspace(-1, 1, n) + rng.normal(0, 0.1, n), slope=0.5)


def _pairs(n: int, rng: np.random.Generator) -> Planted:
    firsts = rng.permutation(n - 1)[:12]
    joint = [((int(k), int(k) + 1), float(rng.choice((-0.15, 0.15)))) for k in firsts]
    return Planted(_at(n, rng, FIVE), joint=joint)


def _triples(n: int, rng: np.random.Generator) -> Planted:
    """n/3 sets of three sites whose joint effect is as large as a site's own."""
    order = rng.permutation(n)
    threes = [tuple(int(k) for k in order[3 * i : 3 * i + 3]) for i in range(n // 3)]
    return Planted(np.zeros(n), joint=[(three, float(rng.choice((-0.4, 0.4)))) for three in threes])


def _ceiling(n: int, rng: np.random.Generator) -> Planted:
    return Planted(2 * _at(n, rng, FIVE), base=97.0, ceiling=True)


def _tails(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, FIVE), tails=True)


def _drift(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, FIVE), drift=1.0)


def _slow(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, FIVE), slow=0.3)


def _unequal(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, FIVE), unequal=3.0)


def _split(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, FIVE), split=0.3)


def _collapses(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, FIVE), collapses=int(rng.integers(1, 4)))


def _diverges(n: int, rng: np.random.Generator) -> Planted:
    """The first site diverges in a quarter of its reborn runs; five others help."""
    effects = np.zeros(n)
    others = 1 + rng.permutation(n - 1)[:5]
    effects[others] = FIVE[: len(others)]
    return Planted(effects, diverges=np.eye(n)[0] * 0.25)


def _diverges_often(n: int, rng: np.random.Generator) -> Planted:
    plain = _diverges(n, rng)
    return Planted(plain.effects, diverges=np.eye(n)[0] * 0.6)


def _capacity(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, FIVE), twin=1.0)


def _phase(n: int, rng: np.random.Generator) -> Planted:
    return Planted(_at(n, rng, FIVE), twin=0.0)


def _kernel(n: int, rng: np.random.Generator) -> Planted:
    """No kernel is better on the whole, but at single sites they differ."""
    at = rng.normal(0, 0.3, size=(n, 3))
    return Planted(np.zeros(n), kernel=at - at.mean(axis=1, keepdims=True))


SCENARIOS: dict[str, Callable[[int, np.random.Generator], Planted]] = {
    "null": _null,
    "one": _one,
    "harm": _harm,
    "five": _five,
    "weak": _weak,
    "many": _many,
    "small": _small,
    "scatter": _scatter,
    "depth": _depth,
    "pairs": _pairs,
    "triples": _triples,
    "ceiling": _ceiling,
    "tails": _tails,
    "drift": _drift,
    "slow": _slow,
    "unequal": _unequal,
    "split": _split,
    "collapses": _collapses,
    "diverges": _diverges,
    "diverges_often": _diverges_often,
    "capacity": _capacity,
    "phase": _phase,
    "kernel": _kernel,
}
"""In pp, with a noise of .3: null; one: .35 at one site; harm: −.3 at one site, noise .71; five: .5 to .25; weak: five
of .15; many: .35 at two thirds of the sites; small and scatter: every site, sd .05 and .2; depth: .5 from the first
site to the last; pairs, triples: joint effects of neighbours, of any three sites; ceiling: twice `five` on the logit
scale at 97 %; tails: t₃ noise; drift: 1 pp over a phase; slow: a machine that loses .3; unequal: three times the noise
where the first site is reborn; split: .3 a site and split; collapses: one to three runs at chance; diverges (often):
the first site in 25 % (60 %) of its reborn runs; capacity, phase: the positive twin has all, or nothing, of the gain;
kernel: best kernels that differ by site."""


def plant(scenario: str, sites: int, seed: int) -> Planted:
    """The truth of one study."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, sum(map(ord, scenario)), sites]))
    return SCENARIOS[scenario](sites, rng)
