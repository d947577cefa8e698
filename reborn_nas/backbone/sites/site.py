"""A site as plain data, with the choices that it admits; and the result of finding a network's sites."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, Protocol

from reborn_nas.activations import complete, family_names, get_family
from reborn_nas.architecture import ORIGINAL, Choice
from reborn_nas.backbone.trace.graph import CallSpan, Expression, Trace, executions
from reborn_nas.errors import RebornError

WRITTEN = "written"
"""Value of `clones` for an activation that works in place on a map that is also read under another name."""


@dataclass(frozen=True)
class Proof:
    """The result of proving a network.

    Args:
        faults: site → why only its original is possible.
        clones: site → "input", "output" or "both": tensors that are overwritten later, which conversion must clone;
            "written": its result is written over its map, which is also read under another name.
        spare: paths of activation modules with parameters that are unused once all their sites are replaced.
        proved: sites that passed the proof.
        varying: sites that run, or are read, only for some numbers and sizes of images, or at random.
    """

    faults: Mapping[str, str] = field(default_factory=dict)
    clones: Mapping[str, str] = field(default_factory=dict)
    spare: tuple[str, ...] = ()
    proved: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()

    @property
    def written(self) -> frozenset[str]:
        """Sites whose result is written over their map."""
        return frozenset(site for site, what in self.clones.items() if what == WRITTEN)

    @property
    def digest(self) -> str:
        """A digest of the result, of twelve hex digits."""
        data = list(self.to_dict().values())
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "faults": dict(self.faults),
            "clones": dict(self.clones),
            "spare": list(self.spare),
            "proved": list(self.proved),
            "varying": list(self.varying),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Proof:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for other data."""
        faults, clones = (
            {str(k): str(v) for k, v in dict(data[key]).items()} for key in ("faults", "clones")
        )
        spare, proved, varying = (tuple(map(str, data[key])) for key in ("spare", "proved", "varying"))
        return cls(faults, clones, spare, proved, varying)


@dataclass(frozen=True)
class NonSite:
    """An activation that is deliberately not a site, with the reason."""

    name: str
    activation: str
    shape: tuple[int, ...]
    reason: str


class Doubling(Protocol):
    """Answers whether the consumers of a site can be widened."""

    def refusal(self, site: Site) -> str | None:
        """The reason why the channels of `site` cannot be doubled, or None."""


class Proving(Protocol):
    """Holds the proof of a network, which is made on first use."""

    def proof(self) -> Proof:
        """The proof."""


@dataclass(frozen=True)
class Site:
    """A place in a forward pass at which an activation acts on a feature map.

    Args:
        name: path of the owner and the activation's name there; independent of the versions of Python and torch.
        index: position in execution order, from 0.
        channels: number of channels C.
        shape: shape of the feature map without the batch, in the tensor's layout.
        activation: the original activation: a registered name, or `other:ClassName`.
        layout: "ncl", "nchw", "nhwc", "ncdhw", "ndhwc", "nc", "nlc", or one that no activation family supports.
        stage: index from 0; each new spatial size begins a stage.
        block: path of its block; "" for the model's own forward.
        kind: "module" (a module called only here), "shared" (a module called at several places) or
            "functional" (`F.relu(x)`, or an expression).
        owner: path of the module whose forward makes the call.
        attribute: name of the module within its parent; None for a functional call.
        path: path of the activation module; None for a functional call.
        span: the call.
        inplace: whether it overwrites its input.
        train_only: whether it runs only in train mode (auxiliary heads).
        iteration: index of the pass of a loop over `span`, from 0.
        in_loop: whether a loop executes `span` several times, so that several sites share it.
        repeated: whether all passes of `span` are this site.
        own_fault: why only the original is possible here, according to its code.
        expression: the expression, if the site is more than one call of a torch function.
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
    _doubling: Doubling | None = field(default=None, repr=False, compare=False)
    _proving: Proving | None = field(default=None, repr=False, compare=False)

    @property
    def is_formula(self) -> bool:
        """Whether it is an expression of several operations, of which no module is an exact replacement."""
        return self.expression is not None and len(self.expression.steps) > 1

    @property
    def fault(self) -> str | None:
        """Why only the original is possible here, according to the code or the proof, or None."""
        if self.own_fault is not None or self._proving is None:
            return self.own_fault
        return self._proving.proof().faults.get(self.name)

    def admits(self, choice: Choice | str) -> bool:
        """Whether `choice` is possible here."""
        return self.refusal(choice) is None

    def refusal(self, choice: Choice | str) -> str | None:
        """Why `choice` is not possible here, or None."""
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
        """Names of the activations of which at least one form is possible here."""
        if self.fault is not None:
            return ()
        return tuple(name for name in family_names() if any(self.layout in forms for forms in _layouts(name)))

    @cached_property
    def refusals(self) -> Mapping[str, str]:
        """Label of a refused form (with the decisive options only) → reason."""
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
            return f"one of shape (B, {', '.join(map(str, self.shape))}), whose channels are in another dimension"
        return words.get(self.layout, self.layout)

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in ("choices", "refusals")}
        return state


@dataclass(frozen=True)
class Discovery:
    """The result of discovery: sites, non-sites, the traces, and the inputs."""

    sites: tuple[Site, ...]
    others: tuple[NonSite, ...]
    eval_trace: Trace
    train_trace: Trace | None
    inputs: Any = field(default=None, repr=False, compare=False)
    proving: Proving | None = field(default=None, repr=False, compare=False)

    @property
    def traces(self) -> tuple[Trace, ...]:
        """The runs: in eval mode, and in train mode if that runs with these inputs."""
        return (self.eval_trace,) if self.train_trace is None else (self.eval_trace, self.train_trace)

    @property
    def proof(self) -> Proof:
        """The network's proof, made on first use."""
        assert self.proving is not None
        return self.proving.proof()


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


def _forms(name: str) -> tuple[Choice, ...]:
    """The forms of a family that differ in channels or layouts, with the decisive options only."""
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
    """The layouts of each form of a family."""
    family = get_family(name)
    settings = [
        [(option, value) for value in setting.values]
        for option, setting in family.options.items()
        if setting.values
    ]
    return [family.layouts(**complete(Choice(name, **dict(chosen))).options) for chosen in product(*settings)]
