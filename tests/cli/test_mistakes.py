"""Mistakes of a first hour with their answers: exit code 2, one message, the way out in it, nothing written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reborn_nas.cli.consent import evening
from reborn_nas.cli.main import main

SPACE = "choices:\n  - relu\n  - leaky_relu: {negative_slope: 1e-2}\n"
TWICE = (
    "rules:\n  - sites: [features.conv1.act]\n    exclude: true\nchoices: [relu, reborn]\nchoices: [relu]\n"
)
STAGES = "choices: [relu, reborn]\nrules:\n  - sites: [0]\n    exclude: true\n"

NETWORK = """
import torch
from torch import nn


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)

    def forward(self, left, right):
        return self.last(self.act(self.conv(torch.cat([left, right], 1))))


def make():
    return Pair()


def example():
    return torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)
"""

MISTAKES = [
    ("serach", ["'serach'", "did you mean search?"]),
    ("search --epoch 3", ["'--epoch'", "--epochs"]),
    ("search --back resnet34", ["'--back'", "--backbone"]),
    ("search --epochs=three", ["--epochs", "'three'", "whole number"]),
    ("search --precision fp17", ["--precision", "fp17", "bf16"]),
    ("search --workers many", ["workers", "whole number from 1 to 1024, or auto", "many"]),
    ("search --workers 0", ["workers", "from 1 to 1024"]),
    ("search --backbone resnet3", ["resnet3", "resnet34"]),
    ("search --dataset digit", ["digit", "digits"]),
    ("search --dataset folder:nowhere", ["nowhere"]),
    ("search --contrast rebron:original", ["rebron", "reborn"]),
    ("search --contrast reborn", ["tested:reference", "reborn:original"]),
    ("search --sampler tpee", ["tpee", "tpe"]),
    ("search --recipe fats", ["fats", "fast"]),
    ("search --space papre", ["papre", "paper"]),
    ("search --timeout 30parsec", ["30parsec", "30min"]),
    ("search --model-arg width", ["'width'", "NAME=VALUE"]),
    ("search --max-params 12Q", ["max_params", "12M"]),
    ("search --config twice.yaml", ["'seed' is there twice", "line 1", "line 3"]),
    ("search --config devices.yaml", ["devices", "[0]"]),
    ("search --config nowhere.yaml", ["nowhere.yaml"]),
    ("search --config .", [". is a folder; give a YAML file"]),
    ("spaces .", [". is a folder; give a YAML file"]),
    ("replicate .", [". is a folder; give a YAML file"]),
    ("search --devices ,", ["devices: names no device"]),
    ("search --devices cpu --device cuda", ["device: is for one device; devices names cpu"]),
    ("search --quiet --verbose", ["--verbose", "not allowed with", "--quiet"]),
    ("search --config nested.yaml", ["backbone_arguments.layers[2].slope: '1e-2'", "write 1.0e-2"]),
    ("search --config whole.yaml", ["seed: a whole number, got '1e3'", "write 1000"]),
    ("search --config octal.yaml", ["line 1, column 13", "032", "the number 26", "write 32"]),
    ("search --config sixty.yaml", ["line 1", "1:30", "the number 90", "quote it"]),
    ("search --config truth.yaml", ["epochs: takes no true", "yes, no, on and off"]),
    ("search --config number.yaml", ["name: text; quote it", "got 12"]),
    ("search --config loop.yaml", ["alias is inside what it names"]),
    ("search --config set.yaml", ["line 1", "!!set", "no meaning"]),
    ("search --space slope.yaml", ["negative_slope", "'1e-2'", "YAML takes 1e-2 for text: write 1.0e-2"]),
    ("search --space twice_space.yaml", ["'choices' is there twice", "line 4", "line 5"]),
    ("search --space sites.yaml", ["rules[1].sites", "a site's name, such as layer1.0.act1", "[0]"]),
    ("train --architecture rebron --out x", ["rebron", "reborn"]),
    ("train --architecture reborn --out x", ["--backbone"]),
    ("train --out x", ["--architecture"]),
    ("train --architecture reborn --backbone convnet5 --epochs 0 --out x", ["epochs: at least one"]),
    ("train --architecture reborn --backbone convnet5 --ema 1 --out x", ["recipe.ema is in [0, 1)", "1.0"]),
    ("doctor --device nix", ["unknown device 'nix'", "cuda:1"]),
    ("export runs/none --out x", ["runs/none"]),
    ("report runs/none", ["runs/none"]),
    ("dashboard runs/none --port 99999", ["port", "65535", "99999"]),
    ("sites --input-size big", ["'big'", "32 or 3x32x32"]),
    ("sites --backbone resnet18 --example-inputs net.py:example", ["resnet18", "--input-size"]),
    ("sites --backbone net.py:make --example-inputs net.py:exampl", ["'exampl'", "did you mean example?"]),
    (
        "sites --backbone net.py:make --example-inputs net.py:example --input-size 8",
        ["so leave --input-size out"],
    ),
    ("worker --study mine", ["--storage"]),
    ("spaces papre", ["papre", "paper"]),
]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REBORN_NAS_STORAGE", raising=False)
    for name, text in {
        "twice": "seed: 1\nepochs: 1\nseed: 2\n",
        "devices": "devices: 0\n",
        "nested": "backbone_arguments: {layers: [1, {slope: 1e-2}]}\n",
        "whole": "seed: 1e3\n",
        "octal": "image_size: 032\n",
        "sixty": "timeout: 1:30\n",
        "truth": "epochs: yes\n",
        "number": "name: 12\n",
        "loop": "backbone_arguments: &a {b: [*a]}\n",
        "set": "backbone_arguments: !!set {a}\n",
        "slope": SPACE,
        "twice_space": TWICE,
        "sites": STAGES,
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "net.py").write_text(NETWORK)
    return tmp_path


@pytest.mark.parametrize(("command", "parts"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_answered(
    command: str, parts: list[str], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(os.listdir(desk))
    try:
        code = main(command.split())
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    said = capsys.readouterr()
    assert code == 2, said
    for part in parts:
        assert part in said.err
    assert "Traceback" not in said.err
    assert len(said.err) < 2000, "a page of usage would hide the message"
    assert set(os.listdir(desk)) == before


def test_sites_of_a_network_with_several_inputs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sites", "--backbone", "net.py:make", "--example-inputs", "net.py:example", "--json"]) == 0
    sites = json.loads(capsys.readouterr().out)["sites"]
    assert [(site["name"], site["shape"]) for site in sites] == [("act", [4, 8, 8])]


def test_nothing_at_all_is_a_wish_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    assert "reborn-nas search" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hours", "answer"),
    [
        (2.9, ""),
        (5.0, "--epochs 18 would make it about 3.0 h"),
        (409.0, "--epochs 3 --fraction 0.074 would make it about 3.0 h"),
        (
            6088.0,
            "even with --epochs 3 --fraction 0.023 --trials 48 it would take about 4 h: a smaller network",
        ),
    ],
)
def test_a_plan_too_long_for_an_evening_says_what_brings_it_there(hours: float, answer: str) -> None:
    said = evening(3600 * hours, {"epochs": 30, "images": 45_000, "trials": 160})
    assert said.startswith(answer)
    assert bool(said) == bool(answer)
