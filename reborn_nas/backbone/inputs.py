"""What a network is run with: the caller's example, or meta tensors of the size that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reborn_nas.errors import ConversionError


def inputs_of(model: nn.Module, input_size: Any = None, example_inputs: Any = None) -> Any:
    """`example_inputs` where given, else meta tensors of a batch of two images of `input_size`.

    Args:
        input_size: (C, H, W) of one image, or one such per input; by default the model's own (timm), else 224×224.
        example_inputs: a tensor, a tuple or list of arguments, or a mapping of keyword arguments.

    Raises:
        ConversionError: for a model that is none, a size that is none, and other kinds of examples.
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(
            f"a network is an nn.Module, not {_shown(model)}; build it first, as in timm.create_model('resnet18')"
        )
    if example_inputs is not None:
        if isinstance(example_inputs, str) or not isinstance(example_inputs, Tensor | Sequence | Mapping):
            raise ConversionError(
                "example_inputs is a tensor, a tuple of arguments or a mapping of keyword arguments, "
                f"not {_shown(example_inputs)}"
            )
        return example_inputs
    if input_size is None:
        config = getattr(model, "default_cfg", None) or {}
        input_size = config.get("input_size") if isinstance(config, Mapping) else None
    if input_size is None:
        first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
        input_size = (first.in_channels if first is not None else 3, 224, 224)
    dtypes = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    dtype = next(dtypes, torch.float32)
    return tuple(torch.empty((2, *size), dtype=dtype, device="meta") for size in _sizes(input_size))


def _sizes(given: Any) -> list[tuple[int, ...]]:
    """One size per input."""
    if isinstance(given, Sequence) and given and not isinstance(given, str):
        sizes = [tuple(each) for each in given] if isinstance(given[0], tuple | list) else [tuple(given)]
        if all(size and all(_is_count(number) for number in size) for size in sizes):
            return sizes
    raise ConversionError(
        f"input_size is (channels, height, width) of one image in positive whole numbers, or a tuple of such, "
        f"one per input; not {_shown(given)}"
    )


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
