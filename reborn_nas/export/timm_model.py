"""A trained network as a timm `local-dir`: weights, config, example, card; nothing pickled."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from timm.models import is_model
from torch import Tensor, nn

from reborn_nas.activations import fold_in_place
from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.backbone import Plan, build, plan, resolve
from reborn_nas.errors import ExportError
from reborn_nas.export.card import Accuracy, Card, render_card
from reborn_nas.export.folder import carry_source, check_target, new_folder
from reborn_nas.export.forms import check_forms, write_forms
from reborn_nas.files import write_atomic
from reborn_nas.models.adapter import adapted
from reborn_nas.models.converted import build_network
from reborn_nas.models.exported import CONFIG, CONFIG_VERSION, ENTRY, WEIGHTS
from reborn_nas.training.measure.example import COUNTS, steady_logits

__all__ = ["Trained", "bare_network", "export_trained", "export_trained_many"]

TOLERANCE = 1e-4  # relative to the largest logit


@dataclass(frozen=True)
class Trained:
    """A trained network to be exported.

    Args:
        weights: state dict of the trained network, not of a timm wrapper.
        architecture: must have a complete backbone spec.
        example: `input` (B, C, H, W), normalised, and `logits` (B, classes), computed by the trained network in eval
            mode on the CPU.
        card: contents of the model card.
        plan: plan of the conversion; None makes it again.
    """

    weights: Mapping[str, Tensor]
    architecture: Architecture
    example: Mapping[str, Tensor]
    card: Card
    plan: Plan | None = None


def export_trained(
    trained: Trained,
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    fold: bool = False,
    forms: Sequence[str] = (),
) -> Path:
    """Write the folder `out` from a trained network.

    Args:
        force: replace a folder that is not empty.
        fold: export the deployment form: batch norm and compression are folded, state-dict keys differ, not for
            training.
        forms: further forms, of `reborn_nas.export.forms.FORMS`: "onnx", "torch-export", "jit-trace".

    Raises:
        ExportError: the folder is not empty, the weights do not fit the architecture, the rebuilt network does not
            reproduce the example, or a form cannot be written.
    """
    target = check_target(out, force)
    check_forms(forms)
    with new_folder(target) as work:
        _write(work, trained, target.name, fold, forms)
    return target


def export_trained_many(
    trained: Mapping[str, Trained],
    out: str | os.PathLike[str],
    readme: str,
    *,
    force: bool = False,
    fold: bool = False,
    forms: Sequence[str] = (),
) -> Path:
    """Write several exports as sub-folders of `out`, name → network, and a `readme`; all or nothing."""
    target = check_target(out, force)
    check_forms(forms)
    with new_folder(target) as work:
        for name, one in trained.items():
            folder = work / name
            folder.mkdir()
            _write(folder, one, f"{target.name}/{name}", fold, forms)
        write_atomic(work / "README.md", readme)
    return target


def _write(folder: Path, trained: Trained, name: str, fold: bool, forms: Sequence[str]) -> None:
    """Write all files of an export."""
    architecture, card = trained.architecture, trained.card
    model = _rebuilt(trained)
    example = {key: value.contiguous() for key, value in trained.example.items()}
    _compare(model, example)
    folded: dict[str, Any] = {}
    if fold:
        pairs = fold_in_place(model)
        folded["folded"] = [[pair.conv, pair.norm] for pair in pairs]
        _compare(model, example)
        example = _folded_example(model, example)
    if architecture.backbone.library == "file":
        architecture = carry_source(folder, architecture)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_atomic(folder / "example.safetensors", save(example))
    config = _config(model, architecture, trained.plan, card, folded)
    write_atomic(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    written = write_forms(folder, model, example["input"], forms)
    own = architecture.backbone.library == "file"
    write_atomic(folder / "README.md", render_card(card, architecture, name, own, fold, written))


def _rebuilt(trained: Trained) -> nn.Module:
    """The network as timm will rebuild it, with the trained weights, in eval mode."""
    spec = trained.architecture.backbone
    network = build_network(trained.architecture, trained.plan, timm_api=False)
    try:
        network.load_state_dict(dict(trained.weights), strict=True)
    except RuntimeError as error:
        raise ExportError(
            f"the weights do not fit the architecture {trained.architecture.digest}: {error}"
        ) from error
    if spec.library != "timm":
        assert spec.input_size is not None
        network = adapted(network, spec.input_size, spec.num_classes)
    return network.eval()


def _folded_example(model: nn.Module, example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The example with the folded network's logits, for images whose logits do not depend on the number of threads."""
    given = len(example["input"])
    for count in (given, *(size for size in COUNTS if size < given)):
        part = {key: value[:count].contiguous() for key, value in example.items()}
        logits, steady = steady_logits(model, part["input"])
        if steady:
            break
    return {**part, "folded_logits": logits.contiguous()}


