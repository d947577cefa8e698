"""Durations as users write them, on the command line and in YAML."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["read_duration"]

_UNITS = {
    1.0: ("", "s", "sec", "secs", "second", "seconds"),
    60.0: ("m", "min", "mins", "minute", "minutes"),
    3600.0: ("h", "hr", "hrs", "hour", "hours"),
    86400.0: ("d", "day", "days"),
}
_SECONDS = {name: seconds for seconds, names in _UNITS.items() for name in names}
_PART = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*([a-z]*)\s*")


def read_duration(value: Any) -> Any:
    """Seconds from text such as `90`, `90s`, `30min`, `2h`, `1h30m`; what is not text is returned as it is.

    Raises:
        ValueError: the text is not a duration above zero.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    seconds, place = 0.0, 0
    while place < len(text) and (part := _PART.match(text, place)) and part.group(2) in _SECONDS:
        seconds += float(part.group(1)) * _SECONDS[part.group(2)]
        place = part.end()
    if not text or place < len(text) or not 0 < seconds < float("inf"):
        raise ValueError(
            f"a duration is a number of seconds, or such as 90s, 30min, 2h, 1h30m, not {value!r}"
        )
    return seconds
