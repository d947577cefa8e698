"""The rule that tells a gate from a site, case by case; each verdict follows from the rule by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.backbone.find import find_sites, non_sites
from tests.backbone import networks


class Case(nn.Module):
    """A convolution, then `flow(self, x)` with one `self.act`."""

    def __init__(self, flow: str) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1)
        self.narrow = nn.Conv2d(8, 1, 1)
        self.flow = getattr(self, flow)

    def forward(self, x: Tensor) -> Tensor:
        return self.flow(self.conv(x))

    def squeeze(self, x: Tensor) -> Tensor:
        return x * self.fc(self.act(x.mean((2, 3), keepdim=True))).sigmoid()

    def squeeze_unsquashed(self, x: Tensor) -> Tensor:
        return x * self.fc(self.act(x.mean((2, 3), keepdim=True)))

    def squeeze_added(self, x: Tensor) -> Tensor:
        return x + self.fc(self.act(x.mean((2, 3), keepdim=True)))

    def squeeze_expanded(self, x: Tensor) -> Tensor:
        return x * self.fc(self.act(x.mean((2, 3), keepdim=True))).expand_as(x)

    def handmade_hardsigmoid(self, x: Tensor) -> Tensor:
        return x * F.relu6(self.fc(self.act(x.mean((2, 3), keepdim=True))) + 3) / 6

    def full_attention(self, x: Tensor) -> Tensor:
        return x * self.fc(self.act(x)).sigmoid()

    def spatial(self, x: Tensor) -> Tensor:
        return x * self.narrow(self.act(x)).sigmoid()

    def softmax_weights(self, x: Tensor) -> Tensor:
        weights = self.fc(self.act(x.mean((2, 3), keepdim=True))).softmax(1)
        return x * weights

    def plain(self, x: Tensor) -> Tensor:
        return self.fc(self.act(x))

    def residual(self, x: Tensor) -> Tensor:
        return x + self.fc(self.act(x))

    def gated_by_itself(self, x: Tensor) -> Tensor:
        y = self.act(x)
        return y * self.fc(y.mean((2, 3), keepdim=True)).sigmoid()

    def gated_by_another(self, x: Tensor) -> Tensor:
        return self.act(x) * self.fc(x.mean((2, 3), keepdim=True)).sigmoid()

    def star(self, x: Tensor) -> Tensor:
        return self.act(x) * self.fc(x)

    def concatenated(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.act(x)], 1)

    def head(self, x: Tensor) -> Tensor:
        return self.fc(self.act(x.mean((2, 3), keepdim=True))).flatten(1)

    def gate_and_output(self, x: Tensor) -> Tensor:
        gate = self.act(x.mean((2, 3), keepdim=True))
        return torch.cat([(x * gate).flatten(1), gate.flatten(1)], 1)

    def squashed_twice(self, x: Tensor) -> Tensor:
        y = self.act(x)
        return self.fc(y).tanh() * self.narrow(y).sigmoid()  # each operand descends from it

    def pointwise_use(self, x: Tensor) -> Tensor:
        return self.act(x) * 2 + 1

    def chosen_probabilities(self, x: Tensor) -> Tensor:
        """As a mask head returns the mask of the class that another branch found."""
        classes = x.mean((2, 3)).argmax(1)
        return self.fc(self.act(x)).sigmoid()[torch.arange(len(x), device=x.device), classes]

    def ranked_and_used(self, x: Tensor) -> Tensor:
        y = self.act(x)
        return y.amax((2, 3)) * (y > 1).float().mean((2, 3))

    def overlaps(self, x: Tensor) -> Tensor:
        """As boxes are matched: what the activation gives is compared, and chooses what is taken."""
        best, index = (self.act(x) / 2).flatten(2).max(2)
        return torch.where(best > 0.5, x.flatten(2).gather(2, index[..., None])[..., 0], x.mean((2, 3)))


GATES = ["squeeze", "squeeze_unsquashed", "squeeze_added", "squeeze_expanded", "handmade_hardsigmoid"]
GATES += ["full_attention", "spatial", "softmax_weights"]
SITES = ["plain", "residual", "gated_by_itself", "gated_by_another", "star", "concatenated", "head"]
SITES += ["gate_and_output", "pointwise_use", "squashed_twice", "chosen_probabilities", "ranked_and_used"]


@pytest.mark.parametrize("flow", GATES)
def test_a_gate_is_no_site(flow: str) -> None:
    model = Case(flow)
    assert "act" not in [site.name for site in find_sites(model, (3, 8, 8))]
    assert "gate" in {other.name: other.reason for other in non_sites(model, (3, 8, 8))}["act"]


@pytest.mark.parametrize("flow", SITES)
def test_a_feature_activation_is_a_site(flow: str) -> None:
    model = Case(flow)
    assert [site.name for site in find_sites(model, (3, 8, 8))] == ["act"]
    assert "act" not in [other.name for other in non_sites(model, (3, 8, 8))]


def test_what_is_only_compared_is_no_site() -> None:
    assert find_sites(Case("overlaps"), (3, 8, 8)) == ()
    assert [
        (other.name, "only compared" in other.reason) for other in non_sites(Case("overlaps"), (3, 8, 8))
    ] == [("act", True)]


def test_squashing_functions_are_named_with_their_reason() -> None:
    others = {other.name: other for other in non_sites(networks.Gated(), (3, 8, 8))}
    assert set(others) == {"gate_act", "sigmoid@0", "sigmoid@1"}
    assert "never as a site" in others["sigmoid@0"].reason
    assert others["gate_act"].shape == (2, 1, 1)


def test_interiors_of_spatial_attention_are_off() -> None:
    class SelectiveKernel(nn.Sequential):
        pass

    model = nn.Sequential(SelectiveKernel(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.ReLU())
    assert [site.name for site in find_sites(model, (3, 8, 8))] == ["1"]
    assert "selective kernel" in non_sites(model, (3, 8, 8))[0].reason


def test_an_activation_of_weights_is_neither() -> None:
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(F.conv2d(x, F.relu(self.weight)))

    sites = find_sites(Weights(), (3, 8, 8))
    assert [(site.name, site.shape) for site in sites] == [("relu@1", (4, 8, 8))]  # the inner call ends first
