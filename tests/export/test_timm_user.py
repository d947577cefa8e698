"""What a timm user does with an export, beyond loading it; on a backbone whose last feature maps are widened, too."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import group_parameters, save_for_hf
from timm.optim import create_optimizer_v2
from timm.utils.model import reparameterize_model
from torch import nn

from reborn_nas.activations import Reborn
from reborn_nas.export import Trained, export_trained
from tests.export.test_timm_model import CARD, trained

CASES = {
    "convnet5": (
        "convnet5",
        {"features.conv2.act": "reborn", "features.conv5.act": "crelu(compression=none)"},
    ),
    "resnet": (
        "resnet10t",
        {"layer1.0.act1": "reborn", "layer4.0.act2": "reborn(kernel_size=1,compression=none)"},
    ),
    "mobilenet": (
        "mobilenetv3_small_050",
        {"blocks.0.0.bn1.act": "reborn", "act2": "crelu(compression=none)"},
    ),
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet", "mobilenet")]


@pytest.fixture(scope="module", params=["convnet5", *SLOW])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, choices = CASES[request.param]
    target = tmp_path_factory.mktemp("export") / request.param
    return export_trained(Trained(*trained(source, choices), CARD), target)


@pytest.fixture
def x(folder: Path) -> torch.Tensor:
    return load_file(folder / "example.safetensors")["input"]


def make(folder: Path, **more: object) -> nn.Module:
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True, **more).eval()
    return model


def test_heads(folder: Path, x: torch.Tensor) -> None:
    model = make(folder)
    features = model.forward_features(x)
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (3, model.head_hidden_size)
    assert torch.equal(model.forward_head(features), model(x))
    assert features.shape[1] == model.num_features
    assert isinstance(model.get_classifier(), nn.Linear)
    for classes in (7, 0, 3):
        model.reset_classifier(classes)
        assert model(x).shape == (3, classes or model.head_hidden_size)
        fresh = make(folder, num_classes=classes)
        assert fresh(x).shape == (3, classes or model.head_hidden_size)
        assert fresh.num_classes == classes
    torch.testing.assert_close(make(folder, num_classes=0)(x), hidden)


def test_channels(folder: Path, x: torch.Tensor) -> None:
    for channels in (1, 5):
        assert make(folder, in_chans=channels)(torch.randn(2, channels, 32, 32)).shape == (2, 2)


def test_features(folder: Path, x: torch.Tensor) -> None:
    model = make(folder)
    maps = model.forward_intermediates(x, intermediates_only=True)
    final, same = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    extractor = make(folder, features_only=True)
    got = extractor(x)
    assert [m.shape[1] for m in got] == extractor.feature_info.channels()
    assert len(maps) == len(same) >= len(got)
    for form in ("hook", "fx", "getter"):
        found = make(folder, features_only=True, feature_cls=form)(x)
        found = list(found.values()) if isinstance(found, dict) else found
        assert [m.shape for m in found] == [m.shape for m in got], form
    assert len(make(folder, features_only=True, out_indices=(1, 2))(x)) == 2


def test_training_tools(folder: Path, x: torch.Tensor) -> None:
    model = make(folder, drop_rate=0.1).train()
    groups = group_parameters(model, model.group_matcher(coarse=True))
    assert sum(len(names) for names in groups.values()) == len(list(model.named_parameters()))
    model.set_grad_checkpointing(True)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer = create_optimizer_v2(model, "sgd", lr=1e-4, layer_decay=0.7, weight_decay=0.01)
    optimizer.step()
    assert timm.data.resolve_model_data_config(model)["std"] == [0.2, 0.2, 0.2]
    assert torch.equal(copy.deepcopy(model).eval()(x), model.eval()(x))


def test_reparameterized(folder: Path, x: torch.Tensor) -> None:
    model = make(folder)
    fused = reparameterize_model(model)
    assert not any(isinstance(module, Reborn) for module in fused.modules())
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_local_half_of_pushing_to_a_hub(folder: Path, x: torch.Tensor, tmp_path: Path) -> None:
    model = make(folder, num_classes=5)
    stored = json.loads((folder / "config.json").read_text())["model_args"]
    save_for_hf(model, tmp_path, model_args=stored, safe_serialization=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(x), model(x))
