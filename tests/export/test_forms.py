"""Folded exports and the other forms: each computes what the trained network does, at any batch size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from reborn_nas.activations import Reborn
from reborn_nas.activations.split import SplitReborn
from reborn_nas.errors import ExportError
from reborn_nas.export import Trained, export_trained
from tests.export.test_timm_model import CARD, trained

CHOICES = {"features.conv2.act": "reborn", "features.conv3.act": "frelu", "features.conv4.act": "crelu"}


@pytest.fixture(scope="module")
def network() -> Trained:
    return Trained(*trained("convnet5", CHOICES), CARD)


def test_a_folded_export(network: Trained, tmp_path: Path) -> None:
    folder = export_trained(network, tmp_path / "fast", fold=True)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    example = load_file(folder / "example.safetensors")
    with torch.no_grad():
        logits = model(example["input"])
    assert torch.equal(logits, example["folded_logits"])
    torch.testing.assert_close(logits, example["logits"], rtol=1e-4, atol=1e-5)
    n = len(logits)  # those that give the same bits with any number of threads
    assert torch.equal(example["logits"], network.example["logits"][:n])
    kinds = [type(module) for module in model.modules()]
    assert Reborn not in kinds
    assert SplitReborn in kinds
    assert nn.BatchNorm2d not in kinds, "each follows a convolution here"
    assert "Folded" in (folder / "README.md").read_text()
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)(
        example["input"]
    ).shape == (n, 7)
    maps = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()(
        example["input"]
    )
    assert [m.shape[1] for m in maps] == [32, 128, 512]


def test_a_folded_export_does_not_depend_on_what_is_found_foldable(
    network: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reborn_nas.activations.folding as norms

    folder = export_trained(network, tmp_path / "fast", fold=True)
    assert len(json.loads((folder / "config.json").read_text())["model_args"]["folded"]) == 5
    monkeypatch.setattr(norms, "find_pairs", lambda model: pytest.fail("traced anew"))
    timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_a_folded_export_of_a_network_that_is_not_timms(tmp_path: Path) -> None:
    choices = {"features.3.squeeze_activation": "reborn(kernel_size=1)"}
    network = Trained(*trained("torchvision:squeezenet1_1", choices), CARD)
    folder = export_trained(network, tmp_path / "fast", fold=True)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    example = load_file(folder / "example.safetensors")
    with torch.no_grad():
        assert torch.equal(model(example["input"]), example["folded_logits"])
    assert any(isinstance(module, SplitReborn) for module in model.modules())


def test_folded_logits_are_of_images_that_give_the_same_bits_with_any_threads(
    network: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reborn_nas.export import timm_model

    steady = timm_model.steady_logits
    monkeypatch.setattr(timm_model, "steady_logits", lambda model, x: (steady(model, x)[0], len(x) <= 1))
    folder = export_trained(network, tmp_path / "fast", fold=True, forms=("torch-export",))
    example = load_file(folder / "example.safetensors")
    assert {key: len(value) for key, value in example.items()} == {
        "input": 1,
        "logits": 1,
        "folded_logits": 1,
    }
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(example["input"]), example["folded_logits"])
        form = torch.export.load(folder / "model.pt2").module()
        torch.testing.assert_close(form(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fold", [False, True])
def test_torch_forms(network: Trained, fold: bool, tmp_path: Path) -> None:
    folder = export_trained(network, tmp_path / "out", fold=fold, forms=("torch-export", "jit-trace"))
    x = torch.randn(7, 3, 32, 32)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        expected = model(x)
        for form in (
            torch.export.load(folder / "model.pt2").module(),
            torch.jit.load(str(folder / "model.torchscript")),
        ):
            torch.testing.assert_close(form(x), expected, rtol=1e-4, atol=1e-5)
    assert "model.pt2" in (folder / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "choices", "fold"),
    [
        ("convnet5", CHOICES, False),
        ("torchvision:resnet18", {"layer1.0.relu@0": "reborn", "layer4.1.relu@1": "silu"}, True),
    ],
)
def test_onnx(source: str, choices: dict[str, str], fold: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = Trained(*trained(source, choices), CARD)
    folder = export_trained(network, tmp_path / "out", fold=fold, forms=("onnx",))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 32, 32]
    assert isinstance(session.get_inputs()[0].shape[0], str), "the batch is free"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    for size in (1, 3, 9):
        x = torch.randn(size, 3, 32, 32)
        with torch.no_grad():
            expected = model(x).numpy()
        (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_what_cannot_be_written_leaves_nothing(
    network: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reborn_nas.export import forms

    with pytest.raises(ExportError, match="known: onnx, torch-export, jit-trace"):
        export_trained(network, tmp_path / "out", forms=("tflite",))
    monkeypatch.setattr(forms.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"onnx, onnxscript, onnxruntime: pip install 'onnx>="):
        export_trained(network, tmp_path / "out", forms=("onnx",))
    table = {"jit-trace": ("x", forms.FORMS["jit-trace"][1], lambda path: lambda x: torch.zeros(len(x), 2))}
    monkeypatch.setattr(forms, "FORMS", table)
    with pytest.raises(ExportError, match="differs from the network"):
        export_trained(network, tmp_path / "out", forms=("jit-trace",))
    assert not list(tmp_path.iterdir())
