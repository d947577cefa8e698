"""Exports of earlier versions load, and give the logits that they were saved with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import reborn_nas as rn

FOLDER = Path(__file__).parents[1] / "golden" / "models"
EXPORTS = sorted(path.name for path in FOLDER.iterdir())


def test_those_of_version_1_are_kept() -> None:
    assert {"v1", "v1-folded"} <= set(EXPORTS)
    config = json.loads((FOLDER / "v1" / "config.json").read_text())
    assert config["reborn_nas"]["version"] == 1
    assert config["model_args"]["architecture"]["version"] == 1
    assert config["model_args"]["plan"]["version"] == 1


@pytest.mark.parametrize("name", EXPORTS)
def test_an_old_export_gives_its_own_logits(name: str) -> None:
    model = timm.create_model(f"local-dir:{FOLDER / name}", pretrained=True).eval()
    example = load_file(FOLDER / name / "example.safetensors")
    with torch.no_grad():
        logits = model(example["input"])
    # to rounding: kernels differ between processors and torch versions
    torch.testing.assert_close(logits, example["logits"], rtol=1e-4, atol=1e-5)
    config = json.loads((FOLDER / name / "config.json").read_text())
    stored = config["model_args"]["architecture"]
    assert rn.Architecture.from_dict(stored).to_dict() == stored


def test_one_without_a_plan_and_with_the_older_entry_loads_too(tmp_path: Path) -> None:
    for file in (FOLDER / "v1").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["architecture"] = "reborn_model"
    del config["model_args"]["plan"], config["reborn_nas"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    example = load_file(tmp_path / "example.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(model(example["input"]), example["logits"], rtol=1e-4, atol=1e-5)
