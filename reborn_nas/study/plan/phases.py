"""Divides a total of trainings into phases: each is complete, or left out with a reason. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

from reborn_nas.errors import ConfigError
from reborn_nas.records import public_name

__all__ = ["CHECK_PARTS", "DESIGN", "KINDS", "ORDER", "RETEST", "Kind", "Phase", "plan_phases"]

DESIGN, RETEST = "/design", "/confirm"
"""Suffixes of the studies' names that hold the designed runs, and the runs after the exploration."""


CONTROL_RUNS = 48
"""Runs of the smallest control; equals `analysis.designs.design.LEAST_CONTROL`, which would be a heavy import."""


class Kind(NamedTuple):
    """A kind of phase.

    Args:
        study: suffix of the name of the study that holds its runs.
        part: part of the data that judges its runs.
        unit: its count is a multiple of it; 0 if the sizes of whole designs are irregular.
        needs_candidate: its runs are made from the candidate.
        least: runs of its smallest whole design.
    """

    study: str
    part: str
    unit: int
    needs_candidate: bool = False
    least: int = 0


KINDS: Mapping[str, Kind] = {
    "baseline": Kind(DESIGN, "validation", 2),
    "screen": Kind(DESIGN, "validation", 0),
    "search": Kind("", "validation", 1),
    "candidate": Kind(RETEST, "test", 2, True),
    "confirm": Kind(RETEST, "reserve", 16, True),
    "control": Kind(RETEST, "reserve", 16, True, least=CONTROL_RUNS),
    "checks": Kind(RETEST, "reserve", 0, True),
}
"""Phase → what it is, in the order of execution, which is that of `records.PHASES`."""

ORDER = tuple(KINDS)
"""The order of execution. The order in which the total is spent is `PRIORITY`."""

PRIORITY = ("baseline", "screen", "candidate", "confirm", "control", "checks", "search")
SMALL_STUDY = 100
"""Below this total, baseline takes 4 seeds an arm instead of 8."""

CONFIRM_RUNS = 32
NOISY = 0.25
"""Spread of one training in percentage points above which a confirmation has twice as many runs, provided that the
exploration keeps at least as many as it gives up."""
CANDIDATE_SEEDS = 8
TOP = 5
"""Sites that the phases after the screen test; without more than these, no screen is needed to choose them."""

AFTER_SCREEN = ("confirm", "control", "checks")
CHECK_PARTS = (("alone", 16), ("controls", 32), ("rate", 16))
"""Parts of the checks and their trainings: top sites one at a time; other controls; a second learning rate."""

CHECKS = tuple(accumulate(size for _, size in CHECK_PARTS))
"""Trainings of the first one, two and three parts."""


@dataclass(frozen=True)
class Phase:
    """One phase of the plan.

    Args:
        name: one of `ORDER`.
        count: trainings; 0 if the phase is left out.
        reason: why it is left out or differs from the request, else "".
        batches: screen only: sizes of its whole designs, in the order of execution.
        editions: how the designs were drawn, one for each batch of the screen, or one for another phase; see
            `analysis.design.EDITION`. Plans of older versions have none.
        seconds: estimated time of the phase's trainings, or None if not measured yet.
    """

    name: str
    count: int
    reason: str = ""
    batches: tuple[int, ...] = ()
    seconds: float | None = None
    editions: tuple[int, ...] = ()

    def edition(self, batch: int = 0) -> int:
        """How the design of a batch is drawn."""
        return self.editions[batch] if batch < len(self.editions) else 1

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "name": self.name,
            "count": self.count,
            "reason": self.reason,
            "batches": list(self.batches),
            "seconds": self.seconds,
            "editions": list(self.editions),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Phase:
        """The inverse of `to_dict`."""
        return cls(
            data["name"],
            data["count"],
            data["reason"],
            tuple(data["batches"]),
            data.get("seconds"),
            tuple(data.get("editions", ())),
        )


