"""Best, recommended, confirmed: three networks of a run, three words."""

from __future__ import annotations

from reborn_nas.report.view import RunView
from reborn_nas.report.words import percent

__all__ = ["standing"]


def standing(view: RunView) -> list[str]:
    """A sentence for each of the three that there is."""
    return [*_best(view), *_recommended(view), *_confirmed(view)]


def _best(view: RunView) -> list[str]:
    done = [r for r in view.phase("search") if r.state == "complete" and r.accuracy is not None]
    if not done:
        return []
    best = max(done, key=lambda record: record.accuracy or 0.0)
    return [
        f"Best: {best.key} of the search was observed at {percent(best.accuracy)} of {best.accuracy_n:,} "
        f"{best.accuracy_part} images; the best of {len(done)} is partly luck: a repeat is expected to be lower."
    ]


def _recommended(view: RunView) -> list[str]:
    given = view.recommendation
    if not given or given.get("predicted") is None:
        return []
    low, high = given.get("ci_low"), given.get("ci_high")
    interval = (
        ""
        if low is None or high is None
        else f", 95 % interval [{percent(float(low))}, {percent(float(high))}]"
    )
    return [
        "Recommended: the network with the largest expected accuracy by all trainings of screen and search, "
        f"{percent(float(given['predicted']))} on validation images{interval}."
    ]


def _confirmed(view: RunView) -> list[str]:
    seeds = [r for r in view.phase("candidate") if r.arm == "candidate" and r.test_accuracy is not None]
    if not seeds:
        return []
    mean = sum(float(r.test_accuracy or 0.0) for r in seeds) / len(seeds)
    return [
        f"Confirmed: the candidate, trained afresh against its parent, has {percent(mean)} of {seeds[0].test_n:,} test "
        f"images over {len(seeds)} seed{'s' if len(seeds) > 1 else ''}."
    ]
