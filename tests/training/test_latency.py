"""Latency: what is measured, where, and that nothing of the model changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reborn_nas.activations import build_activation
from reborn_nas.errors import TrainingError
from reborn_nas.training.measure import latency
from reborn_nas.training.measure.latency import measure_latency


class Slow(nn.Module):
    """Takes 50 ms in its first two passes and 4 ms, one 9 ms, in each later one, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.passes, self.now = 0, 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        self.passes += 1
        self.now += 0.05 if self.passes <= 2 else 0.009 if self.passes == 4 else 0.004
        return x * self.weight


def test_the_median_after_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Slow().train()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: model.now)
    found = measure_latency(model, (3, 4, 4), batch_size=2, folded=False, warm_up=2, repeats=5)
    assert model.passes == 7
    assert found.seconds == pytest.approx(0.004)
    assert (found.low, found.high) == (pytest.approx(0.004), pytest.approx(0.0065))  # (4 + 9) / 2
    assert (found.batch_size, found.repeats, found.device, found.precision) == (2, 5, "cpu", "fp32")
    assert model.training


def test_the_folded_form_is_measured_and_the_model_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), build_activation("reborn", channels=8)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert measure_latency(model, (3, 8, 8), repeats=2, warm_up=1).seconds > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(TrainingError, match="does not run on a batch"):
        measure_latency(nn.Sequential(nn.Conv2d(3, 8, 3)), (4, 8, 8), repeats=1)
    with pytest.raises(TrainingError, match="at least 1"):
        measure_latency(nn.Sequential(nn.Conv2d(3, 8, 3)), (3, 8, 8), batch_size=0)
