"""What a user's training keeps to go on from, as tensors and JSON: nested state_dict()s without pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from reborn_nas.errors import TrainingError

__all__ = ["pack", "unpack"]


def pack(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors by number, and the structure that they stand in as JSON.

    Raises:
        TrainingError: something else than tensors, arrays, numbers, text, None, lists, tuples and dicts.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, json.dumps(_packed(dict(state), tensors, "save"))


def unpack(tensors: Mapping[str, torch.Tensor], text: str) -> dict[str, Any]:
    """The inverse of `pack`; tensors are on the CPU."""
    found: dict[str, Any] = _unpacked(json.loads(text), tensors)
    return found


def _packed(value: Any, tensors: dict[str, torch.Tensor], place: str) -> Any:
    if isinstance(value, torch.Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        name = str(len(tensors))
        made = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        tensors[name] = made.detach().cpu().contiguous().clone()
        return {kind: name}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {
            "dict": [
                [_packed(k, tensors, place), _packed(v, tensors, f"{place}.{k}")] for k, v in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(item, tensors, f"{place}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TrainingError(
        f"job.{place}: keeps tensors, arrays, numbers, text and what is made of them, not {type(value).__name__}; of a "
        "network or an optimiser give its state_dict()"
    )


def _unpacked(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "array":
        return tensors[inner].numpy()
    if kind == "float":
        return float(inner)
    if kind == "dict":
        return {_unpacked(k, tensors): _unpacked(v, tensors) for k, v in inner}
    items = [_unpacked(item, tensors) for item in inner]
    return items if kind == "list" else tuple(items)
