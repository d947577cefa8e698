"""An architecture without a study, with or without a network that somebody trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.models import is_model
from torch import nn

from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.backbone import build, plan, resolve
from reborn_nas.errors import ExportError
from reborn_nas.export.card import Accuracy, Card
from reborn_nas.export.timm_model import Trained

__all__ = ["bare_network"]

EXAMPLE = 8  # images

UNNAMED = ("own:module", "timm:unnamed")
"""Sources of architectures that were made from a module, not from a name."""


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
    """What an export needs, from an architecture and the network that was trained with it.

    Args:
        architecture: site → choice; what its backbone spec leaves open is taken from `model`.
        model: the converted network, as `convert` returned it and somebody trained it; a fresh one, with random
            weights, where None: then the card says so.
        input_size: (C, H, W) of one image, where neither spec nor model say it.
        classes: names in the order of the outputs; their numbers where None.
        mean, std: per channel; the model's own, else 0.5 and 0.25.

    Raises:
        ExportError: neither the architecture nor timm's note in the model say where its backbone comes from, or the
            network is no image classifier.
    """
    spec = _completed(architecture.backbone, model, input_size, classes)
    whole = architecture.with_backbone(spec)
    assert spec.input_size is not None
    conversion = plan(build(spec, device="meta"), whole, spec.input_size)
    from reborn_nas.models.converted import build_network

    if model is None:
        network = build_network(whole, conversion, timm_api=False).eval()
    else:
        if architecture.backbone.source in UNNAMED:
            _check_guess(build_network(whole, conversion, timm_api=False), model, spec)
        network = (
            copy.deepcopy(model).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
        )
    images = torch.randn(EXAMPLE, *spec.input_size, generator=torch.Generator().manual_seed(0))
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
    own: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    count = spec.input_size[0]
    known = list(own.get("mean", ())) if len(own.get("mean", ())) == count else None
    spread = list(own.get("std", ())) if len(own.get("std", ())) == count else None
    remark = {} if model is not None else {"weights": "random: this network has not been trained"}
    card = Card(
        name=name or f"{spec.name}-{whole.digest}",
        dataset="data that the export was not told of" if model is not None else "nothing",
        classes=list(classes) if classes is not None else [str(k) for k in range(spec.num_classes or 0)],
        mean=list(mean or known or [0.5] * count),
        std=list(std or spread or [0.25] * count),
        accuracies=accuracies,
        details=remark,
    )
    return Trained(dict(network.state_dict()), whole, {"input": images, "logits": logits}, card, conversion)


def _check_guess(built: nn.Module, model: nn.Module, spec: BackboneSpec) -> None:
    """Raise ExportError where the network that timm builds by the noted name has other weights than `model`."""
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
    """The spec with nothing open; a given network keeps the stem that it was built with."""
    own: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if spec.source in UNNAMED:
        if not is_model(str(own.get("architecture", ""))):
            raise ExportError(
                "the architecture does not say where its backbone comes from, so nobody could load the export; "
                'name it: architecture.with_backbone("resnet18"), or "path/to/file.py:factory"'
            )
        # timm writes the name into what it builds; whether other arguments matter is seen when the export is compared
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
