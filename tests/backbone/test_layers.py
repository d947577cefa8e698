"""A third-party layer that widened channels cannot pass passes them once it is registered, in one place."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reborn_nas.architecture import Architecture, Choice
from reborn_nas.backbone import Plan, apply, convert, discover, plan
from reborn_nas.backbone.layers import Layer, layer_of, register, registry
from reborn_nas.backbone.layers.convolutions import index_buffer, regroup
from reborn_nas.backbone.layers.registry import Outcome, Scene
from reborn_nas.backbone.layers.steps import ACTIONS, Action, WidenStep
from reborn_nas.errors import ConversionError

SIZE = (3, 12, 12)
DOUBLED = "crelu(compression=none)"


class CentredConv2d(nn.Conv2d):
    """A convolution in groups whose filters have mean zero: the weight that it uses is computed, not stored."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class WideCentredConv2d(CentredConv2d):
    """The same after doubled channels: only the weights of the old inputs are centred."""

    order: Tensor
    true: int

    def forward(self, x: Tensor) -> Tensor:
        kept = self.weight[:, : self.true]
        weight = torch.cat([kept - kept.mean(dim=(1, 2, 3), keepdim=True), self.weight[:, self.true :]], 1)
        x = regroup(x, self.groups, 1, self.order)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class CentredLayer(Layer):
    """`centred`: reads extra channels, and centres the weights of the true ones."""

    classes = (CentredConv2d,)
    actions: Mapping[str, Action] = {"centred": Action("columns", ("in_channels",), reads=True, uses="layer")}

    def plan(self, scene: Scene) -> Outcome | None:
        if scene.op.name != "conv2d":
            return None
        _, wide = scene.subject()
        return scene.narrow(scene.form("centred", "weight", wide.channels, int(scene.arg(6, "groups", 1))))

    def apply(self, module: nn.Module, step: WidenStep) -> None:
        places = step.channels.grouped(step.groups)
        module.__class__ = WideCentredConv2d
        index_buffer(module, "order", [place for group in places for place in group])
        module.true = step.channels.size // step.groups  # type: ignore[assignment]


class ShiftedGroupNorm(nn.GroupNorm):
    """A group norm with a channel parameter; the statistics of a group mix its channels."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels)
        self.shift = nn.Parameter(torch.linspace(-1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias) + self.shift.view(1, -1, 1, 1)


class ShiftedLayer(Layer):
    """`shifted`: the extra channels are normalised in as many separate groups."""

    classes = (ShiftedGroupNorm,)
    actions: Mapping[str, Action] = {"shifted": Action("copies", ("num_channels",))}

    def plan(self, scene: Scene) -> Outcome | None:
        if scene.op.name != "group_norm":
            return None
        _, wide = scene.subject()
        tensors = (scene.tensor(2, "weight"), scene.tensor(3, "bias"))
        return Outcome((wide,), (scene.step("shifted", tensors, 0, wide.channels),))

    def apply(self, module: nn.Module, step: WidenStep) -> None:
        module.num_groups = int(module.num_groups) * step.channels.width // step.channels.size  # type: ignore[arg-type, assignment]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.norm = ShiftedGroupNorm(2, 8)
        self.mix = CentredConv2d(8, 12, 3, groups=4, padding=1)
        self.last = nn.ReLU()
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.norm(self.act(self.stem(x))))
        return self.head(self.last(x).mean((2, 3)))


@pytest.fixture
def registered() -> Iterator[None]:
    tables = (registry._LAYERS, registry._OF_ACTION, ACTIONS)
    before = [dict(table) for table in tables]  # type: ignore[call-overload]
    register(CentredLayer())
    register(ShiftedLayer())
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
    registry._FOUND.clear()


def built() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def test_an_unknown_layer_is_refused_with_its_place() -> None:
    site = discover(built(), SIZE).sites[0]
    assert "'norm'" in (site.refusal(DOUBLED) or "")
    assert layer_of(CentredConv2d) is layer_of(None)


def test_a_registered_layer_passes_widened_channels(registered: None) -> None:
    model, x = built(), torch.randn(2, *SIZE)
    new = convert(model, {"act": DOUBLED}, SIZE, init="preserve")
    mix = new.get_submodule("mix")
    assert isinstance(mix, WideCentredConv2d)
    assert mix.weight.shape == (12, 4, 3, 3)  # two inputs of each group become four
    assert new.get_submodule("norm").weight.shape == new.get_submodule("norm").shift.shape == (16,)  # type: ignore[union-attr]
    for mode in (False, True):
        assert torch.allclose(model.train(mode)(x), new.train(mode)(x), atol=1e-6)
    new(x).sum().backward()
    reading = mix.weight.grad
    assert reading is not None
    assert bool(reading[:, 2:].abs().sum() > 0)
    drawn = convert(model, {"act": DOUBLED}, SIZE, init="xavier", seed=1)
    assert not torch.allclose(model(x), drawn(x), atol=1e-3)


def test_the_plan_of_a_registered_layer_is_json(registered: None) -> None:
    model = built()
    wanted = Architecture("timm:unnamed", {"act": Choice("crelu", compression="none")})
    steps = Plan.from_json(plan(model, wanted, SIZE, init="preserve").to_json())
    assert {step.action for step in steps.widening.steps} == {"centred", "shifted", "copy"}  # type: ignore[union-attr]
    x = torch.randn(2, *SIZE)
    new = apply(model, steps).eval()
    assert torch.allclose(model.eval()(x), copy.deepcopy(new)(x), atol=1e-6)


def test_what_is_registered_twice_is_refused(registered: None) -> None:
    with pytest.raises(ConversionError, match="'CentredConv2d', 'centred'"):
        register(CentredLayer())
    other = type("Other", (Layer,), {"actions": {"consume": Action()}})
    with pytest.raises(ConversionError, match="'consume'"):
        register(other())


def test_a_plan_with_an_unregistered_action_is_refused() -> None:
    data = WidenStep("consume", "mix", ("weight",), 1, 1, registry.ChannelMap.identity(4)).to_dict()
    with pytest.raises(
        ConversionError, match=r"one of consume, .*'centred'; a layer of your own must be registered"
    ):
        WidenStep.from_dict({**data, "action": "centred"})
