"""Weights of an unconverted backbone: checkpoints of any training, read without running their code."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from reborn_nas.activations import CReLU, ExtendedConv, Reborn
from reborn_nas.architecture import BackboneSpec
from reborn_nas.errors import TrainingError, blame_machine, some_of
from reborn_nas.models.adapter import final_linear

__all__ = ["classifiers_of", "identities", "load_weights"]


def load_weights(model: nn.Module, path: str | os.PathLike[str], classifiers: tuple[str, ...]) -> list[str]:
    """Load a checkpoint into the unconverted `model`, and return notes on what was not loaded unchanged.

    A classifier that is missing or has other classes keeps its initial weights. A first convolution with another number
    of input channels is adapted as in timm: weights are summed for one channel, else repeated and scaled.

    Raises:
        TrainingError: there is no such file, it holds no weights or non-finite ones, or it is of another
            network.
    """
    given, notes = _read(Path(path), model)
    own = model.state_dict()
    heads = {f"{name}.{end}" for name in classifiers for end in ("weight", "bias")} & set(own)
    fresh = sorted(k for k in heads if k not in given or given[k].shape != own[k].shape)
    kept = {key: value for key, value in given.items() if key not in fresh}
    notes += _adapt_first_layer(model, kept)
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # torch had none before 0.4.1
    faults = [f"lacks {key}" for key in own if key not in kept and key not in fresh and key not in counters]
    faults += [f"has {key}, which the backbone has not" for key in kept if key not in own]
    faults += [
        f"{key} is {tuple(kept[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in kept and kept[key].shape != own[key].shape
    ]
    faults += [
        f"holds {key} as {kept[key].dtype}, not as floating-point numbers"
        for key in own
        if key in kept and own[key].is_floating_point() and not kept[key].is_floating_point()
    ]
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise TrainingError(
            f"{path} is not a checkpoint of this backbone: it {'; '.join(faults[:3])}{more}; name the backbone, its "
            "--model-arg and its --stem as it was trained (an ImageNet checkpoint has --stem original)"
        )
    broken = [
        k for k, value in kept.items() if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if broken:
        raise TrainingError(
            f"{path} holds numbers that are not finite, in {some_of(broken)}: the training that wrote it "
            "diverged; take an earlier checkpoint"
        )
    model.load_state_dict({**own, **kept})
    if fresh:
        why = "the checkpoint lacks it" if not set(fresh) & set(given) else "the parent's has other classes"
        notes.append(f"the classifier keeps its initial weights, since {why}: {', '.join(fresh)}")
    return notes


def _adapt_first_layer(model: nn.Module, given: dict[str, Tensor]) -> list[str]:
    """Adapt the first convolution's weights in `given` to the channels of `model`; returns notes."""
    name, conv = next(((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    key = f"{name}.weight"
    theirs = given.get(key)
    if conv is None or theirs is None or theirs.ndim != 4:
        return []
    want, have = conv.weight.shape, theirs.shape
    if conv.groups != 1 or want[1] == have[1] or (want[0], *want[2:]) != (have[0], *have[2:]):
        return []
    given[key] = adapt_input_conv(want[1], theirs, base_chans=have[1])
    how = "summed over" if want[1] == 1 else "repeated and scaled from"
    return [f"{key} takes {want[1]} channels: the checkpoint's are {how} its {have[1]}, as timm does"]


def _read(path: Path, model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a file, with the names of `model`, and notes; no code of a pickle is run."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise TrainingError(f"there is no checkpoint {file}")
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            with torch.serialization.safe_globals([Namespace]):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and pickle may raise anything
        blame_machine(error, file)
        raise TrainingError(
            f"{file} cannot be read as weights ({_why(error)}); safetensors and files of torch.save that hold only "
            "tensors are read, anything else may run code; convert yours: safetensors.torch.save_file(state_dict, FILE)"
        ) from error
    taken = ""
    for key in _STATE_DICTS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content, taken = content[key], key
            break
    if not isinstance(content, Mapping):
        raise TrainingError(f"{file} holds {type(content).__name__}, not a state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise TrainingError(f"{file} holds no tensors{f' in {taken}' if taken else ''}, so no weights")
    prefix = _prefix(tensors, model.state_dict())
    averaged = [where for where in (taken, f"{prefix}*") if _averaged(where)]
    notes = [f"the averaged weights of the checkpoint are taken ({averaged[0]})"] if averaged else []
    inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    outside = [name for name in tensors if not name.startswith(prefix)]
    if outside:
        notes.append(
            f"not loaded from the checkpoint, since they are outside of {prefix}*: {some_of(outside)}"
        )
    return inside, notes


def _why(error: Exception) -> str:
    """On one line, and of a pickle with other objects than tensors the first one: torch's own advice is to run it."""
    found = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
    if found:
        return f"it holds {found[1]}, not only tensors"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


_STATE_DICTS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "model_ema_state_dict",
    "ema_model_state_dict", "state_dict", "model_state_dict", "model", "net", "weights",
)  # fmt: skip
"""Keys under which timm, torchvision, Lightning and custom loops save a network's weights; averaged ones first."""


def _prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """The prefix that wrappers have added to the network's names: `module.`, `model.`, `_orig_mod.`, or "".

    Where a checkpoint has the network twice, that of the averaged one.
    """
    counts: Counter[str] = Counter()
    ends: dict[str, list[str]] = {}
    for name in own:
        ends.setdefault(name.rpartition(".")[2], []).append(name)
    for name in given:
        for inner in ends.get(name.rpartition(".")[2], ()):
            if name == inner or name.endswith(f".{inner}"):
                counts[name.removesuffix(inner)] += 1
    if not counts:
        return ""
    most = max(counts.values())
    found = [prefix for prefix, count in counts.items() if count == most]
    return min(found, key=lambda prefix: (not _averaged(prefix), len(prefix)))


def _averaged(name: str) -> bool:
    """Whether this is what a moving average is called."""
    return "ema" in re.split(r"[._]", name)


def classifiers_of(model: nn.Module, spec: BackboneSpec) -> tuple[str, ...]:
    """Paths of the last linear layers: those named by timm, else the one that computes the output."""
    config = getattr(model, "pretrained_cfg", None) or {}
    named = config.get("classifier")
    if named:
        return (named,) if isinstance(named, str) else tuple(named)
    found = final_linear(model, spec.input_size) if spec.input_size is not None and spec.num_classes else None
    return () if found is None else (found,)


def identities(model: nn.Module) -> tuple[str, ...]:
    """Weights that start at [I | 0]: weight decay would scale down the signal at every step."""
    names = []
    for path, module in model.named_modules():
        if isinstance(module, Reborn | CReLU) and module.compress is not None:
            names.append(f"{path}.compress.weight".lstrip("."))
        elif isinstance(module, ExtendedConv):
            names.append(f"{path}.conv.weight".lstrip("."))
    return tuple(names)
