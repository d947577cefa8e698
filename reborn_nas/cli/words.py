"""Best observed, recommended, retested: three networks of a run, a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reborn_nas.study.result.networks import Standing

__all__ = ["print_standing", "standing_json"]


def print_standing(networks: Standing) -> None:
    """A line each; nothing where there is none yet."""
    best, recommended, tested = networks.best, networks.recommended, networks.retested
    if best is not None and best.accuracy is not None:
        print(
            f"best observed: {best.label}, {best.accuracy:.2%} of {best.accuracy_n:,} {best.accuracy_part} images; the "
            "best of many is partly luck"
        )
    if recommended is not None:
        print(
            f"recommended:   {recommended.predicted:.2%} expected on validation images, "
            f"95 % interval [{recommended.ci_low:.2%}, {recommended.ci_high:.2%}], by {recommended.n_trials} trainings"
        )
    elif best is not None:
        print(f"recommended:   none yet ({networks.reason})")
    shares = [record.test_accuracy for record in tested if record.test_accuracy is not None]
    if shares:
        same = recommended is not None and recommended.architecture.digest == tested[0].digest
        print(
            f"retested:      the candidate{' (the recommended network)' if same else ''}, "
            f"{sum(shares) / len(shares):.2%} of {tested[0].test_n:,} test images over {len(shares)} seeds"
        )


def standing_json(networks: Standing) -> dict[str, Any]:
    """The same for scripts."""
    best, recommended = networks.best, networks.recommended
    shares = [record.test_accuracy for record in networks.retested if record.test_accuracy is not None]
    return {
        "best": None
        if best is None
        else {"key": best.label, "accuracy": best.accuracy, "n": best.accuracy_n},
        "recommended": None
        if recommended is None
        else {
            "architecture": recommended.architecture.to_dict(),
            "predicted": recommended.predicted,
            "interval": [recommended.ci_low, recommended.ci_high],
            "trainings": recommended.n_trials,
        },
        "retested": None
        if not shares
        else {
            "architecture": dict(networks.retested[0].architecture),
            "test_accuracy": sum(shares) / len(shares),
            "seeds": len(shares),
        },
    }
