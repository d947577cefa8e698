"""The deployment form of a whole network: the same function in eval mode, with less to compute."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reborn_nas.activations.norms import Pair, fold_norms
from reborn_nas.errors import ConversionError

M = TypeVar("M", bound=nn.Module)


def fold(model: M) -> M:
    """A copy of `model` in deployment form.

    Every activation block that can is replaced by what its `fuse()` returns (a reborn block by its split form,
    see `reborn_nas.activations.split`); point-wise activations stay. Then every BatchNorm moves into the convolution
    before it where that is proved exact (`reborn_nas.activations.norms`). In eval mode the copy computes what
    `model` does, to rounding; it is not meant to be trained. State-dict keys change. On a CPU it gains another
    twentieth in `.to(memory_format=torch.channels_last)`, which is left to the caller: a forward with `Tensor.view`
    may refuse it.

    Raises:
        ConversionError: `model` or a part of it is in train mode, where BatchNorm's statistics still move.

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

    With the pairs that a network's folding returned, a fresh network of the same architecture gets the same
    state-dict keys, whatever a later version finds foldable.
    """
    fold_blocks(model)
    return fold_norms(model, pairs)


def is_foldable(module: nn.Module) -> bool:
    """Whether `module` is an activation block with a deployment form: those of others that have a `fuse` stay."""
    return (
        callable(getattr(module, "fuse", None))
        and hasattr(module, "channels")
        and hasattr(module, "out_channels")
    )


def fold_blocks(model: nn.Module) -> int:
    """Replace every foldable block inside `model`, a shared one by one shared form; returns how many there were."""
    forms: dict[int, nn.Module] = {}
    blocks: list[nn.Module] = []  # keeps them alive, so that ids stay unique
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
    """Raise ConversionError when `model` or a part whose mode matters is in train mode."""
    for name, module in model.named_modules():
        if module.training and (module is model or is_foldable(module) or isinstance(module, _BatchNorm)):
            where = f"module {name!r}" if name else f"the {type(model).__name__}"
            raise ConversionError(
                f"fold: {where} is in train mode, where BatchNorm uses the batch's statistics and nothing can be "
                "folded; call model.eval() first"
            )
