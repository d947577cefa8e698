"""Published weights, read by the libraries' own loaders from filled caches, are where `--pretrained` starts."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

import reborn_nas as rn
from reborn_nas.backbone import build, discover, resolve
from reborn_nas.cli.main import main
from reborn_nas.errors import ConfigError
from reborn_nas.export import Parent
from reborn_nas.export.parent import make_start, on_own_path

REVISION = "0" * 40
OTHERS = {"torchvision:googlenet": {"init_weights": True, "transform_input": True}}


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def publish(name: str, caches: Path) -> nn.Module:
    """Put weights into the library's cache, as a download would; returns the network that has them."""
    torch.manual_seed(1)
    if name.startswith("torchvision:"):
        short = name.partition(":")[2]
        model = settled(torchvision.models.get_model(short, weights=None, **OTHERS.get(name, {})))
        url = torchvision.models.get_model_weights(short)["DEFAULT"].url
        file = caches / "torch" / "hub" / "checkpoints" / url.rsplit("/", 1)[1]
        file.parent.mkdir(parents=True)
        torch.save(model.state_dict(), file)
        return model
    model = settled(timm.create_model(name))
    folder = caches / "hub" / f"models--{model.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    (folder / "snapshots" / REVISION).mkdir(parents=True)
    save_file(model.state_dict(), folder / "snapshots" / REVISION / "model.safetensors")
    return model


def settled(model: nn.Module) -> nn.Module:
    """In eval mode, with norms that are not the initial ones, and convolutions that let an image through."""
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2)
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.2)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return model.eval()(x)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("resnet10t", 0),
        ("mobilenetv3_small_050", 19),  # Hardswish at 19 of 24 sites
        pytest.param("convnext_atto", 12, marks=pytest.mark.slow),  # GELU at all
        ("torchvision:squeezenet1_1", 0),
        ("torchvision:googlenet", 0),  # with its weights torchvision builds another network than without
    ],
)
def test_it_computes_what_the_published_network_does(name: str, kept: int, caches: Path) -> None:
    parent = publish(name, caches)
    spec = resolve(name, input_size=(3, 64, 64), num_classes=1000, stem="original", pretrained=True)
    found = discover(build(spec, device="meta"), spec.input_size)
    wanted = {site.name: rn.Choice("reborn") for site in found.sites if site.admits(rn.Choice("reborn"))}
    architecture, changed = on_own_path(rn.Architecture(spec, wanted), found)
    assert len(changed) == kept
    start = make_start(architecture, Parent(pretrained=True), init="preserve", seed=0, found=found)
    x = torch.randn(2, 3, 64, 64)
    expected = logits(parent, x)
    assert float(expected.std(0).max()) > 1e-3, "the network tells images apart"
    assert float((logits(start.model, x) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    again = rn.apply(build(spec), start.plan)  # as an export is built again: without the library's weights
    again.load_state_dict(start.model.state_dict())
    assert torch.equal(logits(again, x), logits(start.model, x))


@pytest.mark.slow
def test_other_classes_and_channels_from_the_command_to_the_export(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish("mobilenetv3_small_050", caches)
    out = caches / "out"
    arguments = [
        "train", "--architecture", "reborn", "--backbone", "mobilenetv3_small_050", "--stem", "original",
        "--dataset", "digits", "--image-size", "32", "--pretrained", "--epochs", "0", "--seeds", "1", "--device", "cpu",
        "--run", str(caches / "run"), "--out", str(out),
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "the network computes what the parent does" in capsys.readouterr().out
    parent = timm.create_model("mobilenetv3_small_050", pretrained=True, num_classes=10, in_chans=1).eval()
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(x), parent.forward_features(x), rtol=0, atol=1e-6)
        other = timm.create_model("mobilenetv3_small_050", num_classes=10, in_chans=1).eval()
        assert not torch.allclose(other.forward_features(x), parent.forward_features(x), atol=1e-2)


def test_missing_published_weights_are_reported(caches: Path) -> None:
    spec = resolve("resnet10t", input_size=(3, 64, 64), num_classes=1000, stem="original")
    with pytest.raises(
        ConfigError, match=r"resnet10t.*pretrained weights \(they need a network or a filled cache\)"
    ):
        make_start(rn.Architecture(spec, {}), Parent(pretrained=True), init="preserve", seed=0)
