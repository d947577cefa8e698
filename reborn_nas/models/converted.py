"""Converted networks as timm models: `reborn_model` builds any backbone with any architecture.

timm has no plug-ins: these models are registered when `reborn_nas` is imported. The conversion happens inside the
callable that timm's `build_model_with_cfg` calls, so that weights are loaded and features extracted as for timm's
models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import FeatureGetterNet, FeatureHookNet
from torch import nn

from reborn_nas.activations import fold_in_place, get_family
from reborn_nas.architecture import ORIGINAL, Architecture, BackboneSpec, Choice
from reborn_nas.backbone import Plan, apply, build, find_sites
from reborn_nas.backbone import plan as make_plan
from reborn_nas.errors import ConfigError, SiteError
from reborn_nas.models.adapter import adapted, small_cfg
from reborn_nas.models.exported import folded_pairs, located, read_weights, stored_plan, vet_folder

__all__ = ["build_network", "reborn_model", "reborn_resnet18", "reborn_resnet34", "reborn_resnet50"]

REBORN = Choice("reborn", kernel_size=3, compression="1x1")


def build_network(
    architecture: Architecture, plan: Plan | None = None, *, timm_api: bool = True, **arguments: Any
) -> nn.Module:
    """Build a new network of `architecture`.

    Args:
        architecture: its backbone spec must have input size and classes.
        plan: plan of the conversion, if known; nothing is traced then.
        timm_api: wrap networks not from timm to give them its interface.
        arguments: further arguments of the backbone's constructor.
    """
    spec = architecture.backbone
    device, dtype = arguments.pop("device", None), arguments.pop("dtype", None)
    if arguments:
        spec = replace(spec, arguments={**spec.arguments, **arguments})
    on_meta = device is not None and torch.device(device).type == "meta"
    try:
        model = build(spec, device="meta" if on_meta else "cpu").to(device=device, dtype=dtype)
    except ConfigError as error:
        if isinstance(error.__cause__, TypeError):  # as in timm, an unknown argument is a TypeError
            raise error.__cause__ from None
        raise
    if plan is None:
        plan = make_plan(model, architecture, spec.input_size)
    placed = {placement.site for placement in plan.placements}
    if stray := [site for site in architecture.choices if site not in placed]:
        raise SiteError(
            f"the architecture has a choice for site {stray[0]!r}, but its stored conversion has none; one of the two "
            "was changed: convert the architecture again, without a plan"
        )
    model = apply(model, plan)
    if timm_api and spec.library != "timm":
        assert spec.input_size is not None
        return adapted(model, spec.input_size, spec.num_classes)
    return model


def _network(architecture: Architecture, plan: Plan | None, kwargs: dict[str, Any]) -> nn.Module:
    """Build a network in timm's builder, whose arguments become those of the spec."""
    spec = architecture.backbone
    channels = kwargs.pop("in_chans", None)
    classes = kwargs.pop("num_classes", None)
    pool = kwargs.pop("global_pool", None)
    size = spec.input_size or (3, 224, 224)
    changed = replace(
        spec,
        input_size=(channels or size[0], *size[1:]),
        num_classes=spec.num_classes if classes is None else classes,
    )
    wanted = changed.num_classes
    folded = kwargs.pop("folded", None)
    # with a classifier at first: not every network can be built without, and a widening needs to see it
    headless = not wanted and (spec.library != "timm" or _doubles(architecture))
    if headless:
        changed = replace(changed, num_classes=spec.num_classes or 1)
    model = build_network(architecture.with_backbone(changed), plan, **kwargs)
    if headless:
        model.reset_classifier(0)  # type: ignore[operator]
    if folded is not None:
        fold_in_place(model, folded_pairs(folded))
    if pool not in (None, "avg"):  # after the conversion: a head without pooling may lack some of the sites
        model.reset_classifier(wanted, pool)  # type: ignore[operator]
    return model


def _doubles(architecture: Architecture) -> bool:
    """Whether some choice returns both phases uncompressed."""
    return any(
        choice.name != ORIGINAL.name and get_family(choice.name).channel_factor(**choice.options) > 1
        for choice in architecture.choices.values()
    )


class _Capture(FeatureHookNet):
    """A substitute for a feature extractor that stores the arguments from timm."""

    def __new__(cls, model: nn.Module, **config: Any) -> Any:
        holder = nn.Identity()
        holder.config = config  # type: ignore[assignment]
        holder.network = model
        return holder


def feature_config(spec: BackboneSpec) -> dict[str, Any]:
    """How timm extracts features from this family: the `feature_cfg` of its entry point."""
    if spec.library != "timm":
        return {}
    with torch.device("meta"):
        holder = timm.create_model(
            spec.name, features_only=True, feature_cls=_Capture, **dict(spec.arguments)
        )
    config = dict(getattr(holder, "config", {}))
    config.pop("output_fmt", None)
    return config