def plan_phases(
    total: int,
    n_factors: int,
    *,
    sizes: Sequence[int],
    counts: Mapping[str, int] | None = None,
    earlier: Sequence[Phase] = (),
    no_control: str = "",
    spread: float = 0.0,
    edition: int = 1,
) -> tuple[Phase, ...]:
    """The phases of a study of `total` trainings, in execution order.

    The rule: baseline 8 + 8 seeds (4 + 4 below a total of 100), the largest whole screen of at most half of the total,
    candidate against parent 8 + 8, confirm 32, control 48, in this order and each only if it fits completely; the
    remainder goes to the exploration. After a control, 64 of a remainder of at least 128 go to the checks.

    Args:
        total: trainings over all phases.
        n_factors: sites (or groups) that the screen varies; 0 means that there is no two-level question.
        sizes: sizes of whole foldover screens for `n_factors`, ascending.
        counts: requested counts; these phases come first and are rounded to whole designs.
        earlier: the plan that this one extends; no phase gets fewer trainings.
        no_control: why the question has no control and no checks, else "".
        spread: standard deviation of one training in percentage points, as far as it is known.
        edition: edition of designs that `earlier` does not have.

    Raises:
        ConfigError: the request exceeds `total`, or needs a screen that is left out.
    """
    asked = dict(counts or {})
    before = {phase.name: phase for phase in earlier}
    spent = {name: phase.count for name, phase in before.items()}
    planned: dict[str, Phase] = {}
    left = max(total, sum(spent.values())) - sum(spent.values())
    asked_first = sorted(PRIORITY, key=lambda name: name not in asked)
    for name in asked_first:
        old = before.get(name, Phase(name, 0))
        if no_control and name in ("control", "checks"):
            phase = replace(old, reason=no_control)
        else:
            phase = _phase(name, old, left, total, n_factors, sizes, asked.get(name), planned, before)
        left -= phase.count - old.count
        planned[name] = phase
    if spread > NOISY and not asked.keys() & {"confirm", "search"}:
        planned |= _confirm_twice(planned, before)
    if left < 0:
        wanted = sum(phase.count for phase in planned.values())
        raise ConfigError(
            f"trials: the phases asked for need {wanted} trainings, but the total is {total}; raise it or ask for less"
        )
    blind = [name for name in AFTER_SCREEN if planned[name].count]
    if blind and n_factors > TOP and not planned["screen"].count:
        names = [public_name(name) for name in blind]
        raise ConfigError(
            f"{names[0]}: the {TOP} of {n_factors} sites that it tests are chosen by a screen, and there is none "
            f"({planned['screen'].reason or 'not asked for'}); ask for a screen or leave {', '.join(names)} out"
        )
    for name in ("screen", "confirm", "control"):
        planned[name] = _with_editions(planned[name], before.get(name, Phase(name, 0)), edition)
    return tuple(planned[name] for name in ORDER)


def _with_editions(phase: Phase, old: Phase, edition: int) -> Phase:
    """`phase` with the editions of its designs; earlier designs keep theirs."""
    parts = max(len(phase.batches), 1 if phase.count else 0)
    kept = max(len(old.batches), 1 if old.count else 0)
    drawn = [old.edition(k) for k in range(kept)] + [edition] * (parts - kept)
    return replace(phase, editions=tuple(drawn[:parts]))


