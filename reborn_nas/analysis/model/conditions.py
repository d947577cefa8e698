"""Conditional parameters: present only under some labels of another one, such as the kernel size of a reborn block.

What such a parameter adds belongs to the labels that bring it, or the maximiser of an additive model would never take
a label for the sake of what it makes possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reborn_nas.analysis.model.encoding import ABSENT

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

__all__ = ["Condition", "Folded", "find_conditions", "fold"]


@dataclass(frozen=True)
class Condition:
    """Parameter `child` is there where `parent` has one of `labels` (indices), and only there."""

    child: int
    parent: int
    labels: tuple[int, ...]


def find_conditions(codes: IntArray) -> tuple[Condition, ...]:
    """What the trials tell: for each parameter that some of them lack, the nearest one before it that decides it.

    Args:
        codes: (N, S) label indices, `ABSENT` where a parameter is missing. Parents stand before their children.
    """
    found = []
    present = codes != ABSENT
    for child in np.flatnonzero(present.any(axis=0) & ~present.all(axis=0)):
        here = present[:, child]
        for parent in range(int(child) - 1, -1, -1):
            labels = np.unique(codes[here, parent])
            if ABSENT not in labels and not np.isin(codes[~here, parent], labels).any():
                found.append(Condition(int(child), parent, tuple(int(label) for label in labels)))
                break
    return tuple(found)


@dataclass(frozen=True)
class Folded:
    """A problem without conditional parameters, whose solution `unfold` completes.

    Args:
        utility: (S, L); the children's rows are empty but for one label that adds nothing.
        costs: (B, S, L) likewise.
        linked: (S − 1,) whether a parameter and the next one are still neighbours.
        picks: condition → (L,) the child's best label under each label of its parent.
    """

    utility: FloatArray
    costs: FloatArray
    linked: BoolArray
    picks: tuple[tuple[Condition, IntArray], ...]

    def unfold(self, codes: IntArray) -> IntArray:
        """The codes (S,) with the children's labels, `ABSENT` where a child is not there."""
        codes = codes.copy()
        for condition, best in self.picks:  # parents first
            at = codes[condition.parent]
            codes[condition.child] = best[at] if at in condition.labels else ABSENT
        return codes


def fold(
    utility: FloatArray, pairs: FloatArray | None, costs: FloatArray, conditions: Sequence[Condition]
) -> Folded:
    """Add what each child's best label is worth, and costs, to the labels of its parent that bring it.

    Args:
        utility: (S, L) what each label adds, −inf where it is not allowed.
        pairs: (L, L) what labels of neighbours add; between a child and what follows it, nothing.
        costs: (B, S, L) what each label costs.
    """
    utility, costs = utility.copy(), costs.copy()
    linked = np.ones(max(len(utility) - 1, 0), dtype=np.bool_)
    picks = []
    for condition in sorted(conditions, key=lambda one: -one.child):  # a child's own children first
        child, parent, labels = condition.child, condition.parent, list(condition.labels)
        worth = np.repeat(utility[child][None], utility.shape[1], axis=0)  # (parent's label, child's label)
        if pairs is not None and child == parent + 1:
            worth = worth + pairs
        best = worth.argmax(axis=1)
        utility[parent, labels] += worth[labels, best[labels]]
        costs[:, parent, labels] += costs[:, child, best[labels]]
        first = int(np.flatnonzero(np.isfinite(utility[child]))[0])
        utility[child], costs[:, child] = -np.inf, 0.0
        utility[child, first] = 0.0
        linked[max(child - 1, 0) : child + 1] = False
        picks.append((condition, best))
    return Folded(utility, costs, linked, tuple(reversed(picks)))
