"""What timm is told, in `default_cfgs`, of networks for images of 32×32 pixels."""

from __future__ import annotations

from typing import Any

__all__ = ["small_cfg"]


def small_cfg(**changes: Any) -> dict[str, Any]:
    """A configuration without published weights; `changes` in its place."""
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "first_conv": "features.conv1.conv",
        "classifier": "head.fc",
        "license": "mit",
        **changes,
    }
