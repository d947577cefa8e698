"""Backbone specs: from a name to a complete spec, from a spec to a network.

A source is `timm:NAME` (a bare name means timm), `torchvision:NAME`, `path/to/file.py:factory` or
`package.module:factory`. `resolve` completes a spec and proves on the meta device that the network runs at its input
size; `build` builds it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from reborn_nas.architecture import BackboneSpec
from reborn_nas.backbone.load.factory import files_of, load_factory, split_source
from reborn_nas.backbone.load.stem import SMALL, StemEdit, apply_stem, small_stem
from reborn_nas.backbone.load.third_party import reason_of, restored, way_out
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.seeds import kept_generators

_IMAGENET = (3, 224, 224)
_CHANNELS = {"file": ", or give its factory an argument in_chans, which gets the number of channels"}
_TRANSFORMING = ("torchvision:googlenet", "torchvision:inception_v3")
"""With published weights, torchvision builds these with other arguments: they transform their input first."""


def resolve(
    source: str | BackboneSpec,
    *,
    input_size: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    stem: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    pretrained: bool = False,
) -> BackboneSpec:
    """Complete the spec of a backbone, and check on the meta device that it runs.

    Args:
        source: a name, or a spec; keywords override the spec's fields.
        input_size: (C, H, W); the model's own (ImageNet's 224×224) by default.
        num_classes: number of outputs; the model's own by default.
        stem: "small" or "original"; by default "small" for images up to 64×64 if the stem is strided.
        arguments: further keyword arguments of the constructor.
        pretrained: the library's published weights will be loaded: the settings that they imply become arguments, so
            that the spec alone determines what is computed, even if it is built again without them.

    Raises:
        UnknownNameError: no library has the name.
        ConfigError: the network cannot be built or does not run at the input size.
    """
    given = BackboneSpec(source) if isinstance(source, str) else source
    if given.source.startswith("timm:") and (".py" in given.source or "/" in given.source):
        raise ConfigError(
            f"backbone {source!r}: a network of your own is path/to/file.py:factory or package.module:factory"
        )
    asked: dict[str, Any] = {
        "input_size": input_size,
        "num_classes": num_classes,
        "stem": stem,
        "arguments": arguments,
    }
    given = replace(given, **{key: value for key, value in asked.items() if value is not None})
    digest = _check_source(given)
    if pretrained and given.source in _TRANSFORMING:
        given = replace(given, arguments={"transform_input": True, **given.arguments})
    given = replace(given, source_digest=digest, input_size=given.input_size or _own_size(given))
    spec, probe = _first_that_runs(given)
    outputs = probe.classes if spec.num_classes is None else spec.num_classes
    if probe.classes is not None and outputs != probe.classes and spec.num_classes not in (None, 0):
        raise ConfigError(
            f"backbone {spec.source!r} returns {probe.classes} outputs where num_classes is {spec.num_classes}; "
            "give its factory an argument num_classes, or the number it has"
        )
    return replace(spec, num_classes=outputs, stem=spec.stem or "original")


def notes(spec: BackboneSpec) -> tuple[str, ...]:
    """Sentences for the user about a resolved spec."""
    if spec.stem != "small" or spec.input_size is None:
        return ()
    edit = _probe(replace(spec, stem="original")).edit
    size = "×".join(str(n) for n in spec.input_size[1:])
    return (f"{spec.name} at {size}: {edit.sentence} (stem='original' keeps it)",) if edit else ()


def build(
    spec: BackboneSpec | str,
    *,
    device: str | torch.device = "cpu",
    pretrained: bool = False,
    seed: int | None = None,
) -> nn.Module:
    """The network of `spec`, in train mode.

    Args:
        device: device of the network; "meta" builds without data, in milliseconds.
        pretrained: load the library's weights; this needs network access or a filled cache.
        seed: initialise from this seed, without touching the global generator; None uses the global generator.
    """
    complete = spec if isinstance(spec, BackboneSpec) and _is_complete(spec) else resolve(spec)
    on_meta = torch.device(device).type == "meta"
    fork = kept_generators() if seed is not None or on_meta else nullcontext()
    with fork:
        if seed is not None:
            torch.manual_seed(seed)
        if on_meta:
            model = _construct_meta(complete)
        else:
            model = _construct(complete, pretrained=pretrained)
    edit = _probe(replace(complete, stem="original")).edit if complete.stem == "small" else None
    if edit is not None:
        apply_stem(model, edit)
    return model if on_meta else model.to(device)


@dataclass(frozen=True)
class _Probe:
    """The result of a trial run on the meta device: stem edit, number of outputs, and the failure, if any."""

    edit: StemEdit | None
    classes: int | None
    failure: str | None


def _is_complete(spec: BackboneSpec) -> bool:
    return None not in (spec.input_size, spec.num_classes, spec.stem)


def _check_source(spec: BackboneSpec) -> str | None:
    """Refuse unknown names; the digest of a file."""
    if spec.library == "timm":
        base = spec.name.split(".", 1)[0]
        if not timm.is_model(base):
            hint = f"(torchvision has one: torchvision:{base})" if base in _torchvision_names() else ""
            raise unknown_name("timm model", spec.name, timm.list_models(), hint)
        return None
    if spec.library == "torchvision":
        if spec.name not in _torchvision_names():
            raise unknown_name("torchvision model", spec.name, _torchvision_names())
        return None
    load_factory(spec.source, digest=spec.source_digest)
    return spec.source_digest or files_of(split_source(spec.source)[0]).digest


def _own_size(spec: BackboneSpec) -> tuple[int, int, int]:
    if spec.library == "timm":
        config = timm.get_pretrained_cfg(spec.name, allow_unregistered=True)
        size = tuple(config.input_size) if config is not None else _IMAGENET
        return (size[0], size[1], size[2])
    return _IMAGENET


def _first_that_runs(spec: BackboneSpec) -> tuple[BackboneSpec, _Probe]:
    """The spec with a stem, and with further arguments if the network needs them to run at this size."""
    assert spec.input_size is not None
    more: list[dict[str, Any]] = [{}]
    if spec.library == "timm":
        more.append({"img_size": list(spec.input_size[1:])})  # for networks whose tables depend on the size
    elif spec.source in _TRANSFORMING:
        more.append({"aux_logits": False})  # auxiliary heads need large maps
    small = max(spec.input_size[1:]) <= SMALL
    first: str | None = None
    for extra in more:
        trial = replace(spec, arguments={**extra, **spec.arguments}, stem="original")
        try:
            probe = _probe(trial)
        except ConfigError as error:
            if not extra:
                raise
            first = first or str(error)
            continue
        wanted = spec.stem == "small" or (spec.stem is None and small)
        if spec.stem == "small" and probe.edit is None:
            raise ConfigError(
                f"backbone {spec.source!r}: its stem is not strided, so there is no stem='small'; leave out the stem"
            )
        if wanted and probe.edit is not None:
            small_trial = replace(trial, stem="small")
            finer = _probe(small_trial)
            if finer.failure is None or spec.stem == "small":  # else its maps do not fit: keep the stem
                trial, probe = small_trial, finer
        if probe.failure is None:
            return trial, probe
        first = first or probe.failure
    size = "×".join(str(n) for n in spec.input_size)
    advice = "use larger images (--image-size, or --input-size of `sites`)"
    if "channels" in (first or ""):
        offer = _CHANNELS.get(spec.library, "")
        advice = f"use images of as many channels as it takes (--input-size of `sites`){offer}"
    raise ConfigError(
        f"backbone {spec.source!r} does not run on images of {size}: {first}; {way_out(first or '', advice)}"
    )


@lru_cache(maxsize=512)
def _probe(spec: BackboneSpec) -> _Probe:
    """Run the network of `spec` once on the meta device in train mode, with the stem of the spec."""
    assert spec.input_size is not None
    with kept_generators():
        model = _construct_meta(spec)
        found = _run_once(model, spec)
        if (
            found.failure is not None and spec.library == "file"
        ):  # a forward that reads values, which meta tensors lack
            on_cpu = _run_once(_construct(spec, pretrained=False), spec)
            found = on_cpu if on_cpu.failure is None else replace(found, failure=on_cpu.failure)
    return found


def _run_once(model: nn.Module, spec: BackboneSpec) -> _Probe:
    assert spec.input_size is not None
    if spec.stem == "small":
        edit = _probe(replace(spec, stem="original")).edit
        if edit is not None:
            apply_stem(model, edit)
    order: list[tuple[str, nn.Module]] = []

    def record(path: str) -> Callable[..., None]:
        return lambda module, args: order.append((path, module))

    for path, module in model.named_modules():
        if not any(True for _ in module.children()) or isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(record(path))
    classes, failure = None, None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad(), torch.device(device), restored():
            classes = _outputs(model.train()(torch.empty(2, *spec.input_size).zero_()))
    except (Exception, SystemExit) as error:
        failure = reason_of(error)
    first = next((m for _, m in order if isinstance(m, nn.Conv2d)), None)
    edit = small_stem(order) if first is not None and first.in_channels == spec.input_size[0] else None
    return _Probe(edit, classes, failure)


def _outputs(result: Any) -> int | None:
    """The width of the (first) output, if that is one row per image."""
    while isinstance(result, tuple | list | Mapping) and len(result):
        result = next(iter(result.values())) if isinstance(result, Mapping) else result[0]
    return result.shape[1] if isinstance(result, Tensor) and result.ndim == 2 else None


def _construct_meta(spec: BackboneSpec) -> nn.Module:
    try:
        with torch.device("meta"):
            return _construct(spec, pretrained=False)
    except (RuntimeError, NotImplementedError):  # a constructor that reads its own weights
        return _construct(spec, pretrained=False).to("meta")
    except ConfigError as error:
        if not isinstance(error.__cause__, RuntimeError | NotImplementedError):
            raise
        return _construct(spec, pretrained=False).to("meta")


def _construct(spec: BackboneSpec, *, pretrained: bool) -> nn.Module:
    make = {"timm": _timm, "torchvision": _torchvision}.get(spec.library, _file)
    try:
        with warnings.catch_warnings(), restored():
            warnings.simplefilter("ignore")
            model = make(spec, pretrained)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        what = " with its pretrained weights (they need a network or a filled cache)" if pretrained else ""
        more = ""
        if "required positional" in str(error):
            more = "; give them with --model-arg NAME=VALUE"
        elif "'in_chans'" in str(error):
            more = "; use images of three channels, for it takes no others"
        raise ConfigError(
            f"backbone {spec.source!r} cannot be built{what}, arguments {dict(spec.arguments)}: "
            f"{type(error).__name__}: {reason_of(error).removeprefix(f'{type(error).__name__}: ')}{more}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"backbone {spec.source!r}: the factory returned {_shown(model)}, not a network (an nn.Module object)"
        )
    if next(model.parameters(), None) is None:
        raise ConfigError(f"backbone {spec.source!r} has no parameters, so there is nothing to train")
    return model


def _shown(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _torchvision_models() -> Any:
    import torchvision  # slow

    return torchvision.models


def _torchvision_names() -> list[str]:
    """torchvision's classification networks."""
    models = _torchvision_models()
    names: list[str] = models.list_models(module=models)
    return names


