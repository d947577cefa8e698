"""The arithmetic of the comparison of short and full trainings, and that a warm start keeps the parent's function."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reborn_nas.backbone import build, resolve
from reborn_nas.data import load_dataset
from tests.benchmarks import fidelity


def test_agreement_by_hand() -> None:
    full = np.array([[1.0, 3.0], [3.0, 3.0], [4.0, 6.0], [7.0, 7.0]])  # means 2, 3, 5, 7
    short = full[[1, 0, 2, 3]]  # one of six pairs the other way round
    rows = fidelity.agreement(np.stack([full, short, -full]))
    assert [(row["between"], row["and"]) for row in rows[:3]] == [
        ("full scratch", "short scratch"),
        ("full scratch", "short warm"),
        ("short scratch", "short warm"),
    ]
    assert [row["tau"] for row in rows[:3]] == [
        pytest.approx(4 / 6, abs=1e-3),
        -1.0,
        pytest.approx(-4 / 6, abs=1e-3),
    ]
    # seeds of full: 1 3 4 7 against 3 3 6 7: five pairs agree, one is tied in the second: 5 / √(6 · 5)
    assert rows[3]["tau"] == pytest.approx(5 / np.sqrt(30), abs=1e-3)
    assert all(row["ci_low"] <= row["tau"] <= row["ci_high"] for row in rows)


def test_a_warm_start_is_better_from_the_first_epoch() -> None:
    images = load_dataset("digits")
    spec = resolve("convnet5", input_size=images.input_size, num_classes=10)
    _, _, trained = fidelity.train_once(spec, {}, images, epochs=4, seed=7)
    parent = {name: value.detach().clone() for name, value in trained.state_dict().items()}
    assert list(parent) == list(build(spec, device="meta").state_dict())
    first = next(iter(parent.values())).clone()
    cold, seconds, _ = fidelity.train_once(spec, {"features.conv1.act": "crelu"}, images, epochs=1, seed=0)
    warm, _, _ = fidelity.train_once(
        spec, {"features.conv1.act": "crelu"}, images, epochs=1, seed=0, parent=parent
    )
    assert warm > cold + 0.02
    assert seconds > 0
    assert torch.equal(first, next(iter(parent.values())))
