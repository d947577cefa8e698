"""Numbers and third-party strings as text that is safe to show."""

from __future__ import annotations

import html
import math
import re

from reborn_nas.analysis.phases.claims import telling_digits
from reborn_nas.metric import spoken

MINUS = "−"
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def clean(text: object) -> str:
    """`text` without characters that XML forbids or that turn the reading direction around."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


def escape(text: object) -> str:
    """`text` for use in HTML or SVG, also inside a quoted attribute."""
    return html.escape(clean(text), quote=True)


def csv_cell(value: object) -> object:
    """`value` so that no spreadsheet takes it for a formula; numbers, also those written as text, stay."""
    if not isinstance(value, str):
        return value
    text = clean(value)
    if text.lstrip(" \u00a0").startswith(_FORMULA) and not re.fullmatch(
        r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", text
    ):
        return "'" + text
    return text


def true_minus(text: str) -> str:
    """`text` with a minus sign in place of the hyphen before a number."""
    return re.sub(r"(?<![\w.\-])-(?=\d)", MINUS, text)


def spelled(text: str) -> str:
    """A sentence of the analysis as the report prints it: true minus signs, and "pp" in the metric's unit, in full."""
    return re.sub(r" pp\b", lambda _: in_unit(), true_minus(text))


def in_unit() -> str:
    """What follows an effect's number: ` percentage points`, or the unit of the metric; "" where it has none."""
    return f" {spoken().unit}" if spoken().unit else ""


def in_short() -> str:
    """The same where there is little room: ` pp`."""
    return f" {spoken().short_unit}" if spoken().short_unit else ""


def capital(text: str) -> str:
    """`text` with a capital letter first, the others as they are; a first word such as mIoU stays as it is."""
    return text if any(map(str.isupper, text.split(" ")[0])) else text[:1].upper() + text[1:]


def effect_axis() -> str:
    """The words of an axis of effects."""
    better = "" if spoken().higher_is_better else ", improvement"
    return f"effect on {spoken().label}{better}, {unit_name()} (95 % interval)"


def difference(one: str, other: str) -> str:
    """What an effect of `one` against `other` is, in words: above 0 where `one` is better."""
    return spoken().difference(one, other)


def unit_name() -> str:
    """The unit of effects by itself."""
    return spoken().unit or f"units of {spoken().label}"


def metric_label() -> str:
    """What trainings are judged by: `accuracy`, `mIoU`."""
    return spoken().label


def cases(n: float | None = None, part: str = "") -> str:
    """What a value rests on: `360 validation images`, `test rows` where their number is not known."""
    words = f"{part} {spoken().counted}".strip()
    return f"{n:,.0f} {words}" if n else words


def as_value(score: float | None, digits: int = 1) -> str:
    """A score as the value that it stands for: `87.5 %`, `12.4 degrees`."""
    return true_minus(spoken().shown(score, digits if spoken().is_accuracy else None))


def measured(score: float | None, cases: str) -> str:
    """A score as the value that it stands for, and what it rests on; by name where it is no accuracy."""
    return (
        f"{as_value(score)} of {cases}"
        if spoken().is_accuracy
        else true_minus(spoken().measured(score, cases))
    )


def signed(value: float | None, digits: int | None = None) -> str:
    """`+0.25`, `−0.10`, `0.00`; a dash where there is none. Without `digits` as many as the metric's effects have."""
    if value is None or not math.isfinite(value):
        return "–"
    digits = spoken().digits if digits is None else digits
    rounded = round(value, digits)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def one_input() -> str:
    """What a network's costs are of: one image, or one input of another kind."""
    return "image" if spoken().counted == "images" else "input"


def effect_size(value: float | None) -> str:
    """The size of an effect, or of what effects are held against, without a sign."""
    return number(value, spoken().digits)


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", MINUS)


def interval(low: float | None, high: float | None, digits: int | None = None) -> str:
    """`[+0.10, +0.40]`, with as many digits as leave out 0 where it does; a dash where there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    digits = telling_digits(low, high, spoken().digits if digits is None else digits)
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as `87.5 %`."""
    if share is None or not math.isfinite(share):
        return "–"
    return f"{100 * share:.{digits}f} %"


def p_value(value: float | None) -> str:
    """`0.03`, `< 0.001`."""
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """`1.2 M`, `34 k`, `850`, `2.31`, three figures at most."""
    if value is None or not math.isfinite(value):
        return "–"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:.{0 if abs(scaled) >= 100 else 1}f} {unit}".replace("-", MINUS)
    return f"{value:.{0 if value == int(value) or abs(value) >= 100 else 2}f}".replace("-", MINUS)


def added(value: float | None) -> str:
    """A cost on top: `+1.2 M`, or `0`."""
    if value is None or not math.isfinite(value) or value == 0:
        return "–" if value is None or not math.isfinite(value) else "0"
    return ("+" if value > 0 else "") + count(value)


def duration(seconds: float | None) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"
