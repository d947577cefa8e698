"""Maps made again in the backward pass leave the same gradients and the same running statistics."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

import reborn_nas as rn
from reborn_nas.errors import TrainingError
from reborn_nas.training.step.recompute import recompute_activations


def stepped(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state after three steps of plain gradient descent."""
    model.train()
    for seed in range(3):
        torch.manual_seed(seed)
        model.zero_grad()
        model(torch.randn(4, 3, 32, 32)).square().sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-3 * parameter.grad  # type: ignore[operator]
    return model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("choice", ["original", "reborn"])
@pytest.mark.parametrize("name", ["resnet18", pytest.param("efficientnet_b0", marks=pytest.mark.slow)])
def test_the_same_state_to_the_bit(name: str, choice: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=10)
    if choice != "original":
        plain = rn.convert(plain, choice, input_size=(3, 32, 32))
    twin, others = copy.deepcopy(plain), copy.deepcopy(plain)
    recompute_activations(twin)
    others.set_grad_checkpointing(True)
    expected = stepped(plain)
    assert same(stepped(twin), expected)
    assert not same(stepped(others), expected), "checkpointing alone counts each batch twice"


def test_a_network_that_has_no_way() -> None:
    with pytest.raises(TrainingError, match="no activation checkpointing"):
        recompute_activations(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
