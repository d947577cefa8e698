"""The deployment form of a network: split blocks, and BatchNorm folded into the preceding convolution."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from reborn_nas.activations.layout import CONVOLUTIONS, NORMS
from reborn_nas.activations.split import affine, scaled
from reborn_nas.errors import ConversionError

_CONVOLUTIONS, _NORMS = tuple(CONVOLUTIONS.values()), tuple(NORMS.values())


@dataclass(frozen=True)
class Pair:
    """State-dict paths of a convolution and of the BatchNorm that is its only reader."""

    conv: str
    norm: str


def fold_norms(model: nn.Module, pairs: Sequence[Pair] | None = None) -> tuple[Pair, ...]:
    """Fold, in place, every BatchNorm of `model` (in eval mode) that `find_pairs` proves foldable; returns the pairs.

    The convolution absorbs scale and shift (computed in float64) and gets a bias; a plain BatchNorm is replaced by
    `nn.Identity`, timm's BatchNormAct2d by its activation.

    Args:
        pairs: fold these pairs, from an earlier call on the same network, without tracing.

    Raises:
        ConversionError: `pairs` belong to another network.
    """
    chosen = tuple(find_pairs(model) if pairs is None else pairs)
    modules = dict(model.named_modules())
    for pair in chosen:
        conv, norm = modules.get(pair.conv), modules.get(pair.norm)
        if not isinstance(conv, _CONVOLUTIONS) or not isinstance(norm, _NORMS):
            raise ConversionError(
                f"the network has no convolution {pair.conv!r} with a BatchNorm {pair.norm!r} to fold into it; "
                "the list of folded pairs is another network's"
            )
        absorb(conv, norm)
        parent, _, name = pair.norm.rpartition(".")
        model.get_submodule(parent)._modules[name] = _rest(norm).eval()
    return chosen


def find_pairs(model: nn.Module) -> list[Pair]:
    """Find all pairs whose convolution runs once, feeds only the BatchNorm, and shares no weight.

    This is proved on a symbolic trace of `model`. If a part cannot be traced (its forward branches on values), its
    children are traced separately.
    """
    paths = Counter(id(part) for _, part in model.named_modules(remove_duplicate=False))
    owners = Counter(id(p) for part in model.modules() for p in part._parameters.values() if p is not None)
    found = []
    for pair in _pairs(deepcopy(model).to("meta"), ""):
        conv, norm = model.get_submodule(pair.conv), model.get_submodule(pair.norm)
        own = [*conv._parameters.values(), *norm._parameters.values()]
        unshared = paths[id(conv)] == paths[id(norm)] == 1 and all(
            owners[id(p)] == 1 for p in own if p is not None
        )
        hooked = any((part._forward_hooks, part._forward_pre_hooks) != ({}, {}) for part in (conv, norm))
        if unshared and not hooked:
            found.append(pair)
    return found


@torch.no_grad()
def absorb(conv: _ConvNd, norm: _BatchNorm) -> None:
    """Set the weight and bias of `conv` so that it computes norm(conv(x)) in eval mode."""
    scale, shift = affine(norm)
    dtype = conv.weight.dtype
    bias = shift if conv.bias is None else shift + conv.bias.double() * scale
    weight = scaled(conv.weight.double(), scale).to(dtype)
    conv.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=conv.weight.requires_grad)


class _Tracer(fx.Tracer):
    """Traces only into modules that contain a BatchNorm, so that other forwards need not be traceable."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm) or not any(isinstance(part, _NORMS) for part in m.modules())


