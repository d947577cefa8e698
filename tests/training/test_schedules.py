"""timm's schedules against a loop like its `train.py`, and what is refused of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]

from reborn_nas.errors import ConfigError
from reborn_nas.training import Recipe, learning_rates

STEPS = 5
CASES: list[tuple[str, dict[str, Any], int, int]] = [
    # schedule, arguments, epochs in all, epochs as timm counts them
    ("cosine", {}, 6, 6),
    ("cosine", {"warmup_epochs": 2, "warmup_lr": 1e-4, "min_lr": 1e-3}, 8, 8),
    ("cosine", {"warmup_epochs": 2, "warmup_prefix": True}, 8, 6),
    ("cosine", {"cooldown_epochs": 3, "min_lr": 0.01}, 9, 6),
    ("cosine", {"cycle_limit": 2, "cycle_decay": 0.5}, 8, 4),
    ("cosine", {"k_decay": 2.0, "noise": [0.4, 0.9], "noise_std": 0.1}, 8, 8),
    ("tanh", {"warmup_epochs": 1}, 6, 6),
    ("step", {"decay_epochs": 2, "decay_rate": 0.5}, 7, 7),
    ("multistep", {"decay_milestones": [2, 5], "warmup_epochs": 1}, 7, 7),
    ("poly", {"decay_rate": 2.0, "cooldown_epochs": 1}, 6, 5),
    ("wsd", {"warmup_epochs": 1}, 10, 10),
    ("rsqrt", {"warmup_epochs": 2, "warmup_prefix": True}, 12, 10),
]


@pytest.mark.parametrize("by_step", [False, True])
@pytest.mark.parametrize(("name", "args", "epochs", "counted"), CASES)
def test_equals_timms_loop(name: str, args: dict[str, Any], epochs: int, counted: int, by_step: bool) -> None:
    more = {"step_on_epochs": False} if by_step else {}
    recipe = Recipe(epochs=epochs, schedule=name, schedule_args={**args, **more}, learning_rate=0.4)
    got = learning_rates(recipe, STEPS)
    # its train.py: the rate of the next epoch or update is set at the end of one
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler, total = create_scheduler_v2(
        optimizer, sched=name, num_epochs=counted, updates_per_epoch=STEPS, step_on_epochs=not by_step, **args
    )
    assert total == epochs
    expected, updates = [], 0
    for epoch in range(total):
        for _ in range(STEPS):
            expected.append(optimizer.param_groups[0]["lr"])
            updates += 1
            scheduler.step_update(num_updates=updates)
        scheduler.step(epoch + 1)
    assert got == [float(np.float32(rate)) for rate in expected]
    assert len(set(got)) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"schedule": "plateau"}, "take cosine, step or one_cycle"),
        ({"schedule": "cosine", "schedule_args": {"warmup_epoch": 1}}, "did you mean warmup_epochs"),
        ({"schedule_args": {"min_lr": 0.1}}, "one_cycle takes none, not min_lr"),
        ({"schedule": "cosine", "schedule_args": {"min_lr": "low"}}, "min_lr is a number ≥ 0, not 'low'"),
        ({"schedule": "cosine", "schedule_args": {"min_lr": -1}}, "min_lr is a number ≥ 0, not -1"),
        # with these timm's schedule would never come back
        ({"schedule": "cosine", "schedule_args": {"k_decay": 10**9}}, r"k_decay is a number in \(0, 100\]"),
        (
            {"schedule": "step", "schedule_args": {"noise": 0.1, "noise_pct": 0.0}},
            "noise_pct is a number above 0",
        ),
        (
            {"schedule": "step", "schedule_args": {"noise": 0.1, "noise_std": 1e9}},
            "at least 0.01 of noise_std 1e",
        ),
        ({"schedule": "cosine", "schedule_args": {"cycle_limit": 10**9}}, "adds up to 30 epochs"),
        (
            {"schedule": "multistep", "schedule_args": {"decay_milestones": [5, 2]}},
            "a list of increasing numbers",
        ),
        ({"schedule": "cosine", "schedule_args": {"warmup_epochs": float("nan")}}, "a number ≥ 0, not nan"),
        ({"epochs": 10**9, "schedule": "cosine"}, r"a whole number in \[0, 100,000\]"),
        ({"schedule": "cosine", "schedule_args": {"warmup_epochs": 5}, "epochs": 5}, "leave none of 5"),
        ({"schedule": "step", "schedule_args": {"cooldown_epochs": 2}}, "step has no cooldown"),
        ({"schedule": "cosine", "schedule_args": {"cycle_limit": 3}, "epochs": 10}, "adds up to 10 epochs"),
        ({"schedule": "cosine", "warmup": 0.1}, "warmup_epochs"),
        ({"schedule": "cosine", "schedule_args": [1]}, "a map from names to values"),
        ({"layer_decay": 1.5}, r"in \(0, 1\], or null, not 1.5"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe(**settings)
