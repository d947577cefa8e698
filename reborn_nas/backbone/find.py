"""Activation sites: where a nonlinear activation acts on a feature map; found by running the network once per mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from reborn_nas.activations import CHANNELS_LAST
from reborn_nas.backbone.forward.rewrite import locate
from reborn_nas.backbone.layers.steps import Refusal
from reborn_nas.backbone.proof.prove import prove
from reborn_nas.backbone.proof.record import Proving, recorded_proof
from reborn_nas.backbone.sites.axes import channel_axes, layout_name
from reborn_nas.backbone.sites.non_sites import (
    fused_norms,
    gate_reason,
    live_values,
    outside_torch,
    with_formulas,
    written_out,
)
from reborn_nas.backbone.sites.places import BlockFinder, Place, find_places
from reborn_nas.backbone.sites.site import Discovery, NonSite, Site
from reborn_nas.backbone.sites.units import Unit, find_units
from reborn_nas.backbone.trace.graph import Trace
from reborn_nas.backbone.trace.inputs import inputs_of
from reborn_nas.backbone.trace.record import trace_modes
from reborn_nas.backbone.trace.replica import replace_tensors
from reborn_nas.backbone.widen.walk import widening
from reborn_nas.errors import ConversionError


def find_sites(model: nn.Module, input_size: Any = None, *, example_inputs: Any = None) -> tuple[Site, ...]:
    """Find the activation sites of `model`, in execution order, including those of train mode only.

    Args:
        input_size: (C, H, W) of one image, or one such per input; by default the model's own (timm), else 224×224.
        example_inputs: alternatively, the arguments of the forward, in any structure: a tuple of positional arguments,
            a dict of keyword arguments, or a single argument, such as a list of images. A dict that is itself an
            argument goes into a tuple: `({"image": x},)`.

    Raises:
        ConversionError: the forward does not run; the message names the module and the reason.

    Example:
        >>> [site.name for site in find_sites(timm.create_model("resnet18"), (3, 32, 32))][:2]
        ['act1', 'layer1.0.act1']
    """
    return discover(model, input_size, example_inputs=example_inputs).sites


def non_sites(model: nn.Module, input_size: Any = None, *, example_inputs: Any = None) -> tuple[NonSite, ...]:
    """Find the activations that are not sites by definition: gates, spatial attention, EvoNorm, FRN's TLU."""
    return discover(model, input_size, example_inputs=example_inputs).others


def discover(
    model: nn.Module,
    input_size: Any = None,
    *,
    example_inputs: Any = None,
    proofs: Mapping[str, Any] | None = None,
) -> Discovery:
    """Trace `model` in both modes and find its sites in the data flow.

    Args:
        proofs: result of `proof_record` for this network from another process, so that it is not proved again.
    """
    inputs = inputs_of(model, input_size, example_inputs)
    proving = Proving(model, inputs, prove)
    search = _Search(model, trace_modes(model, inputs), proving)
    sites, others = search.split()
    eval_trace, train_trace = search.eval_trace, search.train_trace
    given = replace_tensors(inputs, Tensor.detach)
    found = Discovery(sites, others, eval_trace, train_trace, given, proving)
    proof = recorded_proof(model, found.traces, proofs) if proofs else None
    proving.settle(found, model, on_cpu=any(run.on_cpu for run in found.traces), proof=proof)
    return found


class _Search:
    """Finds the sites of a network in its traces."""

    def __init__(self, model: nn.Module, traces: tuple[Trace, Trace | None], proving: Proving) -> None:
        self.eval_trace, self.train_trace = traces
        self.traces = tuple(run for run in traces if run is not None)
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.live = tuple(live_values(run) for run in self.traces)
        self.axes = tuple(channel_axes(run) for run in self.traces)
        self.blocks, self.stages = BlockFinder(self.modules), _Stages()
        self.doubling, self.proving = _Doubling(self.traces), proving

    def split(self) -> tuple[tuple[Site, ...], tuple[NonSite, ...]]:
        """The sites, and the activations that are not sites."""
        fused = fused_norms(self.modules)
        activating = {norm.name for norm in fused}
        units, formulas = with_formulas(
            self.traces, find_units(self.traces, self.modules, self.live), self.live
        )
        places = [place for place in find_places(self.traces, units) if place.first.owner not in activating]
        classes = {path: type(module).__name__ for path, module in self.modules.items()}
        sites: list[Site] = []
        others: list[NonSite] = []
        for place in places:
            number = place.mode
            run, unit = self.traces[number], place.first
            shape = run.values[unit.output].shape
            reason = gate_reason(run, unit, self.live[number], classes)
            if reason is None and len(shape) < 2:
                reason = f"acts on a tensor of shape {shape}, which has no channels"
            if reason is None:
                sites.append(self._site(place, len(sites), places))
            else:
                others.append(NonSite(place.name, unit.activation, shape[1:], reason))
        self.doubling.sites = tuple(sites)
        others += written_out(self.traces, formulas) + outside_torch(self.traces, self.live)
        return tuple(sites), (*others, *fused)

    def _site(self, place: Place, index: int, places: Sequence[Place]) -> Site:
        unit, train_only = place.first, place.mode > 0
        shape, axis = self._shape(place.mode, unit), self.axes[place.mode][unit.output]
        layout = layout_name(len(shape), axis)
        runs = zip(range(len(self.traces)), place.runs)
        widths = {self._shape(number, each)[axis] for number, units in runs for each in units}
        fault = _width_fault(widths) or _mixed_fault(place, places, self.modules)
        return Site(
            name=place.name,
            index=index,
            channels=shape[axis],
            shape=tuple(shape[1:]),
            activation=unit.activation,
            layout=layout,
            stage=self.stages.stage(shape, layout, train_only=train_only),
            block=self.blocks.block(unit.path or (unit.owner and f"{unit.owner}.{unit.name}")),
            kind=place.kind,
            owner=unit.owner,
            attribute=unit.path and unit.path.rsplit(".", 1)[-1],
            path=unit.path,
            span=place.span,
            inplace=unit.inplace,
            train_only=train_only,
            iteration=place.iteration,
            in_loop=place.turns > 0,
            repeated=place.repeated,
            own_fault=fault or _source_fault(place, self.modules),
            expression=unit.expression,
            label=unit.label,
            _doubling=self.doubling,
            _proving=self.proving,
        )

    def _shape(self, number: int, unit: Unit) -> tuple[int, ...]:
        """The shape of a unit's result in the trace of this number."""
        return self.traces[number].values[unit.output].shape


