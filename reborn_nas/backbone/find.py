"""Activation sites: where one non-linear activation acts on a feature map, found by running the network once a mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from reborn_nas.activations import CHANNELS_LAST, complete, family_names, get_family
from reborn_nas.architecture import ORIGINAL, Choice
from reborn_nas.backbone.sites.axes import channel_axes, layout_name
from reborn_nas.backbone.sites.blocks import BlockFinder
from reborn_nas.backbone.sites.discovery import Place, find_places
from reborn_nas.backbone.trace.expressions import Expression, executions
from reborn_nas.backbone.proof.fingerprint import recorded_proof
from reborn_nas.backbone.sites.gates import gate_reason, live_values
from reborn_nas.backbone.trace.inputs import inputs_of
from reborn_nas.backbone.sites.non_sites import NonSite, fused_norms, out_of_sight, with_formulas, written_out
from reborn_nas.backbone.sites.proving import Proving
from reborn_nas.backbone.trace.replica import replace_tensors
from reborn_nas.backbone.forward.rewrite import locate
from reborn_nas.backbone.trace.spans import CallSpan
from reborn_nas.backbone.trace.trace import Trace, trace_modes
from reborn_nas.backbone.sites.units import find_units
from reborn_nas.errors import ConversionError, RebornError

if TYPE_CHECKING:
    from reborn_nas.backbone.sites.proof import Proof


@dataclass(frozen=True)
class Site:
    """One place in one forward pass where an activation acts on a feature map.

    Args:
        name: its owner's path and what is there; never changes with Python or torch versions.
        index: its place in execution order, from 0.
        channels: C.
        shape: of the feature map without the batch, as the tensor is laid out.
        activation: what stands there: a registered name, or `other:ClassName`.
        layout: "ncl", "nchw", "nhwc", "ncdhw", "ndhwc", "nc", "nlc", or one that no activation family takes.
        stage: from 0; a new one begins at each new spatial size.
        block: path of the block that it belongs to; "" for the model's own forward.
        kind: "module" (a module called at this place alone), "shared" (a module called at several) or
            "functional" (`F.relu(x)`, or an expression that computes one).
        owner: path of the module whose forward makes the call.
        attribute: name of the module within its parent; None for a functional call.
        path: path of the activation module; None for a functional call.
        span: the call.
        inplace: whether it overwrites its input.
        train_only: whether it runs in train mode alone (auxiliary heads).
        iteration: which pass through a loop over `span`, from 0.
        in_loop: whether a loop passes `span` several times, so that several sites share it.
        repeated: whether every pass over `span` is this one site.
        own_fault: why nothing can stand here but the original, as far as its own code shows.
        expression: the expression that it is, where it is more than one call of a function of torch's.
        label: the `torch.nn` class with its arguments that the expression computes, or None.
    """

    name: str
    index: int
    channels: int
    shape: tuple[int, ...]
    activation: str
    layout: str
    stage: int
    block: str
    kind: str
    owner: str
    attribute: str | None
    path: str | None
    span: CallSpan | None
    inplace: bool
    train_only: bool
    iteration: int = 0
    in_loop: bool = False
    repeated: bool = False
    own_fault: str | None = None
    expression: Expression | None = None
    label: str | None = None
    _doubling: _Doubling | None = field(default=None, repr=False, compare=False)
    _proving: Proving | None = field(default=None, repr=False, compare=False)

    @property
    def is_formula(self) -> bool:
        """Whether it is an expression of several operations, which no module computes in exactly the same way."""
        return self.expression is not None and len(self.expression.steps) > 1

    @property
    def fault(self) -> str | None:
        """Why nothing can stand here but the original, by its code or by the proof; None where something can."""
        if self.own_fault is not None or self._proving is None:
            return self.own_fault
        return self._proving.proof().faults.get(self.name)

    def admits(self, choice: Choice | str) -> bool:
        """Whether `choice` can stand here."""
        return self.refusal(choice) is None

    def refusal(self, choice: Choice | str) -> str | None:
        """Why `choice` cannot stand here, or None where it can."""
        try:
            choice = complete(choice)
        except RebornError as error:
            return str(error)
        if choice == ORIGINAL:
            return None
        if self.fault is not None:
            return self.fault
        family, options = get_family(choice.name), choice.options
        if options.get("positive") == ORIGINAL.name and self.is_formula and self.label is None:
            return (
                f"positive=original keeps the site's own activation, and no module computes {self.activation}"
            )
        layouts = family.layouts(**options)
        if self.layout not in layouts:
            return (
                f"{choice.name} works on {', '.join(sorted(layouts))}, and the map here is {self._described}"
            )
        if family.channel_factor(**options) == 1:
            return None
        reason = self._doubling.refusal(self) if self._doubling is not None else "the network was not traced"
        proof = None if reason is not None or self._proving is None else self._proving.proof()
        if proof is not None and self.name in proof.written:
            reason = "the network reads the map that the activation overwrites under another name too"
        elif proof is not None and self.name in proof.varying:
            reason = (
                "what runs, and so who reads them, depends on the size or the number of images, or on chance"
            )
        return None if reason is None else f"{choice.name} doubles {self.channels} channels, but {reason}"

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """Names of the activations that can stand here in at least one form."""
        if self.fault is not None:
            return ()
        return tuple(name for name in family_names() if any(self.layout in forms for forms in _layouts(name)))

    @cached_property
    def refusals(self) -> Mapping[str, str]:
        """Label of a refused form (only the options that decide) → the reason."""
        if self.fault is not None:
            return {"*": self.fault}
        found: dict[str, str] = {}
        for name in family_names():
            reasons = {choice: self.refusal(choice) for choice in _forms(name)}
            refused = {choice: reason for choice, reason in reasons.items() if reason is not None}
            if refused and len(refused) == len(reasons):
                found[name] = next(iter(refused.values()))
            else:
                found.update({choice.label: reason for choice, reason in refused.items()})
        return found

    @property
    def _described(self) -> str:
        words = {"nlc": "3-D tokens (B, L, C)", "nc": "2-D (B, C)"}
        if self.layout == "other":
            return f"one of shape (B, {', '.join(map(str, self.shape))}), whose channels stand elsewhere"
        return words.get(self.layout, self.layout)

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in ("choices", "refusals")}
        return state


@dataclass(frozen=True)
class Discovery:
    """All that discovery learns of a network: its sites, what is none, the runs themselves and what was put in."""

    sites: tuple[Site, ...]
    others: tuple[NonSite, ...]
    eval_trace: Trace
    train_trace: Trace | None
    inputs: Any = field(default=None, repr=False, compare=False)
    proving: Proving | None = field(default=None, repr=False, compare=False)

    @property
    def traces(self) -> tuple[Trace, ...]:
        """The runs: in eval mode, and in train mode where that runs with these inputs."""
        return (self.eval_trace,) if self.train_trace is None else (self.eval_trace, self.train_trace)

    @property
    def proof(self) -> Proof:
        """What the proof of the network found, made when first asked for."""
        assert self.proving is not None
        return self.proving.proof()


def find_sites(model: nn.Module, input_size: Any = None, *, example_inputs: Any = None) -> tuple[Site, ...]:
    """The activation sites of `model` in execution order, those of train mode alone included.

    Args:
        input_size: (C, H, W) of one image, or one such per input; by default the model's own (timm), else 224×224.
        example_inputs: instead, what the forward takes, in any structure: a tuple of positional arguments, a dict of
            keyword arguments, or the one argument itself, such as a list of images. A dict that is itself an
            argument goes into a tuple: `({"image": x},)`.

    Raises:
        ConversionError: when the forward does not run; names the module and the reason.

    Example:
        >>> [site.name for site in find_sites(timm.create_model("resnet18"), (3, 32, 32))][:2]
        ['act1', 'layer1.0.act1']
    """
    return discover(model, input_size, example_inputs=example_inputs).sites


def non_sites(model: nn.Module, input_size: Any = None, *, example_inputs: Any = None) -> tuple[NonSite, ...]:
    """What looks like an activation and is deliberately no site: gates, spatial attention, EvoNorm, FRN's TLU."""
    return discover(model, input_size, example_inputs=example_inputs).others


