"""Asking before a run that would take hours of a CPU."""

from __future__ import annotations

import sys

from reborn_nas.errors import ConfigError

__all__ = ["agreed"]

ASK_ABOVE_SECONDS = 3600.0


def agreed(seconds: float | None, on_cpu: bool, shorter: str) -> bool:
    """True unless the run would be long on a CPU and nobody says yes.

    Args:
        seconds: estimated; None where unknown.
        shorter: a clause on what makes it short.

    Raises:
        ConfigError: there is nobody to ask.
    """
    if seconds is None or seconds <= ASK_ABOVE_SECONDS or not on_cpu:
        return True
    hours = seconds / 3600
    if not sys.stdin.isatty():
        raise ConfigError(
            f"the run would take about {hours:.1f} h on this CPU; {shorter}, --yes runs it anyway"
        )
    print(f"This would take about {hours:.1f} h on this CPU ({shorter}).", file=sys.stderr)
    return input("Start it? [y/N] ").strip().lower() in ("y", "yes")
