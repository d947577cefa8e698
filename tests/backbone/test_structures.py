"""Networks of other kinds than image classifiers, converted and held against substitution in flight."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reborn_nas as rn
from reborn_nas.activations import Reborn
from reborn_nas.backbone.convert import plan
from reborn_nas.backbone.cost import count, predict
from reborn_nas.backbone.find import discover
from reborn_nas.backbone.trace.inputs import arguments
from reborn_nas.backbone.trace.replica import replicate, tensors_in
from tests import checks
from tests.backbone import structures

EVERY = pytest.mark.parametrize("name", structures.NETWORKS)
# sums, shared weights, an LSTM, outputs
UNDOUBLED = {"Tcn": 3, "Crnn": 2, "Pyramid": 2, "Records": 2, "Separable3d": 1, "Refinement": 1}


def made(name: str) -> tuple[nn.Module, Any]:
    """The network with example inputs."""
    torch.manual_seed(0)
    make, inputs, _ = structures.NETWORKS[name]
    return make(), inputs()


@EVERY
def test_sites_lie_on_the_maps_of_their_dimension(name: str) -> None:
    model, inputs = made(name)
    sites = rn.find_sites(model, example_inputs=inputs)
    assert set(structures.NETWORKS[name][2].split()) == {site.layout for site in sites}
    for site in sites:
        assert site.shape[-1 if site.layout in ("nlc", "ndhwc") else 0] == site.channels
        if site.fault is not None:  # one call of a helper that runs twice in a forward
            assert (name, "several times" in site.fault) == ("Siamese", True)
            continue
        assert site.admits("reborn") == (site.layout != "nlc")
        if site.layout == "nlc":
            assert "3-D tokens" in str(site.refusal("reborn"))


@EVERY
def test_converted_it_trains_and_keeps_its_structure_and_its_cost_is_known(name: str) -> None:
    model, inputs = made(name)
    found = discover(model, example_inputs=inputs)
    chosen = checks.architecture({site.name: "reborn" for site in found.sites if site.admits("reborn")})
    steps = plan(model, chosen, discovery=found)
    new = rn.apply(model, steps, seed=1)
    assert sum(isinstance(part, Reborn) for part in new.modules()) == len(chosen.choices)
    assert predict(model, chosen, discovery=found) == count(new, example_inputs=inputs)
    checks.training_step(model, new, inputs)
    checks.copies(model, replicate(model, "meta"), steps, new, inputs)
    args, kwargs = arguments(inputs)
    before, after = model.eval()(*args, **kwargs), new.eval()(*args, **kwargs)
    assert type(before) is type(after)
    assert [each.shape for each in tensors_in(before)] == [each.shape for each in tensors_in(after)]
    if name == "Records":
        assert dataclasses.is_dataclass(after)
        assert len(after.features) == 2
    if name == "Pyramid":
        assert isinstance(after, OrderedDict)
        assert list(after) == ["p2", "p3"]


@EVERY
def test_its_numbers_are_those_of_substitution_in_flight(name: str) -> None:
    model, inputs = made(name)
    found = discover(model, example_inputs=inputs)
    checks.randomise(model, inputs)
    own = checks.outputs(model, inputs)
    checks.identity(model, found, inputs, own)
    checks.in_flight(model, found, inputs, own)
    assert checks.widened(model, found, inputs, own) == len(found.sites) - UNDOUBLED.get(name, 0)


class Clip(nn.Module):
    """Frames by themselves, then time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.frame, self.act, self.time = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv3d(4, 2, 1)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        frames = self.act(self.frame(x.flatten(0, 1)))
        if self.dim == 0:
            return self.time(frames.unflatten(0, x.shape[:2]).transpose(1, 2))
        return self.time(frames.unflatten(1, (2, 2)).flatten(1, 2).unsqueeze(2))


def test_channels_double_through_an_unflattened_batch_and_not_through_groups() -> None:
    inputs = structures.drawn(2, 5, 3, 4, 4)
    model = Clip(0)
    found = discover(model, example_inputs=inputs)
    own = checks.outputs(model, inputs)
    assert checks.widened(model, found, inputs, own) == 1
    site = rn.find_sites(Clip(1), example_inputs=inputs)[0]
    assert "divides the channels into groups" in str(site.refusal("crelu(compression=none)"))


def test_macs_of_signals_and_volumes_by_hand() -> None:
    line = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose1d(4, 3, 2, 2))
    # 16 samples: 4·2·3 a sample, then 4·3·2 for each sample that is read
    assert count(line, (2, 16)).macs == 16 * 24 + 16 * 24
    assert count(line, (2, 16)).params == 24 + 4 + 24 + 3
    solid = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU())
    found = discover(solid, (1, 2, 3, 5))
    assert found.sites[0].shape == (4, 2, 3, 5)
    assert found.sites[0].layout == "ncdhw"
    chosen = checks.architecture({"1": "reborn(kernel_size=5,deconv=depthwise)"})
    # 30 voxels: 4·27 a voxel; the block 4·125 and 8·4
    assert predict(solid, chosen, discovery=found).macs == 30 * (108 + 500 + 32)


def test_images_in_a_list_and_frames_in_a_batch_are_counted_once_each() -> None:
    model, inputs = made("Separable3d")
    alone = count(model, example_inputs=inputs[:1])
    assert count(model, example_inputs=inputs) == alone
    # 4 frames of 4×4: 6·27 a pixel, time 6·3, then 6·12 twice
    assert alone.macs == 4 * 16 * (162 + 18 + 72 + 72)