def discover(
    model: nn.Module,
    input_size: Any = None,
    *,
    example_inputs: Any = None,
    proofs: Mapping[str, Any] | None = None,
) -> Discovery:
    """Trace `model` in both modes and read its sites off the data flow.

    Args:
        proofs: what `proof_record` returned for this network elsewhere, so that it is not proved again.
    """
    inputs = inputs_of(model, input_size, example_inputs)
    proving = Proving(model, inputs)
    traces = trace_modes(model, inputs)
    found = _discover(model, *traces, proving)
    found = replace(found, inputs=replace_tensors(inputs, Tensor.detach))
    proof = recorded_proof(model, found.traces, proofs) if proofs else None
    proving.settle(found, model, on_cpu=any(run.on_cpu for run in found.traces), proof=proof)
    return found


def _discover(model: nn.Module, eval_trace: Trace, train_trace: Trace | None, proving: Proving) -> Discovery:
    traces = (eval_trace,) if train_trace is None else (eval_trace, train_trace)
    modules = dict(model.named_modules(remove_duplicate=False))
    live = tuple(live_values(run) for run in traces)
    axes = tuple(channel_axes(run) for run in traces)
    classes = {path: type(module).__name__ for path, module in modules.items()}
    blocks, stages = BlockFinder(modules), _Stages()
    doubling = _Doubling(eval_trace, train_trace)
    fused = fused_norms(modules)
    sites: list[Site] = []
    others: list[NonSite] = []
    units, formulas = with_formulas(traces, find_units(traces, modules, live), live)
    places = find_places(traces, units)
    for place in places:
        if any(place.first.owner == norm.name for norm in fused):
            continue  # part of a norm that is said to be no site as a whole
        number = next(number for number, units in enumerate(place.runs) if units)
        run, unit = traces[number], place.first
        full = run.values[unit.output].shape
        reason = gate_reason(run, unit, live[number], classes)
        if reason is None and len(full) < 2:
            reason = f"acts on a tensor of shape {full}, which has no channels"
        if reason is not None:
            others.append(NonSite(place.name, unit.activation, full[1:], reason))
            continue
        axis = axes[number][unit.output]
        layout = layout_name(len(full), axis)
        widths = {run.values[u.output].shape[axis] for run, units in zip(traces, place.runs) for u in units}
        sites.append(
            Site(
                name=place.name,
                index=len(sites),
                channels=full[axis],
                shape=tuple(full[1:]),
                activation=unit.activation,
                layout=layout,
                stage=stages.stage(full, layout, train_only=number > 0),
                block=blocks.block(unit.path or (unit.owner and f"{unit.owner}.{unit.name}")),
                kind=place.kind,
                owner=unit.owner,
                attribute=unit.path and unit.path.rsplit(".", 1)[-1],
                path=unit.path,
                span=place.span,
                inplace=unit.inplace,
                train_only=number > 0,
                iteration=place.iteration,
                in_loop=place.turns > 0,
                repeated=place.repeated,
                own_fault=_width_fault(widths)
                or _mixed_fault(place, places, modules)
                or _source_fault(place, modules),
                expression=unit.expression,
                label=unit.label,
                _doubling=doubling,
                _proving=proving,
            )
        )
    doubling.sites = tuple(sites)
    others += written_out(traces, formulas) + out_of_sight(traces, live)
    return Discovery(tuple(sites), (*others, *fused), eval_trace, train_trace, proving=proving)


