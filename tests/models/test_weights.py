"""Checkpoints of other programs: their names, their wrappers, their averages, and what is refused."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from reborn_nas.errors import TrainingError
from reborn_nas.models.weights import load_weights

State = dict[str, Tensor]


def network(seed: int, channels: int = 3, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        return nn.ModuleDict({"body": body, "fc": nn.Linear(6, classes)})


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def averaged(state: State) -> State:
    """Another state, to be told from the first."""
    return {name: value / 2 if value.is_floating_point() else value for name, value in state.items()}


def loaded(content: Any, file: Path, **own: int) -> tuple[State, list[str]]:
    torch.save(content, file)
    model = network(9, **own)
    notes = load_weights(model, file, ("fc",))
    return model.state_dict(), notes


def same(one: State, other: State) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [
        (lambda own, mean: own, "own"),
        (lambda own, mean: {"state_dict": under("model.", own), "hyper_parameters": {"lr": 1}}, "own"),
        (lambda own, mean: under("module.", own), "own"),
        (lambda own, mean: {"model_state_dict": under("module._orig_mod.", own)}, "own"),
        (lambda own, mean: {"model": None, "weights": "path", "state_dict": own}, "own"),
        (lambda own, mean: {"state_dict": own, "state_dict_ema": mean, "args": Namespace(lr=1)}, "mean"),
        (lambda own, mean: {"model": own, "model_ema": under("module.", mean)}, "mean"),
        (lambda own, mean: {"model": own, "ema": mean}, "mean"),
        (lambda own, mean: {"model": own, "ema_model_state_dict": mean}, "mean"),
        (lambda own, mean: {"state_dict": under("model.", own) | under("ema_model.module.", mean)}, "mean"),
        (lambda own, mean: under("schema.model.", own), "own"),
    ],
)  # fmt: skip
def test_the_weights_are_found(wrap: Callable[[State, State], Any], taken: str, tmp_path: Path) -> None:
    own = network(0).state_dict()
    mean = averaged(own)
    got, notes = loaded(wrap(own, mean), tmp_path / "it.pth")
    assert same(got, own if taken == "own" else mean)
    assert any("averaged weights of the checkpoint are taken" in note for note in notes) == (taken == "mean")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    own = network(0).state_dict()
    _, notes = loaded(under("net.", own) | {"criterion.weight": torch.ones(4)}, tmp_path / "it.ckpt")
    assert notes == ["not loaded from the checkpoint, since they are outside of net.*: criterion.weight"]
    got, notes = loaded(AveragedModel(network(0)).state_dict(), tmp_path / "swa.pth")
    assert same(got, own)
    assert any("n_averaged" in note for note in notes)


def test_other_channels_and_other_classes(tmp_path: Path) -> None:
    own = network(0, classes=7).state_dict()
    got, notes = loaded(own, tmp_path / "it.pth", channels=1)
    torch.testing.assert_close(got["body.0.weight"], own["body.0.weight"].sum(1, keepdim=True))
    assert same({key: own[key] for key in own if key.startswith("body.1")}, got)
    assert torch.equal(got["fc.weight"], network(9, channels=1).state_dict()["fc.weight"])
    text = "; ".join(notes)
    assert "summed over its 3, as timm does" in text
    assert (
        "the classifier keeps its initial weights, since the parent's has other classes: fc.bias, fc.weight"
        in text
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors, so no weights"),
        ({"state_dict": {}}, "holds no tensors in state_dict, so no weights"),
        ([1, 2], "holds list, not a state dict"),
        (network(0), r"it holds torch\S*, not only tensors\); safetensors"),
        ({**network(0).state_dict(), "extra": torch.ones(1)}, "has extra, which the backbone has not"),
        ({**network(0).state_dict(), "body.1.running_mean": torch.full((6,), float("nan"))}, "not finite, in body.1"),
    ],
)  # fmt: skip
def test_what_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        loaded(content, tmp_path / "it.pth")
    assert "\x1b" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_what_is_no_file_of_torch_names_the_error(tmp_path: Path) -> None:
    (tmp_path / "it.pth").write_bytes(b"hello")
    with pytest.raises(TrainingError, match=r"cannot be read as weights \(\w+: "):
        load_weights(network(0), tmp_path / "it.pth", ("fc",))
