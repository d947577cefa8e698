"""Widened modules: their new weights, their form, and that nothing else of a module is lost."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from timm.layers import EcaModule, ScaledStdConv2d, SEModule, StdConv2dSame
from torch import nn
from torch.nn import functional as F

from reborn_nas.backbone.layers.steps import Widening
from reborn_nas.backbone.widen.edit import apply_widening
from reborn_nas.backbone.widen.walk import widening
from reborn_nas.errors import ConversionError
from tests.backbone.doubled import WIDENABLE, Over, seq
from tests.backbone.inflight import Doubling, check, found_in, places_of, randomise, runs


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_random_weights_against_two_convolutions(groups: int) -> None:
    """A widened convolution is the sum of two of the same form, one for each half."""
    torch.manual_seed(groups)
    model = seq(nn.Conv2d(8, 16, 3, groups=groups)).eval()
    found = found_in(model)
    made = widening(runs(found), found.sites[0])
    assert isinstance(made, Widening)
    conv = apply_widening(copy.deepcopy(model), made, init="xavier")[2]
    a, b = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    n = 8 // groups
    true, extra = conv.weight[:, :n], conv.weight[:, n:]
    assert torch.equal(true, model[2].weight)
    assert extra.abs().min() > 0
    want = F.conv2d(a, true, model[2].bias, groups=groups) + F.conv2d(b, extra, groups=groups)
    torch.testing.assert_close(conv(torch.cat([a, b], 1)), want)
    assert (conv.in_channels, conv.out_channels, conv.groups) == (16, 16, groups)


def test_depthwise_becomes_one_group_a_channel() -> None:
    model = seq(nn.Conv2d(8, 8, 3, groups=8)).eval()
    found = found_in(model)
    conv = apply_widening(model, widening(runs(found), found.sites[0]))[2]  # type: ignore[arg-type]
    assert conv.weight.shape == (8, 2, 3, 3)
    assert isinstance(conv, nn.Conv2d)
    assert conv.groups == 8


def test_norms_are_initialised_on_the_extra_channels() -> None:
    model = randomise(seq(nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1))).eval()
    old = model[2]
    found = found_in(model)
    new = apply_widening(copy.deepcopy(model), widening(runs(found), found.sites[0]))[2]  # type: ignore[arg-type]
    assert new.num_features == 16
    for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
        assert torch.equal(getattr(new, name)[:8], getattr(old, name))
        assert torch.equal(getattr(new, name)[8:], torch.full((8,), value))


@pytest.mark.parametrize("name", ["identity branch", "identity branch of timm"])
def test_an_identity_branch_normalises_only_the_original_channels(name: str) -> None:
    model = randomise(WIDENABLE[name]()).train()
    found, a, b = found_in(model), torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    want = copy.deepcopy(model.norm)
    norm = apply_widening(copy.deepcopy(model), widening(runs(found), found.sites[0])).norm  # type: ignore[arg-type]
    torch.testing.assert_close(norm(torch.cat([a, b], 1)), want(a))
    for name, buffer in want.named_buffers():
        torch.testing.assert_close(getattr(norm, name), buffer)
    assert norm.weight.shape == (8,)


def test_flattened_columns_lie_together() -> None:
    """The linear layer's new columns stand behind all old ones, in the order of the flattened second half."""
    model = WIDENABLE["flatten to a linear layer"]().eval()
    found = found_in(model)
    linear = apply_widening(copy.deepcopy(model), widening(runs(found), found.sites[0]), init="xavier")[3]  # type: ignore[arg-type]
    a, b = torch.randn(2, 8, 10, 8), torch.randn(2, 8, 10, 8)
    want = model[3](a.flatten(1)) + b.flatten(1) @ linear.weight[:, 640:].T
    torch.testing.assert_close(linear(torch.cat([a, b], 1).flatten(1)), want)


@pytest.mark.parametrize("kind", [ScaledStdConv2d, StdConv2dSame])
@pytest.mark.parametrize("groups", [1, 4])
def test_weight_standardisation_sees_only_the_old_weights(kind: type[nn.Module], groups: int) -> None:
    torch.manual_seed(1)
    model = seq(kind(8, 12, 3, groups=groups)).eval()
    found, x = found_in(model), torch.randn(2, 3, 12, 10)
    check(model, found, list(found.sites[:1]), x)
    wide = apply_widening(copy.deepcopy(model), widening(runs(found), found.sites[0]), init="xavier")  # type: ignore[arg-type]
    a, b = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    n = 8 // groups
    extra = F.conv2d(
        b, wide[2].weight[:, n:], padding=1 if "Same" in kind.__name__ else wide[2].padding, groups=groups
    )
    torch.testing.assert_close(wide[2](torch.cat([a, b], 1)), model[2](a) + extra)


