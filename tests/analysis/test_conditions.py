"""Conditional parameters: found in the trials, and folded into the labels that bring them without loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reborn_nas.analysis.model.encoding import ABSENT, Condition, Space, find_conditions
from reborn_nas.analysis.model.maximise import Budget, best_assignment
from reborn_nas.analysis.model.recommend import recommend
from reborn_nas.errors import ConfigError

A = ABSENT
SPACE = Space(
    {
        "act": ("relu", "silu", "reborn"),
        "kernel": ("k1", "k3"),
        "fine": ("f1", "f2"),
        "last": ("relu", "silu"),
    }
)
# kernel where act is reborn, fine where kernel is k3
CONDITIONS = (Condition(1, 0, (2,)), Condition(2, 1, (4,)))


def test_conditions_are_found_by_hand() -> None:
    codes = np.array([[0, A, A, 1], [2, 3, A, 0], [2, 4, 5, 1], [1, A, A, 0], [2, 4, 6, 0]])
    assert find_conditions(codes) == CONDITIONS
    assert find_conditions(codes[:, [0, 3]]) == ()  # nothing is missing
    # parameter 1 is there and not there with the same label of parameter 0: nothing decides it
    assert find_conditions(np.array([[0, A], [0, 1], [1, 1]])) == ()
    # the nearest one that decides it, not the first
    assert find_conditions(np.array([[0, 0, A], [1, 1, 2], [0, 0, A]])) == (Condition(2, 1, (1,)),)


def assignments() -> list[tuple[int, ...]]:
    found = []
    for act, kernel, fine, last in itertools.product((0, 1, 2), (3, 4, A), (5, 6, A), (0, 1)):
        if (kernel != A) == (act == 2) and (fine != A) == (kernel == 4):
            found.append((act, kernel, fine, last))
    return found


def worth(utility: np.ndarray, codes: tuple[int, ...]) -> float:
    return float(sum(utility[site, code] for site, code in enumerate(codes) if code != A))


@pytest.mark.parametrize("seed", range(20))
def test_the_best_of_all_assignments_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    utility = np.where(SPACE.allowed, rng.normal(size=SPACE.allowed.shape), -np.inf)
    found = best_assignment(SPACE, utility, None, (), CONDITIONS)
    assert tuple(found) in assignments()
    assert worth(utility, tuple(found)) == pytest.approx(max(worth(utility, one) for one in assignments()))
    # a child's neighbour term with its parent counts where it is there; here nothing else has one
    pairs = np.zeros((7, 7))
    pairs[2, 3], pairs[2, 4] = 3.0, -3.0
    found = best_assignment(SPACE, utility, pairs, (), CONDITIONS)
    everything = [
        worth(utility, one) + (0.0 if one[1] == A else pairs[one[0], one[1]]) for one in assignments()
    ]
    reached = worth(utility, tuple(found)) + (0.0 if found[1] == A else pairs[found[0], found[1]])
    assert reached == pytest.approx(max(everything))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_not_there_costs_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    utility = np.where(SPACE.allowed, rng.normal(size=SPACE.allowed.shape), -np.inf)
    prices = {"act": {"reborn": 1.0}, "kernel": {"k1": 1.0, "k3": 2.0}, "fine": {"f1": 5.0, "f2": 5.0}}
    budget = Budget(prices, limit=2.5)
    price = budget.table(SPACE)
    found = tuple(best_assignment(SPACE, utility, None, [budget], CONDITIONS))
    assert found in assignments()
    assert sum(price[site, code] for site, code in enumerate(found) if code != A) <= 2.5
    with pytest.raises(ConfigError, match="no architecture fits"):
        best_assignment(
            SPACE, utility, None, [Budget({"act": dict.fromkeys(SPACE.labels, 9.0)}, limit=1)], CONDITIONS
        )


def test_a_recommendation_of_a_conditional_study() -> None:
    rng = np.random.default_rng(0)
    trials, values = [], []
    for _ in range(80):
        trial = {"a": str(rng.choice(["relu", "silu", "reborn"])), "z": str(rng.choice(["relu", "silu"]))}
        value = {"relu": 0.0, "silu": 0.3, "reborn": 0.1}[trial["a"]]
        if trial["a"] == "reborn":
            trial = {"a": "reborn", "kernel": str(rng.choice(["1", "5"])), "z": trial["z"]}
            value += 0.5 * (trial["kernel"] == "5")
        trials.append(trial)
        values.append(0.5 + 0.1 * value + 0.01 * float(rng.normal()))
    order = {"a": ("relu", "silu", "reborn"), "kernel": ("1", "5"), "z": ("relu", "silu")}
    found = recommend(trials, values, choices=order)
    assert dict(found.choices)["a"] == "reborn"
    assert dict(found.choices)["kernel"] == "5"
    assert found.ci_low < 0.56 < found.ci_high
    # without that kernel reborn is not worth it, and no kernel is recommended then
    worse = [value - 0.1 * (trial.get("kernel") == "5") for trial, value in zip(trials, values, strict=True)]
    plain = recommend(trials, worse, choices=order)
    assert dict(plain.choices).get("a") == "silu"
    assert "kernel" not in plain.choices
