"""An export is an ordinary timm model: fresh processes reproduce the trained network's own logits bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

import reborn_nas as rn
from reborn_nas.backbone import apply, build, plan, resolve
from reborn_nas.errors import ConfigError, ExportError
from reborn_nas.export import Accuracy, Card, Trained, export_trained

OWN = """
from torch import nn
from torch.nn import functional as F

class Own(nn.Module):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__()
        self.a = nn.Conv2d(in_chans, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.fc(x.mean((2, 3)))

def make(num_classes=10, in_chans=3):
    return Own(num_classes, in_chans)
"""

Tensors = dict[str, Tensor]
CARD = Card(
    "my <model>", "digits | [x](y)", ["a", "b"], (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), [Accuracy("test", 90, 100)]
)


def trained(source: str, choices: dict[str, str]) -> tuple[Tensors, rn.Architecture, Tensors]:
    """Weights, architecture and example of a network whose running statistics are not the initial ones."""
    spec = resolve(source, input_size=(3, 32, 32), num_classes=2)
    architecture = rn.Architecture(spec, choices)
    torch.manual_seed(3)
    model = build(spec)
    model = apply(model, plan(model, architecture, spec.input_size))
    for _ in range(2):
        model(torch.randn(4, 3, 32, 32))
    model.eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        logits = model(x)
    return dict(model.state_dict()), architecture, {"input": x, "logits": logits}


def fresh(folder: Path, extra: str = "") -> str:
    code = (
        "import sys, torch, timm, reborn_nas\nfrom safetensors.torch import load_file\n"
        f"m = timm.create_model('local-dir:{folder}', pretrained=True{extra}).eval()\n"
        f"e = load_file({str(folder / 'example.safetensors')!r})\n"
        "with torch.no_grad(): print(torch.equal(m(e['input']), e['logits']))\n"
        "print(m.num_classes, m.num_features, tuple(m.forward_features(e['input']).shape)[:2])\n"
        "m.reset_classifier(5); print(tuple(m(e['input']).shape))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    ("source", "choices"),
    [
        ("convnet5", {"features.conv2.act": "reborn", "features.conv4.act": "crelu"}),
        ("resnet18", {"layer1.0.act1": "reborn(compression=none)", "layer2.0.act2": "reborn(kernel_size=1)"}),
        ("torchvision:squeezenet1_1", {"features.3.squeeze_activation": "reborn(kernel_size=1)"}),
        ("torchvision:resnet18", {"layer1.0.relu@0": "reborn(kernel_size=1)", "layer4.1.relu@1": "silu"}),
    ],
)
def test_a_fresh_process_reproduces_the_trained_logits(
    source: str, choices: dict[str, str], tmp_path: Path
) -> None:
    weights, architecture, example = trained(source, choices)
    folder = export_trained(Trained(weights, architecture, example, CARD), tmp_path / "out")
    said = fresh(folder).splitlines()
    assert said[0] == "True"
    assert said[1].startswith("2 ")
    assert said[2] == "(3, 5)"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "example.safetensors", "model.safetensors",
    ]  # fmt: skip


def test_without_pretrained_the_weights_are_random(tmp_path: Path) -> None:
    weights, architecture, example = trained("convnet5", {"features.conv2.act": "reborn"})
    folder = export_trained(Trained(weights, architecture, example, CARD), tmp_path / "out")
    model = timm.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        assert not torch.allclose(model(example["input"]), example["logits"])


def test_changed_on_load(tmp_path: Path) -> None:
    weights, architecture, example = trained("resnet18", {"layer1.0.act1": "reborn"})
    folder = export_trained(Trained(weights, architecture, example, CARD), tmp_path / "out")
    name = f"local-dir:{folder}"
    x = example["input"]
    other = timm.create_model(name, pretrained=True, num_classes=7).eval()
    assert other(x).shape == (3, 7)
    assert torch.equal(other.layer1[0].act1.deconv.weight, weights["layer1.0.act1.deconv.weight"])
    assert timm.create_model(name, pretrained=True, in_chans=1)(x[:, :1]).shape == (3, 2)
    for form in ("list", "dict", "hook", "fx", "getter"):
        features = timm.create_model(name, pretrained=True, features_only=True, feature_cls=form).eval()(x)
        maps = list(features.values()) if isinstance(features, dict) else features
        assert [m.shape[1] for m in maps] == [64, 64, 128, 256, 512], form
    assert timm.data.resolve_model_data_config(other)["mean"] == [0.5, 0.5, 0.5]


def test_own_source_travels_and_is_run_only_when_trusted(tmp_path: Path) -> None:
    file = tmp_path / "own_net.py"
    file.write_text(OWN)
    weights, architecture, example = trained(f"{file}:make", {"relu@0": "reborn", "relu@1": "gelu"})
    folder = export_trained(Trained(weights, architecture, example, CARD), tmp_path / "out")
    file.unlink()
    with pytest.raises(ConfigError, match="trust_source"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert fresh(folder, ", trust_source=True").splitlines()[0] == "True"
    (folder / "own_net.py").write_text(OWN + "\nprint('changed')\n")
    with pytest.raises(ConfigError, match=r"own_net\.py"):
        timm.create_model(f"local-dir:{folder}", pretrained=True, trust_source=True)


def test_the_card_is_plain_text(tmp_path: Path) -> None:
    weights, architecture, example = trained("convnet5", {"features.conv2.act": "reborn"})
    folder = export_trained(Trained(weights, architecture, example, CARD), tmp_path / "out")
    card = (folder / "README.md").read_text()
    assert "<model>" not in card
    assert "[x](y)" not in card
    assert "90.00%" in card
    assert "82.56% – 94.48%" in card, "Wilson's interval of 90 of 100, by hand"
    assert "random weights" in card
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == ["a", "b"]
    assert list(config["model_args"]["architecture"]["choices"]) == ["features.conv2.act"]


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    weights, architecture, example = trained("convnet5", {"features.conv2.act": "reborn"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("words")
    with pytest.raises(ExportError, match="not empty"):
        export_trained(Trained(weights, architecture, example, CARD), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "words"
    export_trained(Trained(weights, architecture, example, CARD), tmp_path / "out", force=True)
    assert not (tmp_path / "out" / "thesis.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no temporary folder is left"


def test_weights_of_another_network_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    weights, architecture, example = trained("convnet5", {"features.conv2.act": "reborn"})
    other = architecture.with_choices({"features.conv3.act": "reborn"})
    with pytest.raises(ExportError, match="do not fit"):
        export_trained(Trained(weights, other, example, CARD), tmp_path / "out")
    changed = {key: value + 1 if value.is_floating_point() else value for key, value in weights.items()}
    with pytest.raises(ExportError, match="differs from the trained one"):
        export_trained(Trained(changed, architecture, example, CARD), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "newer", "site", "escape"])
def test_damaged_exports_give_errors(damage: str, tmp_path: Path) -> None:
    weights, architecture, example = trained("convnet5", {"features.conv2.act": "reborn"})
    folder = export_trained(Trained(weights, architecture, example, CARD), tmp_path / "out")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    stored = config["model_args"]["architecture"]
    if damage == "truncated":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    elif damage == "newer":
        stored["version"] = 99
    elif damage == "site":
        stored["choices"] = {"features.conv9.act": "relu"}
        config["model_args"].pop("plan", None)
    else:
        stored["choices"] = {"../../etc/passwd": "relu"}
    path.write_text(json.dumps(config))
    with pytest.raises(Exception) as caught:
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert isinstance(caught.value, rn.RebornError)
    words = {"truncated": "model.safetensors is damaged", "newer": "99", "site": "conv9", "escape": "passwd"}
    assert words[damage] in str(caught.value)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    weights, architecture, example = trained("convnet5", {"features.conv2.act": "reborn"})
    folder = export_trained(Trained(weights, architecture, example, CARD), tmp_path / "out")
    assert set(load_file(folder / "model.safetensors")) == set(weights)
    assert set(load_file(folder / "example.safetensors")) == {"input", "logits"}


def test_features_only_of_a_network_that_is_not_timms_is_refused_in_words(tmp_path: Path) -> None:
    weights, architecture, example = trained(
        "torchvision:squeezenet1_1", {"features.3.squeeze_activation": "reborn(kernel_size=1)"}
    )
    folder = export_trained(Trained(weights, architecture, example, CARD), tmp_path / "out")
    with pytest.raises(ConfigError, match="forward_features"):
        timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
