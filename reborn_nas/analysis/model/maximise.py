"""The best assignment of an additive model with neighbour terms, under budgets that add up over the sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.model.encoding import Condition, Space, fold
from reborn_nas.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Budget:
    """A limit on something that adds up over the sites, such as parameters or MACs.

    Args:
        costs: parameter → label → what that choice costs there; choices that are not named cost 0.
        limit: most that the whole may cost, `base` included.
        base: what the network costs before any choice.
        name: what is limited, for messages.
    """

    costs: Mapping[str, Mapping[str, float]]
    limit: float
    base: float = 0.0
    name: str = "cost"

    def table(self, space: Space) -> FloatArray:
        """(S, L) costs."""
        return np.array(
            [
                [float(self.costs.get(name, {}).get(label, 0.0)) for label in space.labels]
                for name in space.names
            ]
        )


def best_assignment(
    space: Space,
    utility: FloatArray,
    pairs: FloatArray | None = None,
    budgets: Sequence[Budget] = (),
    conditions: Sequence[Condition] = (),
) -> IntArray:
    """Codes (S,) that maximise Σ utility[s, c_s] + Σ pairs[c_s, c_{s+1}] within the budgets.

    Without budgets the maximum is exact (dynamic programming along the chain). With budgets, Lagrange
    multipliers are raised until the maximum fits, and single changes that fit are then made while they help.

    Args:
        conditions: parameters that are there under some labels of another one; `ABSENT` elsewhere. Neighbour terms
            between such a one and what follows it are left out.

    Raises:
        ConfigError: no assignment fits; the message says by how much the cheapest exceeds the limit.
    """
    costs, room = _scaled(space, budgets) if budgets else (np.zeros((0, *utility.shape)), np.zeros(0))
    folded = fold(utility, pairs, costs, conditions)
    utility, costs = folded.utility, folded.costs
    links = None if pairs is None else folded.linked[:, None, None] * pairs  # (S − 1, L, L)
    codes = _chain(utility, links)
    if not _fits(costs, room, codes):
        found = _priced(space, utility, links, costs, room)
        if found is None:
            _refuse(space, budgets)
        codes = _polish(utility, links, costs, room, found if found is not None else codes)
    return folded.unfold(codes)


def cheapest_assignment(space: Space, budgets: Sequence[Budget]) -> IntArray:
    """Codes (S,) that exceed the budgets least: what is left where nothing is believed to fit."""
    return _cheapest(space, *_scaled(space, budgets))


def _scaled(space: Space, budgets: Sequence[Budget]) -> tuple[FloatArray, FloatArray]:
    """Costs (B, S, L) and room (B,), each budget in units of its own largest difference."""
    tables = [budget.table(space) for budget in budgets]
    room = np.array([budget.limit - budget.base for budget in budgets])
    scale = np.array([max(float(np.ptp(table)), 1e-12) for table in tables])
    return np.stack(tables) / scale[:, None, None], room / scale


def _chain(utility: FloatArray, pairs: FloatArray | None) -> IntArray:
    """Viterbi along the sites."""
    if pairs is None:
        return np.asarray(utility.argmax(axis=1), dtype=np.int64)
    sites = len(utility)
    score = utility[0]
    back = np.zeros(utility.shape, dtype=np.int64)
    for site in range(1, sites):
        through = score[:, None] + pairs[site - 1]  # (from, to)
        back[site] = through.argmax(axis=0)
        score = through.max(axis=0) + utility[site]
    codes = np.zeros(sites, dtype=np.int64)
    codes[-1] = int(score.argmax())
    for site in range(sites - 1, 0, -1):
        codes[site - 1] = back[site, codes[site]]
    return codes


def _spent(costs: FloatArray, codes: IntArray) -> FloatArray:
    return np.asarray(costs[:, np.arange(len(codes)), codes].sum(axis=1))


def _fits(costs: FloatArray, room: FloatArray, codes: IntArray) -> bool:
    return bool((_spent(costs, codes) <= room + 1e-9 * np.maximum(1.0, np.abs(room))).all())


def _priced(
    space: Space, utility: FloatArray, pairs: FloatArray | None, costs: FloatArray, room: FloatArray
) -> IntArray | None:
    """The best assignment found under prices: bisection for one budget, raised prices for several."""
    finite = utility[np.isfinite(utility)]
    top = 4 * (float(np.ptp(finite)) + (0.0 if pairs is None else 2 * float(np.ptp(pairs)))) + 1e-9

    def under(price: FloatArray) -> IntArray:
        return _chain(utility - np.tensordot(price, costs, axes=1), pairs)

    price = np.zeros(len(room))
    feasible = None
    for _ in range(60):  # raise the price of what is exceeded
        codes = under(price)
        over = _spent(costs, codes) - room
        if (over <= 1e-9).all():
            feasible = codes
            break
        price = np.where(over > 1e-9, np.maximum(2 * price, top / 256), price)
        if price.max() > 1e9 * top:
            break
    if feasible is None:
        cheapest = _cheapest(space, costs, room)
        return cheapest if _fits(costs, room, cheapest) else None
    low, high = 0.0, 1.0  # then give back as much of all prices as still fits
    for _ in range(25):
        middle = 0.5 * (low + high)
        codes = under(middle * price)
        if _fits(costs, room, codes):
            high, feasible = middle, codes
        else:
            low = middle
    return feasible


def _cheapest(space: Space, costs: FloatArray, room: FloatArray) -> IntArray:
    """The assignment that exceeds the budgets least, by prices on the worst excess."""
    price = np.ones(len(room))
    best, best_excess = None, np.inf
    for _ in range(60 if len(room) > 1 else 1):
        weighted = np.where(space.allowed, np.tensordot(price, costs, axes=1), np.inf)
        codes = np.asarray(weighted.argmin(axis=1), dtype=np.int64)
        over = _spent(costs, codes) - room
        if over.max() < best_excess:
            best, best_excess = codes, float(over.max())
        price = price * np.exp(0.5 * np.clip(over / (np.abs(over).max() + 1e-12), -1, 1))
    assert best is not None
    return best


def _refuse(space: Space, budgets: Sequence[Budget]) -> None:
    faults = []
    for budget in budgets:
        least = budget.base + float(np.where(space.allowed, budget.table(space), np.inf).min(axis=1).sum())
        if least > budget.limit:
            above = f"{least - budget.limit:g} above the limit {budget.limit:g}"
            faults.append(f"{budget.name}: the cheapest needs {least:g}, {above}")
        else:
            faults.append(
                f"{budget.name}: {least:g} of {budget.limit:g} would do, but not within the other limits too"
            )
    raise ConfigError("no architecture fits the budgets; raise a limit or offer cheaper choices", faults)


def _polish(
    utility: FloatArray, pairs: FloatArray | None, costs: FloatArray, room: FloatArray, codes: IntArray
) -> IntArray:
    """Single-site changes that fit and help, best first, until none is left."""
    codes = codes.copy()
    sites = np.arange(len(codes))
    for _ in range(4 * len(codes)):
        gain = utility - utility[sites, codes][:, None]
        if pairs is not None:
            here = pairs[sites[:-1], codes[:-1], codes[1:]][:, None]
            gain[1:] += pairs[sites[:-1], codes[:-1]] - here
            gain[:-1] += pairs[sites[:-1], :, codes[1:]] - here
        spent = _spent(costs, codes)
        after = spent[:, None, None] + costs - costs[:, sites, codes][:, :, None]  # (B, S, L)
        gain = np.where((after <= room[:, None, None] + 1e-9).all(axis=0), gain, -np.inf)
        site, code = np.unravel_index(int(gain.argmax()), gain.shape)
        if not gain[site, code] > 1e-12:
            break
        codes[site] = code
    return codes