def _timm(spec: BackboneSpec, pretrained: bool) -> Any:
    open_: dict[str, Any] = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
    if spec.input_size is not None and spec.input_size[0] != 3:
        open_["in_chans"] = spec.input_size[0]
    return timm.create_model(spec.name, pretrained=pretrained, **open_, **spec.arguments)


def _file(spec: BackboneSpec, pretrained: bool) -> Any:
    if pretrained:
        raise ConfigError(f"backbone {spec.source!r}: pretrained weights are your factory's own affair")
    factory = load_factory(spec.source, digest=spec.source_digest)
    channels = None if spec.input_size is None else spec.input_size[0]
    offered = {
        "num_classes": spec.num_classes or None,  # 0: no classifier
        "in_chans": channels,
        "in_channels": channels,
        "input_size": spec.input_size,
    }
    try:
        takes = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        takes = {}  # type: ignore[assignment]
    named = {key: value for key, value in offered.items() if key in takes and value is not None}
    return factory(**{**named, **spec.arguments})


def _torchvision(spec: BackboneSpec, pretrained: bool) -> Any:
    arguments = dict(spec.arguments)
    if spec.source in _TRANSFORMING:
        arguments.setdefault("init_weights", not pretrained)
        arguments["aux_logits"] = (
            arguments.get("aux_logits", True) or pretrained
        )  # torchvision loads its weights into this form only
        if spec.input_size is not None and spec.input_size[0] != 3:
            arguments["transform_input"] = False
        arguments.setdefault("transform_input", False)
    if not pretrained and spec.num_classes is not None:
        arguments["num_classes"] = spec.num_classes
    weights = "DEFAULT" if pretrained else None
    model = _torchvision_models().get_model(spec.name, weights=weights, **arguments)
    if pretrained and spec.arguments.get("aux_logits") is False and spec.source in _TRANSFORMING:
        _drop_auxiliary(model)
    if pretrained and spec.num_classes is not None:
        _replace_head(model, _IMAGENET_CLASSES, spec.num_classes)
    if spec.input_size is not None and spec.input_size[0] != 3:
        _replace_first_conv(model, spec.input_size[0], pretrained)
    return model


