"""Exports that are damaged, too new or malicious: an error that says what to do, and nothing is executed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm

from reborn_nas.errors import ConfigError, ExportError, RebornError
from tests.export.test_golden import FOLDER

Config = dict[str, Any]
EVIL = "__import__('pathlib').Path('EXECUTED').touch()"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a good export, in an empty working directory."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    target = tmp_path / "model"
    target.mkdir()
    for file in (FOLDER / "v1").iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def edit(folder: Path, change: Callable[[Config], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def load(folder: Path, **more: object) -> object:
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **more)


def refused(folder: Path, words: str, kind: type[Exception] = RebornError) -> None:
    with pytest.raises(kind, match=words):
        load(folder)
    assert not list(Path.cwd().iterdir()), "nothing was executed or written"


@pytest.mark.parametrize("part", [0.0, 0.0001, 0.5, 0.999])
def test_truncated_weights(folder: Path, part: float) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refused(folder, r"model\.safetensors is damaged.*copy or export it again", ExportError)


def test_weights_with_a_tail(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"tail")
    refused(folder, "header announces", ExportError)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "open_clip_pytorch_model.bin"])
def test_weights_that_are_a_pickle_are_not_read(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cpathlib\nPath\n(VEXECUTED\ntR.")
    refused(folder, "holds no model.safetensors", ExportError)


def test_a_newer_format_says_upgrade(folder: Path) -> None:
    edit(folder, lambda config: config["reborn_nas"].update(version=2))
    refused(folder, "format 2.*upgrade", ExportError)


def test_a_newer_architecture_says_upgrade(folder: Path) -> None:
    edit(folder, lambda config: config["model_args"]["architecture"].update(version=2))
    refused(folder, "version is 2.*upgrade", ConfigError)


def test_a_site_that_the_backbone_has_not_is_named(folder: Path) -> None:
    edit(folder, lambda config: config["model_args"].pop("plan"))
    edit(
        folder, lambda config: config["model_args"]["architecture"]["choices"].update({"layer9.act": "silu"})
    )
    refused(folder, r"layer9\.act")


@pytest.mark.parametrize(
    "site", ["../../etc/passwd", "/etc/passwd", "a/b", "a b", "a\nb", "a;b", "C:\\x", ".."]
)
def test_site_names_with_path_characters(folder: Path, site: str) -> None:
    edit(folder, lambda config: config["model_args"]["architecture"]["choices"].update({site: "silu"}))
    refused(folder, "is not a site name|has a choice for site .* but its stored conversion has none")


def test_a_config_that_trusts_itself(folder: Path) -> None:
    (folder / "net.py").write_text(EVIL)
    edit(folder, lambda config: config["model_args"]["architecture"]["backbone"].update(source="net.py:make"))
    refused(folder, "trust_source=True", ConfigError)
    edit(folder, lambda config: config["model_args"].update(trust_source=True))
    refused(folder, "which only the caller may", ConfigError)


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_cfg", "cache_dir"])
def test_arguments_that_read_other_files(folder: Path, key: str) -> None:
    backbone = {"arguments": {key: "/etc/passwd"}}
    edit(folder, lambda config: config["model_args"]["architecture"]["backbone"].update(backbone))
    refused(folder, key, ConfigError)


def test_a_source_outside_of_the_folder_is_looked_for_inside(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(EVIL)
    source = {"source": f"{tmp_path / 'net.py'}:make", "source_digest": None}
    edit(folder, lambda config: config["model_args"]["architecture"]["backbone"].update(source))
    with pytest.raises(ConfigError, match="does not exist"):
        load(folder, trust_source=True)
    assert not list(Path.cwd().iterdir())


def test_a_plan_that_writes_code(folder: Path) -> None:
    edits = {"holder": "reborn_nas.models.convnet:ConvNet", "method": "forward", "line": 1, "column": 40, "loop": 0,
             "attribute": f"head({EVIL})"}  # fmt: skip
    rewrite = {
        "owner": "",
        "cls": "reborn_nas.models.convnet:ConvNet",
        "rewrite": {"edits": [edits], "digest": "0"},
    }
    edit(folder, lambda config: config["model_args"]["plan"].update(rewrites=[rewrite]))
    refused(folder, "is not an attribute name")


def test_a_plan_that_builds_what_is_no_activation(folder: Path) -> None:
    def change(config: Config) -> None:
        config["model_args"]["plan"]["placements"][0].update(function="Linear(in_features=9,out_features=9)")

    edit(folder, change)
    refused(folder, "not an activation of torch.nn", ConfigError)


@pytest.mark.parametrize("value", [3, "x", [["features.conv1.conv"]], [["nowhere", "nothing"]]])
def test_folded_pairs_that_are_none(folder: Path, value: object) -> None:
    edit(folder, lambda config: config["model_args"].update(folded=value))
    refused(folder, "folded")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN'])
def test_a_config_that_is_none(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(Exception, match=r".+"):
        load(folder)
    assert not list(Path.cwd().iterdir())


def test_without_our_import_the_error_says_what_is_missing(folder: Path) -> None:
    code = f"import timm; timm.create_model('local-dir:{folder}', pretrained=True)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert "Unknown model (reborn_model.needs_import_reborn_nas)" in done.stderr
    assert "import reborn_nas" in (folder / "README.md").read_text()
