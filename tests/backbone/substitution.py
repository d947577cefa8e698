"""The oracle of conversion: other activations substituted in flight, on the untouched network.

A `TorchFunctionMode` counts the calls of activation functions and answers the k-th itself. Nothing is rewritten and
no module is replaced. Which site the k-th call belongs to is read off the recorded run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reborn_nas.backbone.sites.site import Discovery, site_values

NAMES = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "rrelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "hardtanh",
    ]
)


class Substitution(TorchFunctionMode):
    """Answers the k-th activation call with a leaky ReLU of slope `slopes[k]`, where it has one."""

    def __init__(self, slopes: Mapping[int, float]) -> None:
        super().__init__()
        self.slopes, self.number, self.done = slopes, -1, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").strip("_") in NAMES:
            self.number += 1
            slope = self.slopes.get(self.number)
            if slope is not None:
                self.done += 1
                x = args[0] if args else kwargs["input"]
                y = torch.where(x > 0, x, slope * x)
                return x.copy_(y) if func.__name__.endswith("_") else y
        return func(*args, **(kwargs or {}))


def slopes_of(found: Discovery) -> dict[str, float]:
    """A unique slope for each site."""
    return {site.name: round(0.02 + 0.001 * site.index, 4) for site in found.sites}


def substituted(model: nn.Module, found: Discovery, inputs: tuple[Tensor, ...]) -> Any:
    """The output of `model`, in its mode, with each site's activation a leaky ReLU with a unique slope."""
    run = found.train_trace if model.training else found.eval_trace
    assert run is not None
    ordinals, number = {}, 0
    for op in run.ops:
        if op.name in NAMES:
            ordinals[op.index] = number
            number += 1
    slopes: dict[int, float] = {}
    for site in found.sites:
        for _, output in site_values(run, site):
            op = run.producer(output)
            while op is not None and op.name not in NAMES:  # GammaAct multiplies behind its activation
                op = run.producer(op.inputs[0])
            assert op is not None
            assert ordinals[op.index] not in slopes
            slopes[ordinals[op.index]] = slopes_of(found)[site.name]
    with Substitution(slopes) as mode:
        output = model(*inputs)
    assert mode.done == len(slopes)
    return output