def test_tied_weights_stay_tied() -> None:
    net = Over(lambda n, x: n.a(x) + n.b(x), a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 1))
    net.b.weight = net.a.weight
    found = found_in(net)
    wide = apply_widening(copy.deepcopy(net), widening(runs(found), found.sites[0]))  # type: ignore[arg-type]
    assert wide.a.weight is wide.b.weight
    check(net, found, list(found.sites), torch.randn(2, 3, 12, 10))


def test_gradients_reach_old_and_new_weights() -> None:
    model = seq(SEModule(8, rd_channels=4), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8)).train()
    found = found_in(model)
    wide = apply_widening(model, widening(runs(found), found.sites[0]))  # type: ignore[arg-type]
    with Doubling(places_of(found.eval_trace, [found.sites[0]])):
        wide(torch.randn(4, 3, 12, 10)).square().sum().backward()
    for name, parameter in wide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert wide[4].weight.grad[:, 1].abs().max() > 0


def test_xavier_is_bounded_and_follows_the_generator() -> None:
    model = seq(nn.Conv2d(8, 6, 3)).eval()
    made = widening(runs(found_in(model)), found_in(model).sites[0])
    drawn = [
        apply_widening(
            copy.deepcopy(model),
            made,
            init="xavier",
            generator=torch.Generator().manual_seed(s),  # type: ignore[arg-type]
        )[2].weight
        for s in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    bound = (6 / ((16 + 6) * 9)) ** 0.5
    assert 0.8 * bound < drawn[0][:, 8:].abs().max() <= bound


def test_the_wrong_network_is_refused() -> None:
    made = widening(runs(found_in(seq(nn.Conv2d(8, 6, 3)))), found_in(seq(nn.Conv2d(8, 6, 3))).sites[0])
    assert isinstance(made, Widening)
    with pytest.raises(ConversionError, match="no module '2'"):
        apply_widening(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), made)
    with pytest.raises(ConversionError, match="has 4 channels, but the plan was made for 8"):
        apply_widening(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(4, 6, 3)), made)


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"steps": 3, "channels": {}},
        {"steps": [{}], "channels": {}},
        {"steps": [], "channels": {"a": "b"}},
    ],
)
def test_a_damaged_widening_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(ConversionError, match="damaged"):
        Widening.from_dict(damage)


def test_an_unknown_action_is_refused() -> None:
    model = seq(nn.Conv2d(8, 6, 3))
    made = widening(runs(found_in(model)), found_in(model).sites[0])
    assert isinstance(made, Widening)
    data = made.to_dict()
    data["steps"][0]["action"] = "melt"
    with pytest.raises(ConversionError, match="melt"):
        Widening.from_dict(data)


def test_regrouped_convolutions_copy_pickle_script_and_export() -> None:
    model = seq(nn.Conv2d(8, 8, 3, groups=8), EcaModule(8)).eval()
    found = found_in(model)
    conv = apply_widening(model, widening(runs(found), found.sites[0]))[2]  # type: ignore[arg-type]
    x = torch.randn(2, 16, 6, 6)
    want = conv(x)
    for again in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv)), torch.jit.script(conv)):
        torch.testing.assert_close(again(x), want)
    torch.testing.assert_close(torch.export.export(conv, (x,)).module()(x), want)


@pytest.mark.parametrize(
    "name",
    [
        "identity branch",
        "identity branch of timm",
        "selective kernel",
        "routed experts in groups",
        "depthwise multiplier, same padding",
        "mixed convolution",
        "scaled weight standardisation",
        "weight standardisation",
    ],
)
def test_other_forms_copy_pickle_script_and_export(name: str) -> None:
    model = WIDENABLE[name]().eval()
    found = found_in(model)
    wide = apply_widening(copy.deepcopy(model), widening(runs(found), found.sites[0]))  # type: ignore[arg-type]
    path, part = next(
        (path, part)
        for path, part in wide.named_modules()
        if type(part) is not type(model.get_submodule(path))
    )
    given = (torch.randn(2, 16, 6, 6),)
    if path == "conv":
        given += (torch.rand(2, 4),)
    want = part(*given)
    with torch.no_grad():
        for again in (copy.deepcopy(part), pickle.loads(pickle.dumps(part)), torch.jit.trace(part, given)):
            torch.testing.assert_close(again(*given), want)
        torch.testing.assert_close(torch.export.export(part, given).module()(*given), want)
    torch.jit.script(model.get_submodule(path))  # the original can; so must this
    torch.testing.assert_close(torch.jit.script(part)(*given), want)
