"""An architecture without a study: `export(architecture, out, model=…)`."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import reborn_nas as rn
from reborn_nas.errors import ExportError

SIZE = (3, 32, 32)
CHOICES = {"features.conv2.act": "reborn", "features.conv4.act": "crelu"}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return rn.convert(timm.create_model("convnet5", width=0.0625), CHOICES, SIZE)


def test_a_network_of_ones_own_training_loop(tmp_path: Path) -> None:
    model = network()
    model(torch.randn(8, *SIZE))
    spec = rn.BackboneSpec("convnet5", arguments={"width": 0.0625})
    folder = rn.export(
        rn.Architecture(spec, CHOICES), tmp_path / "out", model=model, classes=list("abcdefghij")
    )
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(3, *SIZE)
    assert model.training, "the caller's network is left alone"
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))
    assert loaded.pretrained_cfg["label_names"] == list("abcdefghij")
    assert "Not measured" in (folder / "README.md").read_text()


def test_without_a_network_the_weights_are_random_and_the_card_says_so(tmp_path: Path) -> None:
    architecture = rn.Architecture(rn.BackboneSpec("convnet5", arguments={"width": 0.0625}), CHOICES)
    folder = rn.export(architecture, tmp_path / "out", input_size=(1, 28, 28), classes=["no", "yes"])
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 2)
    assert "has not been trained" in (folder / "README.md").read_text()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="with_backbone"):
        rn.export(rn.Architecture("own:module", CHOICES), tmp_path / "out", model=network())
    with pytest.raises(ExportError, match="do not fit"):
        rn.export(rn.Architecture("convnet5", CHOICES), tmp_path / "out", model=network())
    with pytest.raises(ExportError, match="with an Architecture"):
        rn.export(tmp_path, tmp_path / "out", model=network())
    assert not list(tmp_path.iterdir())


FACTORY = """
from torch import nn


class Segments(nn.Sequential):
    def __init__(self, num_classes=3):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, num_classes, 1))


class Detects(Segments):
    def forward(self, x):
        return {"heat": super().forward(x)}
"""


@pytest.mark.parametrize(("name", "returns"), [("Segments", r"shape \(8, 3, 14, 14\)"), ("Detects", "dict")])
def test_what_is_no_classifier_is_refused_with_another_way(
    name: str, returns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match=f"{name} returns .*{returns}.*Plan.from_json"):
        rn.export(rn.Architecture(f"file.py:{name}", {"1": "reborn"}), "out", input_size=(3, 16, 16))
    assert not (tmp_path / "out").exists()


def test_a_timm_network_of_a_three_line_objective_needs_no_name(tmp_path: Path) -> None:
    """timm notes in what it builds what it was called; that is enough where the arguments were the default ones."""
    model = timm.create_model("resnet10t", num_classes=4)
    site = rn.find_sites(model, input_size=(3, 32, 32))[0].name
    new = rn.convert(model, {site: "reborn"}, input_size=(3, 32, 32)).eval()
    architecture = rn.Architecture("own:module", {site: rn.Choice("reborn")})
    folder = rn.export(architecture, tmp_path / "out", model=new)
    images = torch.randn(2, 3, 64, 64)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images), new(images))


@pytest.mark.parametrize("name", ["my#model", "what?", "two\nlines"])
def test_a_folder_that_timm_could_not_load_from_is_refused(name: str, tmp_path: Path) -> None:
    architecture = rn.Architecture(rn.BackboneSpec("convnet5", arguments={"width": 0.0625}), CHOICES)
    with pytest.raises(ExportError, match="timm could not load"):
        rn.export(architecture, tmp_path / name, input_size=(1, 28, 28))
    assert not list(tmp_path.iterdir())
