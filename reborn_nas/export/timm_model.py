"""A trained network as a timm `local-dir`: weights, config, example, card; nothing pickled."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from reborn_nas.architecture import Architecture
from reborn_nas.backbone import Plan
from reborn_nas.errors import ExportError
from reborn_nas.export.card import Card, render_card
from reborn_nas.files import write_atomic
from reborn_nas.models.adapter import TimmAdapter, final_linear
from reborn_nas.models.converted import build_network

__all__ = ["check_target", "export_trained"]

CONFIG_VERSION = 1


def export_trained(
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    example: Mapping[str, Tensor],
    card: Card,
    out: str | os.PathLike[str],
    *,
    plan: Plan | None = None,
    force: bool = False,
) -> Path:
    """Write the folder `out` from a trained network's weights.

    Args:
        weights: state dict of the trained network (not of a timm wrapper around it).
        architecture: with a complete backbone spec.
        example: `input` (B, C, H, W), normalised, and `logits` (B, classes), saved from the trained network itself
            in eval mode on the CPU.
        card: what is said about it.
        plan: the conversion; made anew where None.
        force: replace a folder that is not empty.

    Raises:
        ExportError: the folder is not empty, the weights do not fit the architecture, or the rebuilt network does not
            reproduce the example.
    """
    target = check_target(out, force)
    network = build_network(architecture, plan, timm_api=False)
    try:
        network.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise ExportError(
            f"the weights do not fit the architecture {architecture.digest}: {error}"
        ) from error
    model = _served(network, architecture)
    _check(model, example)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(work, model, architecture, plan, example, card, target.name)
        _swap(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def check_target(out: str | os.PathLike[str], force: bool) -> Path:
    """The folder to write; refused where something is in the way."""
    target = Path(out)
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target} is a file; give a folder")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise ExportError(f"{target} is not empty; give another folder, or --force to replace it")
    return target


def _served(network: nn.Module, architecture: Architecture) -> nn.Module:
    """The network as timm users will have it."""
    if architecture.backbone.library == "timm":
        return network.eval()
    spec = architecture.backbone
    assert spec.input_size is not None
    return TimmAdapter(network, final_linear(network, spec.input_size), spec.num_classes or 0).eval()


def _check(model: nn.Module, example: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        logits = model(example["input"])
    error = float((logits - example["logits"]).abs().max() / example["logits"].abs().max().clamp(min=1e-12))
    if not error <= 1e-4:
        raise ExportError(
            f"the rebuilt network differs from the trained one (relative error {error:.1e}); "
            "was the checkpoint written by other code?"
        )


def _write(
    folder: Path,
    model: nn.Module,
    architecture: Architecture,
    plan: Plan | None,
    example: Mapping[str, Tensor],
    card: Card,
    name: str,
) -> None:
    spec = architecture.backbone
    own = spec.library == "file"
    if own:
        file, factory = spec.source.rsplit(":", 1)
        shutil.copyfile(file, folder / Path(file).name)
        architecture = architecture.with_backbone(replace(spec, source=f"{Path(file).name}:{factory}"))
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    write_atomic(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_atomic(folder / "example.safetensors", save({k: v.contiguous() for k, v in example.items()}))
    config = _config(model, architecture, plan, card)
    write_atomic(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    write_atomic(folder / "README.md", render_card(card, architecture, name, own))


def _config(model: nn.Module, architecture: Architecture, plan: Plan | None, card: Card) -> dict[str, Any]:
    """timm's config.json."""
    spec = architecture.backbone
    base = getattr(model, "pretrained_cfg", None) or {}
    assert spec.input_size is not None
    arguments: dict[str, Any] = {"architecture": architecture.to_dict(), "in_chans": spec.input_size[0]}
    if plan is not None:
        arguments["plan"] = plan.to_dict()
    return {
        "architecture": "reborn_model",
        "num_classes": spec.num_classes,
        "num_features": getattr(model, "num_features", None),
        "label_names": list(card.classes),
        "reborn_nas": {"version": CONFIG_VERSION, "digest": architecture.digest, "name": card.name},
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": card.name,
            "custom_load": False,
            "input_size": list(spec.input_size),
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(card.mean),
            "std": list(card.std),
            "num_classes": spec.num_classes,
            "pool_size": None,
            "first_conv": base.get("first_conv") if spec.library == "timm" else _first_conv(model),
            "classifier": base.get("classifier") if spec.library == "timm" else "fc",
        },
    }


def _first_conv(model: nn.Module) -> str | None:
    return next((path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)


def _swap(work: Path, target: Path) -> None:
    """Put `work` where `target` is; the old folder goes only when the new one stands."""
    work.chmod(0o755)
    if not target.exists():
        os.replace(work, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.replace(target, old / "old")
    try:
        os.replace(work, target)
    except OSError:
        os.replace(old / "old", target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
