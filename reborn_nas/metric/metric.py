"""What a training is judged by: its name, its unit, which direction is better, and the scale on which effects add up.

Analysis and report know one kind of number, a *score*: larger is better, and a hundredth of the unit in which the
metric is shown. A value becomes a score once, when a training's result is recorded (`Metric.score`), and a score
becomes a value again only where it is shown (`Metric.value`). The built-in accuracy is a metric like any other: its
score is the accuracy itself, so that its effects are in percentage points.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, Literal

from reborn_nas.errors import ConfigError

__all__ = ["ACCURACY", "HUNDRED", "Metric", "as_number", "speaking", "spoken", "unknown_chance"]

HUNDRED = 100.0
"""Analysis multiplies differences of scores by this."""

TRANSFORMED = {"logit": 1.0, "log": 100.0}
"""Transformed scale → units of one natural unit: a logit, and a hundredth of a factor e."""

RESERVED = ("n", "se", "epoch")
"""Names that mean something else in what a training returns or reports."""

_FORM = "NAME:higher or NAME:lower, then ,label=TEXT,unit=TEXT,scale=NUMBER,worst=NUMBER as needed"


@dataclass(frozen=True, init=False)
class Metric:
    """The number that a training is judged by.

    Args:
        name: the key under which a training returns it, such as `miou`.
        label: its name in reports; `name` if empty.
        unit: of an effect, such as "points", "degrees" or "dB".
        scale: what a value is multiplied by to be in `unit`, such as 100 for a share; or "logit" or "log", for values
            whose effects add up better there: a logit of a share in (0, 1), hundredths of the natural logarithm of a
            value above 0.
        higher_is_better: False for an error or a loss.
        worst: the value that a training counts as that came to nothing; without it such trainings are left out.
        low, high: the range of possible values, both included. A result outside of it fails its training.
        counted: what the `n` counts that a training may return beside the value.

    Raises:
        ConfigError: with every fault.

    Example:
        >>> Metric("miou", label="mIoU", unit="points", scale=100, higher_is_better=True, worst=0.0)
    """

    name: str
    label: str
    unit: str
    scale: float | str
    higher_is_better: bool
    worst: float | None
    low: float
    high: float
    counted: str

    def __init__(
        self,
        name: str,
        *,
        label: str = "",
        unit: str = "",
        scale: float | str = 1.0,
        higher_is_better: bool,
        worst: float | None = None,
        low: float = -math.inf,
        high: float = math.inf,
        counted: str = "rows",
    ) -> None:
        given: dict[str, Any] = {
            "name": name,
            "label": label or name,
            "unit": unit or ({"logit": "logits", "log": "log points"}.get(str(scale), "")),
            "scale": scale,
            "higher_is_better": higher_is_better,
            "worst": worst,
            "low": low,
            "high": high,
            "counted": counted,
        }
        for key, value in given.items():
            object.__setattr__(self, key, value)
        if faults := list(_faults(self)):
            raise ConfigError(f"metric {name!r} has faults:", faults)

    @property
    def factor(self) -> float:
        """Display units of one unit of the (transformed) value."""
        return TRANSFORMED[self.scale] if isinstance(self.scale, str) else float(self.scale)

    @property
    def short_unit(self) -> str:
        """The unit after a number in a table: `pp` for percentage points."""
        return "pp" if self.unit == "percentage points" else self.unit

    @property
    def is_accuracy(self) -> bool:
        """Whether a value is a share of right answers, whose binomial error is known."""
        return self == ACCURACY

    @property
    def digits(self) -> int:
        """Decimals that are shown, of a value and of an effect."""
        return 2 if isinstance(self.scale, str) or abs(self.factor) != 1.0 else 4

    def check(self, value: Any) -> float:
        """`value` as a number in the metric's range; it may be NaN or infinite.

        Raises:
            ConfigError: it is no number, or outside of the range.
        """
        number = as_number(value, self.name)
        if math.isfinite(number) and not self.low <= number <= self.high:
            percent = "; divide percent by 100" if self.high == 1 and 1 < number <= 100 else ""
            raise ConfigError(f"{self.name} is in [{self.low:g}, {self.high:g}], got {number:g}{percent}")
        return number

    def score(self, value: float) -> float:
        """The score of a value: larger is better, in hundredths of the unit.

        Raises:
            ConfigError: the value is outside of the metric's range, or has no place on its transformed scale and no
                `worst` is taken for it.
        """
        number = self.check(value)
        if math.isnan(number):
            return math.nan
        if isinstance(self.scale, str) and not _has_place(self.scale, number):
            beyond = number <= 0 if self.higher_is_better else number > 0
            if self.worst is None or not beyond:
                rule = "inside (0, 1)" if self.scale == "logit" else "above 0 and finite"
                raise ConfigError(f"{self.name}: scale {self.scale!r} takes values {rule}, got {number:g}")
            number = self.worst
        return self._sign * _transformed(self.scale, number) * self.factor / HUNDRED

    def value(self, score: float) -> float:
        """The value of a score: the inverse of `score`."""
        inner = self._sign * float(score) * HUNDRED / self.factor
        if self.scale == "logit":
            return 1 / (1 + math.exp(-inner)) if inner > -700 else 0.0
        if self.scale == "log":
            return math.exp(min(inner, 700.0))
        return inner

    def told(self, score: float) -> float:
        """The value of a score as Optuna is told it: of an accuracy four digits, else without the noise of floats."""
        return round(score, 4) if self.is_accuracy else float(f"{self.value(score):.12g}")

    @property
    def worst_score(self) -> float | None:
        """The score of a training that came to nothing; None where it is not known."""
        return None if self.worst is None else self.score(self.worst)

    @property
    def best_score(self) -> float:
        """The score of the best value that there can be; infinite where the range is open there."""
        best = self.high if self.higher_is_better else self.low
        return self.score(best) if math.isfinite(best) and not isinstance(self.scale, str) else math.inf

    def shown(self, score: float | None, digits: int | None = None) -> str:
        """The value of a score as text with its unit: `87.50 %`, `34.20 points`."""
        if score is None or not math.isfinite(score):
            return "–"
        number = self.value(score)
        plain = isinstance(self.scale, str)
        number = number if plain else number * self.factor
        text = f"{number:.{self.digits if digits is None else digits}f}"
        unit = "" if plain else "%" if self.unit == "percentage points" else self.unit
        return f"{text} {unit}".strip()

    def plotted(self, score: float) -> float:
        """The value of a score in the unit in which it is shown."""
        number = self.value(score)
        return number if isinstance(self.scale, str) else number * self.factor

    def measured(self, score: float | None, cases: str) -> str:
        """A value with what it rests on: `87.50 % of 360 images`; of other metrics than the accuracy by their name."""
        shown = self.shown(score)
        return f"{shown} of {cases}" if self.is_accuracy else f"{self.label} {shown} on {cases}"

    def nearest(self, score: float) -> float:
        """The score, or that of the end of the metric's range that it lies beyond: a linear model has no ends."""
        if isinstance(self.scale, str):  # the scale has no ends
            return score
        ends = sorted(self._sign * end * self.factor / HUNDRED for end in (self.low, self.high))
        return min(ends[1], max(ends[0], score))

    @property
    def axis(self) -> str:
        """The words of an axis of values."""
        unit = "%" if self.unit == "percentage points" else "" if isinstance(self.scale, str) else self.unit
        return f"{self.label}, {unit}" if unit else self.label

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Optuna's word: "maximize" or "minimize"."""
        return "maximize" if self.higher_is_better else "minimize"

    def difference(self, one: str, other: str) -> str:
        """What an effect of `one` against `other` is: `reborn − original`, of an error or a loss turned round."""
        return f"{one} − {other}" if self.higher_is_better else f"{other} − {one}"

    @property
    def sentence(self) -> str:
        """What a reader must know to read an effect; "" for a metric that reads by itself."""
        if self.is_accuracy:
            return ""
        where = {"logit": "the logit of ", "log": "the logarithm of "}.get(str(self.scale), "")
        unit = f", in {self.unit}" if self.unit else ""
        better = "larger" if self.higher_is_better else "smaller"
        return (
            f"Trainings are judged by {self.label}, of which {better} is better. An effect above 0 is an improvement, "
            f"{where}{self.label} so much {better}{unit}."
        )

    @property
    def text(self) -> str:
        """One line from which `parse` restores the metric."""
        words = [f"{self.name}:{'higher' if self.higher_is_better else 'lower'}"]
        plain = Metric(self.name, scale=self.scale, higher_is_better=self.higher_is_better)
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in ("name", "higher_is_better") and (
                value != getattr(plain, item.name) or (item.name == "scale" and value != 1.0)
            ):
                words.append(f"{item.name}={value:g}" if isinstance(value, float) else f"{item.name}={value}")
        return ",".join(words)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, given: Any) -> Metric:
        """A metric from its text, from a mapping of its arguments, or itself. Raises ConfigError."""
        if isinstance(given, Metric):
            return given
        if isinstance(given, Mapping):
            return cls.from_dict(given)
        if not isinstance(given, str):
            raise ConfigError(
                f"a metric is rn.Metric(…), a mapping of its arguments, or text: {_FORM}; got {given!r}"
            )
        first, *rest = re.split(r",(?=\w+=)", given)
        name, _, way = first.partition(":")
        if way not in ("higher", "lower"):
            raise ConfigError(
                f"metric {given!r}: say whether larger values are better, {name or 'NAME'}:higher, or smaller ones, "
                f"{name or 'NAME'}:lower; in full {_FORM}"
            )
        options: dict[str, Any] = {}
        for part in rest:
            key, _, value = part.partition("=")
            options[key] = _number_of(value) if key in ("scale", "worst", "low", "high") else value
        return cls.from_dict({"name": name, "higher_is_better": way == "higher", **options})

    def to_dict(self) -> dict[str, Any]:
        """JSON values only; `from_dict` restores the metric."""
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            key: value
            for key, value in data.items()
            if not (isinstance(value, float) and math.isinf(value)) and value is not None
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Metric:
        """The inverse of `to_dict`. Raises ConfigError."""
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(map(str, data)) - set(known))
        if unknown or "name" not in data or "higher_is_better" not in data:
            what = f"there is no {unknown[0]!r}" if unknown else "name and higher_is_better are required"
            raise ConfigError(f"a metric has the arguments {', '.join(known)}; {what}")
        return cls(**{str(key): value for key, value in data.items()})

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Metric:
        """The inverse of `to_json`. Raises ConfigError."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"a metric is a JSON object, not {text[:60]!r} ({error})") from None
        if not isinstance(data, Mapping):
            raise ConfigError(f"a metric is a JSON object, not {text[:60]!r}")
        return cls.from_dict(data)

    @property
    def _sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0


def unknown_chance(scores: Iterable[float | None]) -> float:
    """The score of a guess where nobody knows it: so far below all that were seen that none of them is near it.

    Two ranges below the smallest: then a training counts as collapsed only for lying far apart from all others.
    """
    seen = [score for score in scores if score is not None and math.isfinite(score)]
    return min(seen) - 2 * (max(seen) - min(seen)) if seen else 0.0


def as_number(value: Any, name: str) -> float:
    """A returned number as a float; a tensor or array of one number counts. Raises ConfigError."""
    if value is None or isinstance(value, bool | str | bytes):
        raise ConfigError(f"{name} is a number, not {value!r}")
    if isinstance(value, int | float):
        return float(value)
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "size", None) is not None:
        count = value.numel() if hasattr(value, "numel") else value.size
        if count == 1:
            found = item()
            if isinstance(found, int | float) and not isinstance(found, bool):
                return float(found)
        raise ConfigError(f"{name} is one number, not {type(value).__name__} of {count} values")
    raise ConfigError(f"{name} is a number, not {type(value).__name__}")


def _faults(metric: Metric) -> Iterator[str]:
    if not isinstance(metric.name, str) or not re.fullmatch(r"[A-Za-z_]\w*", metric.name):
        yield f"name: a word, such as miou, got {metric.name!r}"
    elif metric.name in RESERVED:
        yield f"name: {metric.name} means something else beside a value; choose another"
    for key in ("label", "unit", "counted"):
        text = getattr(metric, key)
        if not isinstance(text, str) or len(text) > 60 or "\n" in text or re.search(r",\w+=", text):
            yield f"{key}: a short text, got {text!r}"
    if not isinstance(metric.higher_is_better, bool):
        yield f"higher_is_better: True or False, got {metric.higher_is_better!r}"
    if isinstance(metric.scale, str):
        if metric.scale not in TRANSFORMED:
            yield f"scale: a number above 0, {' or '.join(TRANSFORMED)}, got {metric.scale!r}"
            return
    elif not _is_number(metric.scale) or not metric.scale > 0 or math.isinf(metric.scale):
        yield f"scale: a number above 0, {' or '.join(TRANSFORMED)}, got {metric.scale!r}"
        return
    for key in ("low", "high"):
        if not _is_number(getattr(metric, key)):
            yield f"{key}: a number, got {getattr(metric, key)!r}"
            return
    if not metric.low < metric.high:
        yield f"low: below high, got {metric.low:g} and {metric.high:g}"
    if metric.worst is None:
        return
    if not _is_number(metric.worst) or not math.isfinite(metric.worst):
        yield f"worst: a finite number or None, got {metric.worst!r}"
    elif not metric.low <= metric.worst <= metric.high:
        yield f"worst: in [{metric.low:g}, {metric.high:g}], got {metric.worst:g}"
    elif isinstance(metric.scale, str) and not _has_place(metric.scale, metric.worst):
        rule = "inside (0, 1)" if metric.scale == "logit" else "above 0"
        yield f"worst: with scale {metric.scale!r} {rule}, got {metric.worst:g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _number_of(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _has_place(scale: str, value: float) -> bool:
    return 0 < value < 1 if scale == "logit" else 0 < value < math.inf


def _transformed(scale: float | str, value: float) -> float:
    if scale == "logit":
        return math.log(value) - math.log1p(-value)
    return math.log(value) if scale == "log" else value


ACCURACY = Metric(
    "accuracy",
    unit="percentage points",
    scale=100.0,
    higher_is_better=True,
    low=0.0,
    high=1.0,
    counted="images",
)
"""The share of right answers: what the built-in training of a classifier is judged by."""

_SPOKEN: ContextVar[Metric] = ContextVar("reborn_nas_metric", default=ACCURACY)


def spoken() -> Metric:
    """The metric in whose words sentences, tables and figures are written now; the accuracy unless `speaking`."""
    return _SPOKEN.get()


@contextmanager
def speaking(metric: Metric) -> Iterator[Metric]:
    """Inside, what is written is in the words and the unit of `metric`."""
    token = _SPOKEN.set(metric)
    try:
        yield metric
    finally:
        _SPOKEN.reset(token)