def site_values(run: Trace, site: Site) -> tuple[tuple[int, int], ...]:
    """(input id, output id) of each execution of `site` in a trace of its network."""
    found: list[tuple[int, int]] = []
    if site.path is not None:
        passes: dict[int, int] = {}
        for call in run.calls:
            if call.path != site.path or (
                site.kind == "shared" and (call.caller, call.span) != (site.owner, site.span)
            ):
                continue
            iteration = passes.get(call.parent, 0)
            passes[call.parent] = iteration + 1
            if site.kind == "module" or site.repeated or iteration == site.iteration:
                given = [value for value in call.inputs if run.values[value].param is None]
                found.append((given[0], call.outputs[0]))
        return tuple(found)
    passes = {}
    if site.expression is not None:
        for parent, given_id, made, _ in executions(run, site.owner, site.expression):
            iteration = passes.get(parent, 0)
            passes[parent] = iteration + 1
            if site.repeated or iteration == site.iteration:
                found.append((given_id, made))
        return tuple(found)
    for op in run.ops:
        name = f"{op.module}.{op.name}".lstrip(".")
        if op.span == site.span and op.module == site.owner and name == site.name.rsplit("@", 1)[0]:
            iteration = passes.get(op.call, 0)
            passes[op.call] = iteration + 1
            if site.repeated or iteration == site.iteration:
                found.append((op.inputs[0], op.outputs[0]))
    return tuple(found)


