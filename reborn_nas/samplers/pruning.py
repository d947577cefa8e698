"""Stopping hopeless search trainings early: successive halving, Hyperband, and the median rule, on epochs.

Only trainings of the exploration are ever pruned, and only at rungs; a survivor trains on from where it stands. What
is pruned enters no estimate and no recommendation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from reborn_nas.errors import unknown_name
from reborn_nas.records import TrialRecord

if TYPE_CHECKING:
    import pandas as pd
    from optuna.pruners import BasePruner

__all__ = ["PRUNERS", "make_pruner", "pruned_shares", "rungs"]

PRUNERS = ("none", "halving", "hyperband", "median")
REDUCTION = 3
"""One of so many trainings goes on from a rung to the next."""
FIRST_SHARE = 9
"""The first rung is at this fraction of the epochs."""


def rungs(pruner: str, epochs: int) -> tuple[int, ...]:
    """Epochs after which a training may be stopped, ascending; the last epoch is none of them."""
    if pruner == "none":
        return ()
    first = max(1, epochs // FIRST_SHARE)
    found = []
    while first < epochs:
        found.append(first)
        first *= REDUCTION
    return tuple(found)


def make_pruner(name: str, epochs: int) -> BasePruner | None:
    """An Optuna pruner over `epochs`; None for "none".

    Raises:
        UnknownNameError: no such pruner.
    """
    import optuna

    first = max(1, epochs // FIRST_SHARE)
    if name == "none":
        return None
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=first, max_resource=max(first + 1, epochs), reduction_factor=REDUCTION
        )
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=first)
    raise unknown_name("pruner", name, PRUNERS)


def pruned_shares(records: Iterable[TrialRecord]) -> pd.DataFrame:
    """How often trainings with each choice were pruned: a choice that starts late is pruned for it, not for its worth.

    Returns:
        One row a choice, the largest share first: `choice`, `runs` and `pruned` (sums over the sites of each finished
        search training that has the choice), `share` in [0, 1], `all` the share over all choices.
    """
    import pandas as pd

    counts: dict[str, list[int]] = {}
    for record in records:
        if record.phase != "search" or record.state not in ("complete", "pruned"):
            continue
        for label in record.parameters.values():
            row = counts.setdefault(label, [0, 0])
            row[0] += 1
            row[1] += record.state == "pruned"
    runs, pruned = (sum(row[k] for row in counts.values()) for k in (0, 1))
    rows = [
        {"choice": label, "runs": n, "pruned": k, "share": k / n, "all": pruned / runs}
        for label, (n, k) in counts.items()
    ]
    table = pd.DataFrame(rows, columns=["choice", "runs", "pruned", "share", "all"])
    return table.sort_values(["share", "choice"], ascending=[False, True]).reset_index(drop=True)
