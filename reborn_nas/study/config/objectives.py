"""What a search is for: accuracy alone or against costs, and the limits on what an architecture may cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.metric.classification import read_metric
from reborn_nas.records import TrialRecord

__all__ = [
    "LIMITS",
    "Limit",
    "OBJECTIVES",
    "Objectives",
    "QUANTITIES",
    "amount_text",
    "check_objectives",
    "directions",
    "is_beaten",
    "named_objectives",
    "objective_values",
    "read_limit",
    "refuse_impossible",
    "stored_objectives",
    "values_of",
]

OBJECTIVES = ("accuracy", "params", "macs", "latency", "memory")
"""Accuracy is maximised, all else minimised; units as in `limits.QUANTITIES`."""


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """The objectives, accuracy first. Raises ValueError."""
    for name in names:
        if not isinstance(name, str) or name not in OBJECTIVES:
            raise ValueError(str(unknown_name("objective", str(name), OBJECTIVES)))
    if len(set(names)) != len(names):
        raise ValueError("an objective stands there twice")
    if "accuracy" not in names:
        raise ValueError("accuracy is one of the objectives: the cheapest network of all needs no search")
    return ("accuracy", *(name for name in names if name != "accuracy"))


def _read_objectives(value: Any) -> Any:
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    return check_objectives(parts) if isinstance(parts, list | tuple) else value


Objectives = Annotated[tuple[str, ...], BeforeValidator(_read_objectives)]
"""The field of a study's configuration."""


def named_objectives(objectives: Sequence[str], metric: Metric) -> tuple[str, ...]:
    """The objectives with the metric under its own name, as users read and write them."""
    return tuple(metric.name if name == "accuracy" else name for name in objectives)


def stored_objectives(config: Mapping[str, Any]) -> Any:
    """The objectives of a stored or given configuration, with the metric under the one name that it has inside.

    What is faulty is left as it is, to be refused where it is checked.
    """
    objectives = config.get("objectives")
    if objectives is None:
        return ("accuracy",)
    try:
        name = read_metric(config.get("metric")).name
    except ConfigError:
        return objectives
    parts = [part.strip() for part in objectives.split(",")] if isinstance(objectives, str) else objectives
    if not isinstance(parts, list | tuple):
        return parts
    return ["accuracy" if part == name else part for part in parts]


def directions(
    names: Sequence[str], metric: Metric = ACCURACY
) -> tuple[Literal["maximize", "minimize"], ...]:
    """Optuna's words for them; the first one, "accuracy", is of what trainings are judged by."""
    return tuple(metric.direction if name == "accuracy" else "minimize" for name in names)


def objective_values(
    record: TrialRecord, names: Sequence[str], value: Callable[[str], float] | None = None
) -> tuple[float, ...] | None:
    """What the record says to each objective; None where one is not known.

    Args:
        value: quantity → its value, asked where the record does not hold it.
    """
    found = []
    for name in names:
        known = values_of(record).get(name)
        if known is None and value is not None and name != "accuracy":
            known = value(name)
        if known is None:
            return None
        found.append(float(known))
    return tuple(found)


def values_of(record: TrialRecord) -> Mapping[str, float | None]:
    """Objective → the record's value."""
    return {
        "accuracy": record.accuracy,
        "params": record.params or None,
        "macs": record.macs or None,
        "latency": record.extra.get("latency"),
        "memory": record.extra.get("memory"),
    }


def is_beaten(values: Sequence[float], other: Sequence[float], names: Sequence[str]) -> bool:
    """Whether `other` is at least as good in every objective and better in one."""
    signs = [1.0 if name == "accuracy" else -1.0 for name in names]
    gains = [sign * (theirs - mine) for sign, mine, theirs in zip(signs, values, other, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


QUANTITIES = ("params", "macs", "latency", "memory")
"""params: trainable numbers. macs: multiply-accumulates of one image. latency: seconds of the forward pass of one
image, or of `latency_batch`, folded, measured on the study's device. memory: bytes of one training step, see
`costs.CostBook`."""

LIMITS = {f"max_{quantity}": quantity for quantity in QUANTITIES}
"""Setting → quantity."""

_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_UNITS: Mapping[str, Mapping[str, float]] = {
    "params": _COUNTS,
    "macs": _COUNTS,
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6},
    "memory": {
        "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
        "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40,
    },
}  # fmt: skip
_EXAMPLES = {"params": "12M or 1.2x", "macs": "1.5G or 2x", "latency": "5ms or 1.5x", "memory": "2GB or 1.5x"}


@dataclass(frozen=True)
class Limit:
    """The most that an architecture may have of one quantity.

    Args:
        quantity: one of `QUANTITIES`.
        value: in the quantity's unit, or a factor on the parent's where `relative`.
        relative: whether the limit is a multiple of the parent's.
    """

    quantity: str
    value: float
    relative: bool = False

    def absolute(self, parent: float) -> float:
        """The limit in the quantity's unit, given what the parent has."""
        return self.value * parent if self.relative else self.value


def read_limit(quantity: str, text: str | float) -> Limit:
    """`1.2x` (of the parent's), `12M`, `1.5G`, `5ms`, `2GB` → a `Limit`.

    Raises:
        ValueError: no number above 0, or no unit of this quantity.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*([^\d\s.][^\d.]*)?\s*", str(text))
    example = _EXAMPLES[quantity]
    if match is None or not 0 < float(match.group(1)) < float("inf"):
        raise ValueError(f"a number above 0 with a unit, such as {example}")
    number, unit = float(match.group(1)), (match.group(2) or "").strip()
    if unit.lower() in ("x", "×"):
        return Limit(quantity, number, relative=True)
    units = _UNITS[quantity]
    if unit.lower() not in units:
        known = ", ".join(name for name in units if name) + ", x"
        raise ValueError(
            f"{'unknown unit ' + repr(unit) if unit else 'no unit'}; {quantity} takes {known}: {example}"
        )
    return Limit(quantity, number * units[unit.lower()])


def amount_text(quantity: str, value: float) -> str:
    """`21.3 M`, `4.91 ms`, `1.20 GB`: for people."""
    if quantity == "latency":
        for size, unit in ((1.0, "s"), (1e-3, "ms")):
            if value >= size:
                return f"{value / size:.3g} {unit}"
        return f"{value * 1e6:.3g} µs"
    suffix = "B" if quantity == "memory" else ""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}{suffix}"
    return f"{value:.0f} {suffix}".strip()


def refuse_impossible(
    limits: Sequence[Limit], parent: Mapping[str, float], least: Mapping[str, float]
) -> None:
    """Raise ConfigError if no architecture fits: some limit is below the least that the space can have.

    Args:
        parent: quantity → what the all-original architecture has.
        least: quantity → the least that any architecture of the space has; a quantity that is not known is not judged.
    """
    faults = []
    for limit in limits:
        name, most = limit.quantity, limit.absolute(parent[limit.quantity])
        if least.get(name, 0.0) <= most:
            continue
        above = parent[name] - most
        original = (
            f"the all-original architecture has {amount_text(name, parent[name])}, "
            f"{amount_text(name, above)} ({above / most:.1%}) above it"
            if above > 0
            else f"the all-original architecture ({amount_text(name, parent[name])}) fits, but is not in the space"
        )
        faults.append(
            f"max_{name}: {amount_text(name, most)}; {original}; the leanest of the space has "
            f"{amount_text(name, least[name])}"
        )
    if faults:
        raise ConfigError("no architecture of the search space fits the limits; raise them:", faults)