def _drop_auxiliary(model: nn.Module) -> None:
    """Remove the auxiliary heads, as torchvision does."""
    model.aux_logits = False  # type: ignore[assignment]
    for name in ("aux1", "aux2", "AuxLogits"):
        if name in model._modules:
            setattr(model, name, None)


_IMAGENET_CLASSES = 1000


def _replace_head(model: nn.Module, old: int, new: int) -> None:
    """Replace the last layer (also of auxiliary heads) by one with `new` outputs instead of `old`."""
    if old == new:
        return
    for path, module in list(model.named_modules()):
        fresh: nn.Module
        if isinstance(module, nn.Linear) and module.out_features == old:
            fresh = nn.Linear(module.in_features, new, module.bias is not None)
        elif isinstance(module, nn.Conv2d) and module.out_channels == old and module.kernel_size == (1, 1):
            fresh = nn.Conv2d(module.in_channels, new, 1, bias=module.bias is not None)
        else:
            continue
        model.set_submodule(path, fresh)


def _replace_first_conv(model: nn.Module, channels: int, pretrained: bool) -> None:
    """Replace the first convolution by one for `channels`: pretrained weights are adapted as in timm, others drawn."""
    conv = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if conv is None or conv.groups != 1:
        raise ConfigError(
            f"{type(model).__name__} has no plain first convolution; it takes {_IMAGENET[0]} channels only"
        )
    old = conv.weight.detach()
    if pretrained:
        weight = adapt_input_conv(channels, old)
    else:
        spread = 0.0 if old.is_meta else float(old.std())
        weight = torch.empty(old.shape[0], channels, *old.shape[2:], device=old.device)
        nn.init.normal_(weight, std=spread * (old.shape[1] / channels) ** 0.5)
    conv.weight = nn.Parameter(weight)
    conv.in_channels = channels