def _pairs(module: nn.Module, prefix: str) -> list[Pair]:
    if isinstance(module, _NORMS) or not any(isinstance(part, _NORMS) for part in module.modules()):
        return []
    try:
        signature = inspect.signature(module.forward).parameters.values()
        defaults = {p.name: p.default for p in signature if p.default is not inspect.Parameter.empty}
        graph = _Tracer().trace(module, concrete_args=defaults or None)
    except Exception:  # a forward may do anything unsupported with a proxy
        return [pair for name, child in module.named_children() for pair in _pairs(child, f"{prefix}{name}.")]
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    found = []
    for node in graph.nodes:
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        names = (str(before.target), str(node.target))
        conv, norm = module.get_submodule(names[0]), module.get_submodule(names[1])
        if not (type(conv) in _CONVOLUTIONS and _is_foldable(norm)) or len(before.users) != 1:
            continue
        if all(calls[name] == 1 and name not in read for name in names):
            found.append(Pair(prefix + names[0], prefix + names[1]))
    return found


def _is_foldable(norm: nn.Module) -> bool:
    if not isinstance(norm, _BatchNorm) or norm.training:
        return False
    known = type(norm) in _NORMS or _has_act(norm)
    return known and norm.running_mean is not None and norm.running_var is not None


def _rest(norm: nn.Module) -> nn.Module:
    """The part of a norm after scale and shift."""
    if _has_act(norm):
        return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))
    return nn.Identity()


def _has_act(norm: nn.Module) -> bool:
    return type(norm).__name__ == "BatchNormAct2d" and type(norm).__module__.startswith("timm.layers")


M = TypeVar("M", bound=nn.Module)


def fold(model: M) -> M:
    """Return a copy of `model` in deployment form.

    Every activation block with a method `fuse()` is replaced by its result (a reborn block by its split form, see
    `reborn_nas.activations.split`); pointwise activations are kept. Then every BatchNorm is folded into the preceding
    convolution if that is proved exact (`reborn_nas.activations.folding`). In eval mode the copy computes the same as
    `model`, up to rounding; it is not meant for training. State-dict keys change. On a CPU,
    `.to(memory_format=torch.channels_last)` saves another twentieth of the time, which is left to the caller, since a
    forward with `Tensor.view` may refuse it.

    Raises:
        ConversionError: `model` or a part of it is in train mode, in which BatchNorm's statistics change.

    Example:
        >>> fast = fold(model.eval())
    """
    refuse_training(model)
    copy = deepcopy(model)
    if is_foldable(copy):
        return copy.fuse()  # type: ignore[operator,no-any-return]
    fold_in_place(copy)
    return copy


def fold_in_place(model: nn.Module, pairs: Sequence[Pair] | None = None) -> tuple[Pair, ...]:
    """Fold the blocks inside `model`, then the BatchNorms of `pairs`, or of those found foldable; returns the pairs.

    With the pairs returned for one network, a new network of the same architecture gets the same state-dict keys, even
    if a later version finds other pairs foldable.
    """
    fold_blocks(model)
    return fold_norms(model, pairs)


def is_foldable(module: nn.Module) -> bool:
    """Whether `module` is one of our activation blocks with a deployment form; other modules with a `fuse` are kept."""
    return (
        callable(getattr(module, "fuse", None))
        and hasattr(module, "channels")
        and hasattr(module, "out_channels")
    )


def fold_blocks(model: nn.Module) -> int:
    """Replace every foldable block inside `model` (a shared one by one shared form); returns their number."""
    forms: dict[int, nn.Module] = {}
    blocks: list[nn.Module] = []  # kept alive, so that ids are unique
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is None or not is_foldable(child):
                continue
            if id(child) not in forms:
                forms[id(child)] = child.fuse()  # type: ignore[operator]
                blocks.append(child)
            parent._modules[name] = forms[id(child)]
    return len(blocks)


def refuse_training(model: nn.Module) -> None:
    """Raise ConversionError if `model` or a part whose mode matters is in train mode."""
    for name, module in model.named_modules():
        if module.training and (module is model or is_foldable(module) or isinstance(module, _BatchNorm)):
            where = f"module {name!r}" if name else f"the {type(model).__name__}"
            raise ConversionError(
                f"fold: {where} is in train mode, where BatchNorm uses the batch's statistics and nothing can be "
                "folded; call model.eval() first"
            )
