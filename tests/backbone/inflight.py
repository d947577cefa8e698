"""Doubling in flight: an activation of an untouched class gives both halves while the network runs.

Nothing of conversion is used, so that widened consumers can be judged by their numbers alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reborn_nas.backbone.find import discover
from reborn_nas.backbone.layers.steps import Widening
from reborn_nas.backbone.sites.site import Discovery, Site, site_values
from reborn_nas.backbone.trace.graph import Trace
from reborn_nas.backbone.widen.edit import apply_widening
from reborn_nas.backbone.widen.walk import widening

NAMES = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "hardtanh",
        "prelu",
    ]
)


class Doubling(TorchFunctionMode):
    """While it is on, chosen activation calls give cat([act(x), act(other(x))]) along their channels.

    Args:
        places: number of the activation call in execution order → dimension of its channels.
        other: what the second half is an activation of; `torch.neg` gives CReLU.
    """

    def __init__(self, places: Mapping[int, int], other: Callable[[Tensor], Tensor] = torch.neg) -> None:
        super().__init__()
        self.places, self.other, self.calls = places, other, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").strip("_") not in NAMES:
            return func(*args, **kwargs)
        self.calls += 1
        if self.calls - 1 not in self.places:
            return func(*args, **kwargs)
        x, rest = args[0].clone(), args[1:]
        halves = [func(half, *rest, **kwargs) for half in (x.clone(), self.other(x))]
        return torch.cat(halves, self.places[self.calls - 1])


def places_of(run: Trace, sites: Sequence[Site]) -> dict[int, int]:
    """Which activation calls of the run the sites are, with the dimension of their channels."""
    acts = [op for op in run.ops if op.name in NAMES]
    number = {value: n for n, op in enumerate(acts) for value in op.outputs}
    dims = {"nhwc": -1, "nlc": -1}
    return {number[made]: dims.get(site.layout, 1) for site in sites for _, made in site_values(run, site)}


def runs(found: Discovery) -> list[Trace]:
    """The traces of a discovery."""
    return [run for run in (found.eval_trace, found.train_trace) if run is not None]


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms, biases and scales away from their neutral start, which would hide a wrong channel."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if (
                    tensor is None
                    or not tensor.is_floating_point()
                    or tensor.numel() != max(tensor.shape, default=1)
                ):
                    continue
                if name in ("running_var", "weight", "gamma", "scale"):
                    tensor.uniform_(0.7, 1.3, generator=generator)
                else:
                    tensor.normal_(0, 0.1, generator=generator)
    return model


def share_with_copies(wide: nn.Module, plain: nn.Module, widening: Widening, part: float = 0.3) -> None:
    """Let the extra channels carry `part` of each old weight, the true channels the rest.

    Where every extra channel equals its true one, the widened network then computes what the plain one does if, and
    only if, each new column reads the channel that it should. Norms get copies for the same reason.
    """
    for step in widening.steps:
        old, new = plain.get_submodule(step.module), wide.get_submodule(step.module)
        entries = step.channels.entries()
        with torch.no_grad():
            if step.action == "norm":
                for name in step.tensors:
                    getattr(new, name).copy_(getattr(old, name)[[channel for channel, _ in entries]])
            if step.action not in ("consume", "experts"):
                continue
            weights = [(old.weight, new.weight)]
            if step.action == "experts":
                shapes = (old.weight_shape, new.weight_shape)
                weights = [(o.view(shapes[0]), n.view(shapes[1])) for o, n in zip(old.weight, new.weight)]
            copies = [sum(e and c == channel for c, e in entries) for channel in range(step.channels.size)]
            in_group = step.channels.size // step.groups
            for (before, after), group in product(weights, range(step.groups)):
                mine = [(c, e) for c, e in entries if c // in_group == group]
                for column, (channel, extra) in enumerate(mine):
                    n = copies[channel]
                    share = part / n if extra else 1 - part * (n > 0)
                    if step.dim == 0:  # a transposed convolution, whose inputs come first
                        after[column] = share * before[channel]
                        continue
                    rows = slice(group * len(before) // step.groups, (group + 1) * len(before) // step.groups)
                    after[rows, column] = share * before[rows, channel % in_group]


def found_in(model: nn.Module) -> Discovery:
    """The sites of a small network on images of 12×10 pixels."""
    return discover(model, (3, 12, 10))


def error_of(model: nn.Module, wanted: Tensor, x: Tensor, mode: Doubling) -> float:
    """The relative error of `model` against `wanted`, with doubling in flight."""
    with torch.no_grad(), mode:
        got = model(x)
    return float((got - wanted).norm() / wanted.norm())


def check(
    model: nn.Module, found: Discovery, sites: Sequence[Site], x: Tensor, *, in_training: bool = False
) -> None:
    """Zero weights keep the function; new weights read the channel beside which they stand."""
    made = widening(runs(found), sites)
    assert isinstance(made, Widening), made
    made = Widening.from_dict(json.loads(json.dumps(made.to_dict())))
    places = places_of(found.train_trace if in_training else found.eval_trace, sites)
    wide = apply_widening(copy.deepcopy(model), made)
    assert list(wide.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        wanted = model(x)
    assert error_of(wide, wanted, x, Doubling(places)) <= 1e-5
    share_with_copies(wide, model, made)
    if not any(step.action == "standardised" for step in made.steps):
        assert error_of(wide, wanted, x, Doubling(places, other=torch.clone)) <= 1e-5