def _compare(model: nn.Module, example: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        logits = model(example["input"])
    error = float((logits - example["logits"]).abs().max() / example["logits"].abs().max().clamp(min=1e-12))
    if not error <= TOLERANCE:
        raise ExportError(
            f"the rebuilt network differs from the trained one (relative error {error:.1e}); "
            "was the checkpoint written by other code?"
        )


def _config(
    model: nn.Module,
    architecture: Architecture,
    plan: Plan | None,
    card: Card,
    folded: Mapping[str, Any],
) -> dict[str, Any]:
    """timm's config.json."""
    spec = architecture.backbone
    base = getattr(model, "pretrained_cfg", None) or {}
    assert spec.input_size is not None
    arguments: dict[str, Any] = {"architecture": architecture.to_dict(), "in_chans": spec.input_size[0]}
    if plan is not None:
        arguments["plan"] = plan.to_dict()
    arguments |= folded
    return {
        "architecture": ENTRY,
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


EXAMPLE = 8  # images

UNNAMED = ("own:module", "timm:unnamed")
"""Sources of architectures made from a module instead of a name."""


def bare_network(
    architecture: Architecture,
    model: nn.Module | None = None,
    *,
    input_size: tuple[int, int, int] | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str | None = None,
    accuracies: Sequence[Accuracy] = (),
) -> Trained:
    """Prepare an export from an architecture and the network that was trained with it.

    Args:
        architecture: site → choice; open fields of its backbone spec are taken from `model`.
        model: the trained network, converted by `convert`; None exports a new one with random weights, which the card
            states.
        input_size: (C, H, W) of one image, if neither spec nor model define it.
        classes: names in the order of the outputs; None means their numbers.
        mean, std: normalisation per channel; by default the model's, else 0.5 and 0.25.

    Raises:
        ExportError: neither the architecture nor timm's config of the model names its backbone, or the
            network is not an image classifier.
    """
    spec = _completed(architecture.backbone, model, input_size, classes)
    complete = architecture.with_backbone(spec)
    assert spec.input_size is not None
    conversion = plan(build(spec, device="meta"), complete, spec.input_size)
    if model is None:
        network = build_network(complete, conversion, timm_api=False).eval()
    else:
        if architecture.backbone.source in UNNAMED:
            _check_guess(build_network(complete, conversion, timm_api=False), model, spec)
        network = copy.deepcopy(model).to("cpu", torch.float32)
        network = network.to(memory_format=torch.contiguous_format).eval()
    own: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    count = spec.input_size[0]
    known, spread = (list(own[key]) if len(own.get(key, ())) == count else None for key in ("mean", "std"))
    card = Card(
        name=name or f"{spec.name}-{complete.digest}",
        dataset="data that is not known to the export" if model is not None else "nothing",
        classes=list(classes) if classes is not None else [str(k) for k in range(spec.num_classes or 0)],
        mean=list(mean or known or [0.5] * count),
        std=list(std or spread or [0.25] * count),
        accuracies=accuracies,
        details={} if model is not None else {"weights": "random: this network has not been trained"},
    )
    return Trained(dict(network.state_dict()), complete, _example(network, spec.input_size), card, conversion)


def _example(network: nn.Module, input_size: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Random images and the logits of a network in eval mode. Raises ExportError if it returns something else."""
    images = torch.randn(EXAMPLE, *input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(images)
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        returns = (
            f"of shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        )
        raise ExportError(
            f"an export is an image classifier for timm, which returns (images, classes); {type(network).__name__} "
            f"returns {returns}. Keep its state dict and the text that rn.plan(…).to_json() gives; "
            "rn.apply(network, rn.Plan.from_json(text)) builds it again"
        )
    return {"input": images, "logits": logits}


def _check_guess(built: nn.Module, model: nn.Module, spec: BackboneSpec) -> None:
    """Raise ExportError if the network that timm builds by the noted name has other weights than `model`."""
    shapes, own = ({key: tuple(v.shape) for key, v in one.state_dict().items()} for one in (built, model))
    if shapes != own:
        raise ExportError(
            f"the network is not what {spec.source} builds by default: name it with its arguments: "
            f'architecture.with_backbone(BackboneSpec("{spec.source}", arguments={{"width": 0.25}}))'
        )


def _completed(
    spec: BackboneSpec,
    model: nn.Module | None,
    input_size: tuple[int, int, int] | None,
    classes: Sequence[str] | None,
) -> BackboneSpec:
    """Complete the spec; a given network keeps its stem."""
    own: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if spec.source in UNNAMED:
        if not is_model(str(own.get("architecture", ""))):
            raise ExportError(
                "the architecture does not name its backbone, so the export could not be loaded; "
                'name it: architecture.with_backbone("resnet18"), or "path/to/file.py:factory"'
            )
        # timm stores the name in its networks; if other arguments matter, the comparison of the export shows it
        spec = replace(spec, source=f"timm:{own['architecture']}")
    if model is not None and spec.stem is None:
        spec = replace(spec, stem="original")
    size = input_size or spec.input_size
    if size is None and len(own.get("input_size", ())) == 3:
        size = (own["input_size"][0], own["input_size"][1], own["input_size"][2])
    outputs = len(classes) if classes is not None else spec.num_classes
    if outputs is None:
        outputs = getattr(model, "num_classes", None)
    return resolve(spec, input_size=size, num_classes=outputs)
