"""Designs, estimates and verdicts: arrays in, arrays out. No torch, no Optuna, no files."""

from __future__ import annotations

from reborn_nas.analysis.designs.design import (
    ScreenPlan,
    confirmation_design,
    control_design,
    plan_confirmation,
    plan_control,
    plan_screen,
    screen_design,
    screen_sizes,
    smallest_screen,
)
from reborn_nas.analysis.designs.options import option_counts
from reborn_nas.analysis.effects.effects import (
    LossBounds,
    depth_slope,
    loss_bounds,
    site_effects,
    stage_means,
)
from reborn_nas.analysis.effects.power import minimum_detectable_effect
from reborn_nas.analysis.effects.screening import largest_correlation
from reborn_nas.analysis.effects.verdicts import VERDICTS, verdicts
from reborn_nas.analysis.phases.compare import (
    Comparison,
    Curvature,
    candidate_against_parent,
    curvature,
    pooled_sigma,
)
from reborn_nas.analysis.phases.confirm import arm_effects, confirmation_effects, control_effects
from reborn_nas.analysis.phases.pooled import best_levels, pooled_effects

__all__ = [
    "VERDICTS",
    "Comparison",
    "Curvature",
    "LossBounds",
    "ScreenPlan",
    "arm_effects",
    "best_levels",
    "candidate_against_parent",
    "confirmation_design",
    "confirmation_effects",
    "control_design",
    "control_effects",
    "curvature",
    "depth_slope",
    "largest_correlation",
    "loss_bounds",
    "minimum_detectable_effect",
    "option_counts",
    "plan_confirmation",
    "plan_control",
    "plan_screen",
    "pooled_effects",
    "pooled_sigma",
    "screen_design",
    "screen_sizes",
    "smallest_screen",
    "site_effects",
    "stage_means",
    "verdicts",
]