def _build(
    variant: str, pretrained: bool, architecture: Architecture, plan: Plan | None, kwargs: Any
) -> nn.Module:
    features: dict[str, Any] = {}
    if kwargs.get("features_only"):
        if architecture.backbone.library != "timm":
            raise ConfigError(
                f"{architecture.backbone.source!r} is not from timm and has no features_only; use forward_features, "
                "or torchvision.models.feature_extraction on the network"
            )
        features = feature_config(architecture.backbone)
        if (
            "feature_cls" not in kwargs
            and "feature_cls" not in features
            and "flatten_sequential" not in features
        ):
            features["feature_cls"] = FeatureGetterNet
    model: nn.Module = build_model_with_cfg(
        lambda **arguments: _network(architecture, plan, arguments),
        variant,
        pretrained,
        feature_cfg=features,
        **kwargs,
    )
    return model


def _cfg() -> dict[str, Any]:
    """timm's configuration of a ResNet."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "mit",
    }


default_cfgs = generate_default_cfgs(
    {
        "reborn_resnet18": _cfg(),
        "reborn_resnet34": _cfg(),
        "reborn_resnet50": _cfg(),
        "reborn_convnet5": small_cfg(pool_size=(8, 8)),
        "reborn_convnet8": small_cfg(pool_size=(2, 2)),
        "reborn_convnet13": small_cfg(pool_size=(1, 1)),
        "reborn_paper_resnet34": small_cfg(pool_size=(4, 4), first_conv="conv1", classifier="fc"),
        "reborn_model": small_cfg(pool_size=(8, 8)),
    }
)


def as_architecture(value: Any, spec: BackboneSpec) -> Architecture:
    """Convert `architecture=`: an Architecture, its JSON (string or dict), a label for every site, or None."""
    if value is None:
        value = REBORN.label
    if isinstance(value, Architecture):
        return value
    if isinstance(value, Mapping):
        return Architecture.from_dict(value)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return Architecture.from_json(value)
    choice = Choice.parse(value) if isinstance(value, str) else value
    if not isinstance(choice, Choice):
        raise ConfigError(
            f"architecture= is an Architecture, its JSON or an activation's label, not {value!r}"
        )
    model = build(spec, device="meta")
    sites = find_sites(model, spec.input_size)
    return Architecture(spec, {site.name: choice for site in sites if site.admits(choice)})


def _of(variant: str, backbone: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """A registered model on a fixed backbone; arguments of the backbone's constructor are passed on."""
    config = default_cfgs[variant].default
    spec = BackboneSpec(
        backbone, input_size=config.input_size, num_classes=config.num_classes, stem="original"
    )
    architecture = as_architecture(kwargs.pop("architecture", None), spec)
    return _build(variant, pretrained, architecture, None, kwargs)


@register_model
def reborn_resnet18(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with a reborn block at every site, or with `architecture=`."""
    return _of("reborn_resnet18", "timm:resnet18", pretrained, kwargs)


@register_model
def reborn_resnet34(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34 with a reborn block at every site, or with `architecture=`."""
    return _of("reborn_resnet34", "timm:resnet34", pretrained, kwargs)


@register_model
def reborn_resnet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 with a reborn block at every site, or with `architecture=`."""
    return _of("reborn_resnet50", "timm:resnet50", pretrained, kwargs)


@register_model
def reborn_convnet5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`convnet5` with a reborn block at every site, or with `architecture=`."""
    return _of("reborn_convnet5", "timm:convnet5", pretrained, kwargs)


@register_model
def reborn_convnet8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`convnet8` with a reborn block at every site, or with `architecture=`."""
    return _of("reborn_convnet8", "timm:convnet8", pretrained, kwargs)


@register_model
def reborn_convnet13(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`convnet13` with a reborn block at every site, or with `architecture=`."""
    return _of("reborn_convnet13", "timm:convnet13", pretrained, kwargs)


@register_model
def reborn_paper_resnet34(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`paper_resnet34` with a reborn block at every site, or with `architecture=`."""
    return _of("reborn_paper_resnet34", "timm:paper_resnet34", pretrained, kwargs)


@register_model
def reborn_model(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Any backbone with any architecture: the entry point of every export.

    Args:
        pretrained: load the weights next to the export's config.json.
        kwargs: `architecture` (an `Architecture` or its JSON), `plan` (its conversion, as JSON), `folded` (the
            convolutions and norms that a folded export joined), `trust_source` (run the source file of an export of a
            user's network), and timm's.
            Without an architecture, the five-layer network with reborn blocks.
    """
    if kwargs.get("architecture") is None:
        return _of("reborn_model", "timm:convnet5", pretrained, kwargs)
    source = kwargs.get("pretrained_cfg")
    folder = vet_folder(source, pretrained)
    architecture = as_architecture(kwargs.pop("architecture"), BackboneSpec("timm:convnet5"))
    plan = stored_plan(kwargs.pop("plan", None))
    architecture = located(architecture, source, folder, kwargs.pop("trust_source", False) is True)
    if folder is None or not pretrained:
        return _build("reborn_model", pretrained, architecture, plan, kwargs)
    # read here and passed on: timm before 1.0.26 cannot read safetensors from a folder, and where a
    # folder holds a pickle instead, it is executed
    kwargs["pretrained_cfg"] = {
        **(source or {}),
        "source": "",
        "file": None,
        "state_dict": read_weights(folder),
    }
    model = _build("reborn_model", pretrained, architecture, plan, kwargs)
    config: Any = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict):
        config.update(source="local-dir", file=str(folder))
        config.pop("state_dict", None)
    return model
