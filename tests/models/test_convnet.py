"""The paper's plain networks: layers and parameters counted by hand, and timm's interface."""

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

import reborn_nas  # noqa: F401  registers the models


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_convnet8_by_hand() -> None:
    widths = [3, 32, 32, 64, 64, 128, 128, 256, 256]
    convolutions = sum(9 * a * b + b for a, b in pairwise(widths))
    linear = (256 * 4) * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10
    model = timm.create_model("convnet8")
    assert count(model) == convolutions + linear
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(nn.Conv2d) == 8
    assert kinds.count(nn.Linear) == 3
    assert nn.BatchNorm2d not in kinds


def test_convnet13_is_vgg16_without_pooling() -> None:
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    by_hand = sum(9 * a * b + 2 * b for a, b in pairwise(widths)) + 512 * 10 + 10
    model = timm.create_model("convnet13")
    assert count(model) == by_hand
    vgg = timm.create_model("vgg16", num_classes=10)
    ours = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert ours == [m.out_channels for m in vgg.features.modules() if isinstance(m, nn.Conv2d)]
    assert not any(isinstance(module, nn.MaxPool2d) for module in model.modules())


def test_convnet5_has_two_to_the_n_plus_4_kernels() -> None:
    model = timm.create_model("convnet5")
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [2 ** (n + 4) for n in range(1, 6)]


def test_half_width_quarters_the_inner_convolutions() -> None:
    full, half = timm.create_model("convnet13"), timm.create_model("convnet13", width=0.5)
    a, b = full.features.conv5.conv.weight.numel(), half.features.conv5.conv.weight.numel()
    assert a == 4 * b


@pytest.mark.parametrize("name", ["convnet5", "convnet8", "convnet13"])
def test_timm_interface(name: str) -> None:
    x = torch.randn(2, 1, 28, 28)
    model = timm.create_model(name, in_chans=1, num_classes=7).eval()
    assert model(x).shape == (2, 7)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.head_hidden_size)
    features = timm.create_model(name, in_chans=1, features_only=True)(x)
    info = timm.create_model(name, in_chans=1, features_only=True).feature_info
    assert [f.shape[1] for f in features] == info.channels()
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert [m.shape for m in maps] == [f.shape for f in features]
    model.reset_classifier(0)
    assert model(x).shape == (2, model.head_hidden_size)
    with pytest.raises(TypeError):
        timm.create_model(name, no_such_argument=1)


def test_reborn_forms_have_reborn_at_every_map() -> None:
    from reborn_nas.activations import Reborn

    blocks = [m for m in timm.create_model("reborn_convnet13").modules() if isinstance(m, Reborn)]
    assert len(blocks) == 13
    added = sum(9 * c * c + 2 * c + 2 * c * c for c in (64, 64, 128, 128, 256, 256, 256) + (512,) * 6)
    assert count(timm.create_model("reborn_convnet13")) - count(timm.create_model("convnet13")) == added


def test_an_architecture_argument_as_json_dict_and_label() -> None:
    import reborn_nas as rn

    chosen = rn.Architecture(
        rn.BackboneSpec("timm:convnet5", input_size=(3, 32, 32), num_classes=10, stem="original"),
        {"features.conv2.act": "gelu"},
    )
    for given in (chosen, chosen.to_dict(), chosen.to_json()):
        model = timm.create_model("reborn_convnet5", architecture=given)
        assert type(model.features.conv2.act).__name__ == "GELU"
        assert type(model.features.conv1.act) is nn.ReLU
    every = timm.create_model("reborn_convnet5", architecture="silu")
    assert all(type(layer.act).__name__ == "SiLU" for layer in every.features)


def test_without_norm_it_starts_by_xavier() -> None:
    """ConvNet-8 (paper, Sec. 4.3): |w| ≤ √(6/(fan in + fan out)), nearly reached; biases 0."""
    convolution = timm.create_model("convnet8").features.conv2.conv  # (32, 32, 3, 3)
    bound = (6 / (9 * (32 + 32))) ** 0.5
    assert 0.98 * bound < float(convolution.weight.detach().abs().max()) <= bound
    assert not convolution.bias.detach().any()
