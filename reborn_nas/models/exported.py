"""Checks an export's folder before timm reads it: version, length of the weights, and whose code would run."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from reborn_nas.activations import Pair
from reborn_nas.architecture import Architecture
from reborn_nas.backbone import Plan
from reborn_nas.backbone.load.factory import source_beside
from reborn_nas.backbone.replace.modules import KEPT
from reborn_nas.errors import ConfigError, ExportError, blame_machine

__all__ = [
    "CONFIG_VERSION",
    "CONFIG",
    "ENTRY",
    "WEIGHTS",
    "folded_pairs",
    "located",
    "read_tensors",
    "read_weights",
    "stored_plan",
    "vet_folder",
]

CONFIG_VERSION = 1
"""Version of the format of an export's folder; increased when an older reborn-nas cannot read it."""

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ENTRY = "reborn_model.needs_import_reborn_nas"
"""Name of the model in config.json. timm ignores the part after the dot, but without our import its error shows it:
`Unknown model (reborn_model.needs_import_reborn_nas)`."""


class Trust:
    """What a process trusts, in addition to what a call allows.

    Args:
        every_export: run the source files of exports, as requested by `python -m reborn_nas.run --trust-source`.
    """

    def __init__(self) -> None:
        self.every_export = False


TRUST = Trust()

_NEVER_STORED = ("trust_source", "checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir")


def vet_folder(pretrained_cfg: Any, pretrained: bool) -> Path | None:
    """Check the folder that timm is about to load, and return it; None if it is not a folder.

    Raises:
        ExportError: the folder is damaged or was written by a newer version.
        ConfigError: its config.json sets arguments that only the caller may set.
    """
    given = pretrained_cfg if isinstance(pretrained_cfg, Mapping) else {}
    if given.get("source") != "local-dir" or not given.get("file"):
        return None
    folder = Path(given["file"])
    config = _read(folder / CONFIG)
    about = config.get("reborn_nas")
    version = about.get("version", 1) if isinstance(about, Mapping) else 1
    if type(version) is not int or version > CONFIG_VERSION:
        raise ExportError(
            f"{folder / CONFIG} has format {version!r}, but this reborn-nas reads up to {CONFIG_VERSION}; upgrade "
            "reborn-nas"
        )
    stored = config.get("model_args")
    asked = [key for key in _NEVER_STORED if isinstance(stored, Mapping) and key in stored]
    if asked:
        raise ConfigError(
            f"{folder / CONFIG} sets {', '.join(asked)} in its model_args, which only the caller may; "
            "reborn-nas never writes that: do not trust this folder"
        )
    if pretrained:
        if not (folder / WEIGHTS).is_file():
            raise ExportError(
                f"{folder} holds no {WEIGHTS}; nothing else is read as weights: export the model again"
            )
        _check_length(folder / WEIGHTS)
    return folder


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a vetted folder. Raises ExportError if they cannot be read."""
    return read_tensors(folder / WEIGHTS, "copy or export it again")


def read_tensors(file: Path, way_out: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ExportError with `way_out` if they cannot be read."""
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        blame_machine(error, file)
        raise ExportError(f"{file} is damaged ({error}); {way_out}") from error


def located(
    architecture: Architecture, pretrained_cfg: Any, folder: Path | None, trusted: bool
) -> Architecture:
    """The architecture with the source file next to config.json, which is run only if the caller trusts it.

    Raises:
        ConfigError: the source is not trusted, or the export does not come from a local folder.
    """
    spec = architecture.backbone
    reserved = sorted(set(spec.arguments) & set(_NEVER_STORED))
    if reserved:
        raise ConfigError(f"the backbone's arguments may not hold {', '.join(reserved)}")
    if spec.library != "file":
        return architecture
    file = spec.source.rsplit(":", 1)[0]
    if folder is not None:
        if not (trusted or TRUST.every_export):
            raise ConfigError(
                f"this export runs its own source file {Path(file).name!r}; read it, then load with "
                "timm.create_model(..., trust_source=True)"
            )
        return architecture.with_backbone(replace(spec, source=source_beside(folder, spec.source)))
    if isinstance(pretrained_cfg, Mapping) and pretrained_cfg.get("source") == "hf-hub":
        raise ConfigError(
            f"this model runs a source file {Path(file).name!r}, which timm does not download from a hub; download the "
            'whole repository, read the file, then load "local-dir:FOLDER" with trust_source=True'
        )
    return architecture


def stored_plan(data: Any) -> Plan | None:
    """The conversion in a config.json; refused if applying it could call anything but activations.

    A plan names the attributes that a rewritten forward calls, which become part of source code.
    """
    if data is None:
        return None
    plan = Plan.from_dict(data)
    for owner in plan.rewrites:
        names = [edit.attribute for edit in getattr(owner.change, "edits", ())]
        faults = [name for name in names if not isinstance(name, str) or not name.isidentifier()]
        if faults:
            raise ConfigError(f"the stored plan calls {faults[0]!r}, which is not an attribute's name")
    for item in plan.placements:
        kind = None if item.function is None else item.function.partition("(")[0].strip()
        known = (
            kind in (None, KEPT)
            or getattr(getattr(nn, kind, None), "__module__", "") == "torch.nn.modules.activation"
        )
        if not known:
            raise ConfigError(f"the stored plan builds {kind!r}, which is not an activation of torch.nn")
    return plan


def folded_pairs(data: Any) -> list[Pair]:
    """The convolutions and norms that a folded export joined. Raises ConfigError if `data` is not such a list."""
    try:
        return [Pair(str(conv), str(norm)) for conv, norm in data]
    except (TypeError, ValueError):
        raise ConfigError(f"folded is a list of [convolution, norm] paths, not {data!r}") from None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read: {error}; export the model again") from error
    if not isinstance(config, Mapping):
        raise ExportError(f"{path} is not a model's configuration; export the model again")
    return config


def _check_length(path: Path) -> None:
    """Compare the length of a safetensors file with its header."""
    found = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > found:
                raise ValueError(f"its header would have {size} bytes")
            header = json.loads(stream.read(size))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        announced = 8 + size + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error) as error:
        raise ExportError(
            f"{path} is damaged ({error}); it has {found} bytes: copy or export it again"
        ) from error
    if found != announced:
        raise ExportError(
            f"{path} is damaged: it has {found} bytes, its header announces {announced}; copy or export it again"
        )
