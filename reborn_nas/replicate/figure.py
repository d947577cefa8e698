"""Figures 1 and 4: feature maps of two trained rows, side by side."""

from __future__ import annotations

from pathlib import Path

from reborn_nas.replicate.run import Outcome


def draw_figures(outcome: Outcome, images: Path | None = None) -> list[Path]:
    """See the module."""
    return []