class _Doubling:
    """Caches for each site whether its consumers can be widened. Pickled without the traces."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        self._traces = tuple(traces)
        self._answers: dict[str, str | None] = {}
        self.sites: tuple[Site, ...] = ()

    def refusal(self, site: Site) -> str | None:
        """The reason why the channels of `site` cannot be doubled, or None."""
        if site.name not in self._answers:
            self._answers[site.name] = self._ask(site)
        return self._answers[site.name]

    def _ask(self, site: Site) -> str | None:
        answer = widening(self._traces, site)
        return answer.reason if isinstance(answer, Refusal) else None

    def __getstate__(self) -> dict[str, Any]:
        for site in self.sites:
            self.refusal(site)
        return {"_answers": self._answers, "_traces": (), "sites": ()}


class _Stages:
    """Numbers spatial sizes in the order in which they first appear."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, ...], int] = {}
        self._last = 0

    def stage(self, full: tuple[int, ...], layout: str, *, train_only: bool) -> int:
        """The stage of a map; an auxiliary head of train mode counts to the stage where it branches off."""
        if train_only:
            return self._last
        size = (1, 1) if layout == "nc" else full[1:-1] if layout in CHANNELS_LAST else full[2:]
        self._last = self._seen.setdefault(size, len(self._seen))
        return self._last


def _width_fault(widths: set[int]) -> str | None:
    if len(widths) > 1:
        numbers = " and ".join(map(str, sorted(widths)))
        return f"this one call sees maps of {numbers} channels, and one module serves one width"
    return None


def _mixed_fault(place: Place, places: Sequence[Place], modules: Mapping[str, nn.Module]) -> str | None:
    """The reason why a call that runs several activations in sequence cannot be edited for one of them, or None."""
    if place.kind == "module" or place.span is None:
        return None
    here = [other for other in places if (other.first.owner, other.span) == (place.first.owner, place.span)]
    names = list(dict.fromkeys(other.prefix.rpartition(".")[2] for other in here))
    if len({other.prefix for other in here}) < 2:
        return None
    return (
        f"{type(modules[place.first.owner]).__name__} ({place.span.place}): this one call runs {' and '.join(names)} "
        "in turn; write a call for each, or give each its own module"
    )


def _source_fault(place: Place, modules: Mapping[str, nn.Module]) -> str | None:
    """The reason why a shared or functional activation cannot get its own call, or None."""
    if place.kind == "module":
        return None
    owner = modules[place.first.owner]
    if "forward" in vars(owner):
        where = f" ({place.span.place})" if place.span is not None else ""
        return (
            f"this {type(owner).__name__}{where} overrides the forward of its class; define it in the class"
        )
    kind, span = type(owner).__name__, place.span
    if span is None:
        return f"the call's place in the source of {kind} is unknown; define the class in a file"
    expression = place.first.expression
    if any(unit.expression != expression for units in place.runs for unit in units):
        return f"{kind} ({span.place}) computes it in several ways; give it its own module"
    for name, _ in expression.steps if expression is not None else ():
        part = modules.get(name.removeprefix("module ")) if name.startswith("module ") else None
        if part is not None and (part._forward_hooks or part._forward_pre_hooks):
            hooked = f"{type(part).__name__}, which has hooks"
            return f"{kind} ({span.place}) calls {hooked}, as a part of the activation; remove the hooks"
    if span.helper is not None and expression is None:
        return (
            f"{kind} ({span.place}) runs it inside {span.helper}, whose call computes more than the activation; "
            "call the activation in the forward itself, or give it its own module"
        )
    try:
        locate(type(owner), span, "activation", loop=place.turns, expression=expression)
    except ConversionError as error:
        return str(error)
    return None
