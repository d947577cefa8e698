"""Designs, estimates and verdicts: arrays in, arrays out. No torch, no Optuna, no files."""

from __future__ import annotations

from reborn_nas.analysis.design import (
    ScreenPlan,
    confirmation_design,
    control_design,
    plan_screen,
    screen_design,
    screen_sizes,
    smallest_screen,
)
from reborn_nas.analysis.effects import depth_slope, largest_correlation, site_effects, stage_means
from reborn_nas.analysis.losses import LossBounds, divergence_p_value, loss_bounds, needs_bounds
from reborn_nas.analysis.options import option_counts
from reborn_nas.analysis.power import minimum_detectable_effect
from reborn_nas.analysis.verdicts import VERDICTS, verdicts

__all__ = [
    "VERDICTS",
    "LossBounds",
    "ScreenPlan",
    "confirmation_design",
    "control_design",
    "depth_slope",
    "divergence_p_value",
    "largest_correlation",
    "loss_bounds",
    "minimum_detectable_effect",
    "needs_bounds",
    "option_counts",
    "plan_screen",
    "screen_design",
    "screen_sizes",
    "smallest_screen",
    "site_effects",
    "stage_means",
    "verdicts",
]
