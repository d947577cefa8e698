"""The cost of a network, counted on the meta device, or predicted without building the network.

Units, for one image's forward in eval mode:

- *params*: elements of the parameters; shared ones count once.
- *macs*: multiply-accumulates of convolutions, transposed convolutions, linear layers, matrix products and attention;
  one MAC is one multiplication and addition (FLOPs / 2). Norms, pointwise operations and biases are not counted.
- *activation_bytes*: bytes, at float32, of the results of all operations on feature maps except views and in-place
  operations: the memory traffic, most of which training keeps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from reborn_nas.activations import CHANNELS_LAST, extra_cost
from reborn_nas.architecture import ORIGINAL, Architecture, Choice
from reborn_nas.backbone.find import discover
from reborn_nas.backbone.replace.apply import apply
from reborn_nas.backbone.replace.plan import Placement
from reborn_nas.backbone.replace.planning import draft_plan
from reborn_nas.backbone.sites.non_sites import live_values
from reborn_nas.backbone.sites.site import Discovery, Site, site_values
from reborn_nas.backbone.trace.graph import Op, Trace, executions
from reborn_nas.backbone.trace.inputs import images_in, inputs_of
from reborn_nas.backbone.trace.ops import operation
from reborn_nas.backbone.trace.record import trace, trace_double
from reborn_nas.backbone.trace.replica import replicate


@dataclass(frozen=True)
class Cost:
    """Parameters, MACs and bytes of activations of one image; see the module's docstring for the units."""

    params: int
    macs: int
    activation_bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.activation_bytes + other.activation_bytes,
        )

    def __sub__(self, other: Cost) -> Cost:
        return self + Cost(-other.params, -other.macs, -other.activation_bytes)


def count(model: nn.Module, input_size: Any = None, *, example_inputs: Any = None) -> Cost:
    """Count the cost of `model` in one eval-mode run on the meta device.

    Args:
        input_size: (C, H, W) of one image.
        example_inputs: arguments of the forward, if it takes anything but one image batch.
    """
    inputs = inputs_of(model, input_size, example_inputs)
    run = trace(model, inputs, training=False)
    return Cost(_params(model), *_tally(run, run.ops, images_in(model, inputs)))


def predict(
    model: nn.Module,
    architecture: Architecture,
    input_size: Any = None,
    *,
    example_inputs: Any = None,
    discovery: Discovery | None = None,
) -> Cost:
    """Predict what `count` returns for the converted network. The backbone's own cost is cached.

    Only an architecture that doubles channels is built, on the meta device; for others the differences at its sites are
    added up.
    """
    found = discovery or discover(model, input_size, example_inputs=example_inputs)
    steps = draft_plan(model, architecture, found)
    if steps.widening is not None:
        new = apply(replicate(model, "meta"), steps, inplace=True)
        run = trace_double(new, found.inputs, training=False, quick=True)
        return Cost(_params(new), *_tally(run, run.ops, images_in(model, found.inputs)))
    sites = {site.name: site for site in found.sites}
    images = images_in(model, found.inputs)
    total = _base(model, found, images)
    for placement in steps.placements:
        if placement.choice != ORIGINAL.label:
            site = sites[placement.site]
            original = None if placement.replaces is None else model.get_submodule(placement.replaces)
            placed = _placed(placement, found, site, original, images)
            total = total + placed - _removed(found, site, original, images)
    return total


def added(choice: Choice | str, channels: int, shape: tuple[int, ...], layout: str) -> tuple[int, int]:
    """(parameters, MACs of one image) of `choice` at a site of this shape and layout."""
    size = shape[:-1] if layout in CHANNELS_LAST else shape[1:]
    return extra_cost(choice, channels, (channels, *size))


_BASES: WeakKeyDictionary[nn.Module, tuple[int, Cost]] = WeakKeyDictionary()
_BLOCKS: dict[tuple[Any, ...], Cost] = {}


def _base(model: nn.Module, found: Discovery, images: int) -> Cost:
    kept = _BASES.get(model)
    if kept is None or kept[0] != id(found.eval_trace):
        cost = Cost(_params(model), *_tally(found.eval_trace, found.eval_trace.ops, images))
        kept = _BASES[model] = (id(found.eval_trace), cost)
    return kept[1]


def _placed(
    placement: Placement, found: Discovery, site: Site, original: nn.Module | None, images: int
) -> Cost:
    """The cost of a new activation: its parameters once, its work for every run in a forward and for all rows."""
    run = found.eval_trace
    live = live_values(run)
    given = [value for value, _ in site_values(run, site)]
    if not given:
        return Cost(_block(placement, site.shape, original).params, 0, 0)
    macs = held = 0
    for value in given:
        rows, *shape = run.values[value].shape
        cost = _block(placement, tuple(shape), original)
        macs += cost.macs * rows
        held += cost.activation_bytes * rows * (value in live)
    return Cost(cost.params, macs // images, held // images)


def _block(placement: Placement, shape: tuple[int, ...], original: nn.Module | None) -> Cost:
    key = (placement.choice, placement.channels, shape, placement.layout, repr(original), placement.function)
    cost = _BLOCKS.get(key)
    if cost is None:
        with torch.device("meta"):
            block = placement.make(original, "xavier")
        cost = _BLOCKS[key] = count(block, example_inputs=torch.empty(2, *shape, device="meta"))
    return cost


def _removed(found: Discovery, site: Site, original: nn.Module | None, images: int) -> Cost:
    """The cost of the original activation."""
    params = 0 if original is None or site.kind == "shared" else _params(original)
    if site.train_only:
        return Cost(params, 0, 0)
    run = found.eval_trace
    made = {output for _, output in site_values(run, site)}
    ops: list[Op] = []
    if site.expression is not None:
        ops = [
            op
            for *_, result, parts in executions(run, site.owner, site.expression)
            if result in made
            for op in parts
        ]
    elif site.path is None:
        ops = [op for op in run.ops if made.intersection(op.outputs)]
    else:
        for call in run.calls:
            if call.path == site.path and made.intersection(call.outputs):
                ops += run.ops[call.first_op : call.last_op + 1]
    return Cost(params, *_tally(run, ops, images))


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _tally(run: Trace, ops: Iterable[Op], images: int) -> tuple[int, int]:
    """(MACs, activation bytes) of one of the images."""
    live = live_values(run)
    macs = held = 0
    for op in ops:
        macs += _macs(run, op)
        if not op.inplace and not operation(op.name).view and live.intersection(op.outputs):
            held += 4 * sum(math.prod(run.values[value].shape) for value in op.outputs)
    return macs // images, held // images


def _macs(run: Trace, op: Op) -> int:
    shapes = [run.values[value].shape for value in op.inputs]
    out = math.prod(run.values[op.outputs[0]].shape)
    match operation(op.name).macs:
        case "convolution":
            return out * math.prod(shapes[1][1:])
        case "transposed":
            return math.prod(shapes[0]) * math.prod(shapes[1][1:])
        case "product":
            return out * shapes[0][-1]
        case "added_product":
            return out * shapes[1][-1]
        case "attention":
            keys = shapes[1][-2]
            return math.prod(shapes[0]) * keys + out * keys
        case "einsum":
            return _einsum(op, shapes)
    return 0


def _einsum(op: Op, shapes: list[tuple[int, ...]]) -> int:
    """The product of all index sizes: one MAC for each combination."""
    equation = next((argument for argument in op.args if isinstance(argument, str)), "")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes):
        if "." in term:
            return 0
        sizes.update(zip(term, shape))
    return math.prod(sizes.values())