def _phase(
    name: str,
    old: Phase,
    left: int,
    total: int,
    n_factors: int,
    sizes: Sequence[int],
    asked: int | None,
    planned: Mapping[str, Phase],
    before: Mapping[str, Phase],
) -> Phase:
    if name == "search":
        count = old.count + max(left, 0) if asked is None else max(old.count, asked)
        none = "not asked for" if asked == 0 else "no training is left for it"
        return Phase("search", count, "" if count else none)
    if n_factors == 0:
        return replace(old, reason="no site takes both sides of the contrast")
    if name == "screen":
        return _screen(old, left, total, n_factors, sizes, asked)
    if name == "checks":
        return _checks(old, left, asked, planned, before)
    want, unit = _wanted(name, total, asked, old)
    if asked == 0 and not old.count:
        return replace(old, reason="not asked for")
    if asked is not None:
        whole = max(-(-want // unit) * unit, KINDS[name].least) if want else 0
        reason = (
            f"{asked} is rounded to {whole}, a whole design" if whole != asked and whole > old.count else ""
        )
        return Phase(name, max(old.count, whole), reason)
    if want <= old.count:
        return replace(old, reason="")
    if name in ("confirm", "control"):
        screen = planned.get("screen") or before.get("screen")
        if screen is None or not screen.count:
            return replace(old, reason="needs a screen, which is left out")
    if want - old.count > left:
        return replace(old, reason=f"needs {want - old.count} trainings, {left} of {total} are left")
    return Phase(name, want)


def _confirm_twice(planned: Mapping[str, Phase], before: Mapping[str, Phase]) -> dict[str, Phase]:
    """The confirmation doubled, if the exploration then still gets at least as many runs as it gives up."""
    confirm, search = planned["confirm"], planned["search"]
    gained = search.count - (before["search"].count if "search" in before else 0)
    if confirm.count != CONFIRM_RUNS or gained < 2 * CONFIRM_RUNS:
        return {}
    return {
        "confirm": replace(confirm, count=2 * CONFIRM_RUNS),
        "search": replace(search, count=search.count - CONFIRM_RUNS),
    }


def _wanted(name: str, total: int, asked: int | None, old: Phase) -> tuple[int, int]:
    """The count by the rule or as requested, and the unit of which it is a multiple."""
    unit = KINDS[name].unit
    if asked is not None:
        return asked, unit
    rule = {
        "baseline": 8 if total < SMALL_STUDY else 16,
        "candidate": 2 * CANDIDATE_SEEDS,
        "confirm": CONFIRM_RUNS,
        "control": CONTROL_RUNS,
    }
    return max(rule[name], old.count), unit


def _checks(
    old: Phase, left: int, asked: int | None, planned: Mapping[str, Phase], before: Mapping[str, Phase]
) -> Phase:
    if asked:
        whole = next((size for size in CHECKS if size >= asked), CHECKS[-1])
        reason = f"{asked} is rounded to {whole}, whole checks" if whole != asked else ""
        return Phase("checks", max(old.count, whole), reason)
    control = planned.get("control") or before.get("control")
    if old.count:
        return replace(old, reason="")
    if asked == 0:
        return replace(old, reason="not asked for")
    if control is None or not control.count:
        return replace(old, reason="follow a control, which is left out")
    if left < 2 * CHECKS[-1]:
        return replace(
            old, reason=f"need {2 * CHECKS[-1]} trainings of the remainder, which has {max(left, 0)}"
        )
    return Phase("checks", CHECKS[-1])


def _screen(
    old: Phase, left: int, total: int, n_factors: int, sizes: Sequence[int], asked: int | None
) -> Phase:
    budget = min(left, total // 2 - old.count) if asked is None else asked - old.count
    if asked == 0 or (asked is not None and budget <= 0):
        return replace(old, reason="" if old.count else "not asked for")
    if asked is not None and budget > left:  # `sizes` end at the total: it would be rounded down to that
        return replace(old, count=asked)
    fitting = [size for size in sizes if size <= budget]
    if not fitting and asked is not None and sizes:
        fitting = [size for size in sizes if size <= left][:1]
    if not fitting:
        reason = "" if old.count else _no_screen(n_factors, total, sizes)
        return replace(old, reason=reason)
    size = fitting[-1]
    reason = ""
    if asked is not None and old.count + size != asked:
        reason = f"{asked} is rounded to {old.count + size}, a whole balanced design"
    return Phase("screen", old.count + size, reason, (*old.batches, size))


def _no_screen(n_factors: int, total: int, sizes: Sequence[int]) -> str:
    if not sizes:
        return f"no whole balanced design for {n_factors} sites in {total} trainings; raise trials"
    return f"the smallest whole design for {n_factors} sites has {sizes[0]} runs, more than half of {total}"