class _Doubling:
    """Answers, once a site, whether its consumers can be widened. Pickled as answers, without the traces."""

    def __init__(self, eval_trace: Trace | None, train_trace: Trace | None) -> None:
        self._eval, self._train = eval_trace, train_trace
        self._answers: dict[str, str | None] = {}
        self.sites: tuple[Site, ...] = ()

    def refusal(self, site: Site) -> str | None:
        """Why the channels of `site` cannot be doubled, or None where they can."""
        if site.name not in self._answers:
            self._answers[site.name] = self._ask(site)
        return self._answers[site.name]

    def _ask(self, site: Site) -> str | None:
        from reborn_nas.backbone.layers.steps import Refusal
        from reborn_nas.backbone.widen.widening import widening

        runs = [run for run in (self._eval, self._train) if run is not None]
        answer = widening(runs, site)
        return answer.reason if isinstance(answer, Refusal) else None

    def __getstate__(self) -> dict[str, Any]:
        for site in self.sites:
            self.refusal(site)
        return {"_answers": self._answers, "_eval": None, "_train": None, "sites": ()}


class _Stages:
    """Numbers spatial sizes in the order in which they first appear."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, ...], int] = {}
        self._last = 0

    def stage(self, full: tuple[int, ...], layout: str, *, train_only: bool) -> int:
        """The stage of a map; an auxiliary head of train mode counts to where it branches off."""
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
    """Why a call that runs now this activation, now that one cannot be edited for one of them."""
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
    """Why a shared or functional activation cannot get a call of its own, or None where it can."""
    if place.kind == "module":
        return None
    owner = modules[place.first.owner]
    if "forward" in vars(owner):
        where = f" ({place.span.place})" if place.span is not None else ""
        return (
            f"this {type(owner).__name__}{where} has a forward of its own, which hides its class's; define it in the "
            "class"
        )
    kind, span = type(owner).__name__, place.span
    if span is None:
        return f"the call's place in the source of {kind} is unknown; define the class in a file"
    expression = place.first.expression
    if any(unit.expression != expression for units in place.runs for unit in units):
        return f"{kind} ({span.place}) computes it in several ways; give it a module of its own"
    for name, _ in expression.steps if expression is not None else ():
        part = modules.get(name.removeprefix("module ")) if name.startswith("module ") else None
        if part is not None and (part._forward_hooks or part._forward_pre_hooks):
            hooked = f"{type(part).__name__}, which has hooks"
            return f"{kind} ({span.place}) calls {hooked}, as a part of the activation; remove the hooks"
    if span.helper is not None and expression is None:
        return (
            f"{kind} ({span.place}) runs it inside {span.helper}, whose call cannot stand for the activation alone; "
            "call the activation in the forward itself, or give it a module of its own"
        )
    try:
        locate(type(owner), span, "activation", loop=place.turns, expression=expression)
    except ConversionError as error:
        return str(error)
    return None


def _forms(name: str) -> tuple[Choice, ...]:
    """The forms of a family that differ in channels or layouts, with no more options than decide it."""
    family = get_family(name)
    default = _traits(name)
    forms = [Choice(name)]
    for option, setting in family.options.items():
        for value in setting.values:
            if value != setting.default and _traits(name, **{option: value}) != default:
                forms.append(Choice(name, **{option: value}))
    return tuple(forms)


def _traits(name: str, **options: Any) -> tuple[int, frozenset[str]]:
    family, full = get_family(name), complete(Choice(name, **options)).options
    return family.channel_factor(**full), family.layouts(**full)


def _layouts(name: str) -> list[frozenset[str]]:
    """The layouts of every form of a family."""
    family = get_family(name)
    settings = [
        [(option, value) for value in setting.values]
        for option, setting in family.options.items()
        if setting.values
    ]
    return [family.layouts(**complete(Choice(name, **dict(chosen))).options) for chosen in product(*settings)]
