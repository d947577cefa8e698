"""From an architecture to a plan: the admitted choices, the widening, and the rewritten forwards."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from timm.layers.std_conv import ScaledStdConv2d
from torch import nn

from reborn_nas.activations import build_activation, complete, get_family
from reborn_nas.architecture import ORIGINAL, Architecture, BackboneSpec, Choice
from reborn_nas.backbone.forward.features import FeatureActivations, takes_features
from reborn_nas.backbone.forward.rewrite import Edit, locate, rewrite_of
from reborn_nas.backbone.layers.steps import Refusal, Widening
from reborn_nas.backbone.replace.modules import KEPT, gain_of, module_label
from reborn_nas.backbone.replace.plan import OwnerRewrite, Placement, Plan
from reborn_nas.backbone.sites.site import Discovery, Site, site_values
from reborn_nas.backbone.trace.graph import Trace
from reborn_nas.backbone.widen.walk import widening
from reborn_nas.errors import ConversionError, RebornError, SiteError


def draft_plan(model: nn.Module, architecture: Architecture, found: Discovery, init: str = "xavier") -> Plan:
    """Make a plan without trying it out, which is enough to count the cost of the network."""
    chosen = admitted(architecture, found)
    proof = found.proof
    steps = make_plan(model, found, chosen, widened(found, chosen), init)
    return replace(
        steps,
        placements=tuple(
            replace(placement, clone=proof.clones.get(placement.site, ""))
            if placement.choice != ORIGINAL.label
            else placement
            for placement in steps.placements
        ),
        spare=tuple(path for path in proof.spare if _all_chosen(found, path, chosen)),
        proof=proof.digest,
    )


def _all_chosen(found: Discovery, path: str, chosen: Mapping[str, Choice]) -> bool:
    return all(site.name in chosen for site in found.sites if site.path == path)


def _original(found: Discovery, site: Site, chosen: Mapping[str, Choice]) -> str | None:
    return KEPT if site.is_formula and site.name not in chosen else functional_original(found, site)


def make_plan(
    model: nn.Module,
    found: Discovery,
    chosen: Mapping[str, Choice],
    wide: Widening | None = None,
    init: str = "xavier",
) -> Plan:
    """Make the plan for admissible choices.

    Raises:
        ConversionError: a forward cannot be rewritten.
    """
    widths = {} if wide is None else wide.channels
    modules = dict(model.named_modules(remove_duplicate=False))
    owners = dict.fromkeys(s.owner for s in found.sites if s.name in chosen and s.kind != "module")
    by_owner = {owner: changes_for(owner, modules[owner], found, chosen.keys()) for owner in owners}
    placements: list[Placement] = []
    for site in found.sites:
        if site.kind == "module":
            path = site.path if site.name in chosen else None
        else:
            path = by_owner[site.owner].paths.get(site.name) if site.owner in by_owner else None
        if path is not None:
            placements.append(
                Placement(
                    site=site.name,
                    choice=chosen.get(site.name, ORIGINAL).label,
                    path=path,
                    channels=widths.get(site.name, site.channels),
                    layout=site.layout,
                    replaces=site.path,
                    function=_original(found, site, chosen),
                )
            )
    loops = {path: length for each in by_owner.values() for path, length in each.loops.items()}
    replaced = {placement.replaces for placement in placements}
    rewrites = (*(each.rewrite for each in by_owner.values()), *features_for(model, replaced))
    gains = () if init == "preserve" else conv_gains(model, found, chosen)
    return Plan(tuple(placements), rewrites, tuple(loops.items()), wide, init, gains)


def architecture_for(
    found: Discovery, given: Architecture | Mapping[str, Choice | str] | Choice | str
) -> Architecture:
    """The architecture of an argument of `convert`: an architecture, a map site → choice, or one choice for all sites.

    Raises:
        SiteError: the argument is none of these, or no site admits the choice.
    """
    if isinstance(given, Architecture):
        return given
    choices = everywhere(found, given) if isinstance(given, Choice | str) else given
    if not isinstance(choices, Mapping):
        raise SiteError(f"an architecture is an Architecture, a choice or a map site → choice, not {given!r}")
    for name, choice in choices.items():
        if not isinstance(choice, Choice | str):
            raise SiteError(
                f"site {name!r}: a choice is a Choice or its label such as 'reborn', not {choice!r}"
            )
    return Architecture(BackboneSpec("timm:unnamed"), choices)


PRESERVING = ("reborn", "positive_twin", "crelu", "extended_conv", "prelu", "relu")
"""Choices that can start as a ReLU."""


def other_functions(architecture: Architecture, found: Discovery) -> list[str]:
    """Sites whose choice cannot start at the site's own function, each as "site (activation → choice)"."""
    own = {site.name: site.activation for site in found.sites}
    return [
        f"{site} ({own.get(site, '?')} → {choice})"
        for site, choice in architecture
        if choice != ORIGINAL
        and choice.options.get("positive") != "original"
        and not (choice.name in PRESERVING and own.get(site) == "relu")
    ]


def everywhere(found: Discovery, choice: Choice | str) -> dict[str, Choice]:
    """`choice` at every site that admits it, if all can be combined.

    Raises:
        SiteError: no site admits it.
    """
    wanted = complete(choice)
    names = [site.name for site in found.sites if site.admits(wanted)]
    if not names:
        reasons = sorted({site.refusal(wanted) or "" for site in found.sites})[:3]
        reasons = reasons or [f"{other.name}: {other.reason}" for other in found.others[:3]]
        raise SiteError(
            f"no activation site of this network admits {wanted.label}: {'; '.join(reasons) or 'it has no sites'}"
        )
    if wanted != ORIGINAL and _doubles(wanted) and _joint_refusal(found, names) is not None:
        kept: list[str] = []  # each alone can be widened, but not all together: keep those that fit, in order
        for name in names:
            if _joint_refusal(found, [*kept, name]) is None:
                kept.append(name)
        names = kept
    return dict.fromkeys(names, wanted)


def admitted(architecture: Architecture, found: Discovery) -> dict[str, Choice]:
    """The complete choices by site. Raises SiteError with all faults."""
    known = {site.name: site for site in found.sites}
    chosen: dict[str, Choice] = {}
    faults: list[str] = []
    for name, choice in architecture:
        site = known.get(name)
        if site is None:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
            hint = f"; did you mean {', '.join(close)}?" if close else f"; the network has {len(known)} sites"
            faults.append(f"unknown site {name!r}{hint}")
            continue
        try:
            full = complete(choice)
        except RebornError as error:
            faults.append(f"site {name!r}: {error}")
            continue
        reason = site.refusal(full)
        if reason is not None:
            other = " or choose another form" if site.fault is None else ""
            place = site.span.place if site.span is not None and ".py" not in reason else ""
            where = f"site {name!r} ({place})" if place else f"site {name!r}"
            faults.append(f"{where}: {reason}; exclude the site{other}")
        elif full != ORIGINAL:
            chosen[name] = full
    if faults:
        raise SiteError(
            faults[0]
            if len(faults) == 1
            else f"{len(faults)} sites cannot be as asked:" + "".join(f"\n  - {fault}" for fault in faults)
        )
    return chosen


def _doubles(choice: Choice) -> bool:
    return get_family(choice.name).channel_factor(**choice.options) > 1


def widened(found: Discovery, chosen: Mapping[str, Choice]) -> Widening | None:
    """The widening for the doubled sites of an architecture; None if there are none."""
    doubled = [site for site in found.sites if site.name in chosen and _doubles(chosen[site.name])]
    if not doubled:
        return None
    others = [site for site in found.sites if site.name in chosen and site not in doubled]
    answer = widening(found.traces, doubled, among=others)
    if isinstance(answer, Refusal):
        names = ", ".join(repr(site.name) for site in doubled[:5])
        raise SiteError(
            f"sites {names} cannot double their channels together: {answer.reason}; choose a compressed form for some"
        )
    return answer


def _joint_refusal(found: Discovery, names: Sequence[str]) -> Refusal | None:
    wanted = set(names)
    answer = widening(found.traces, [site for site in found.sites if site.name in wanted])
    return answer if isinstance(answer, Refusal) else None


@dataclass(frozen=True)
class OwnerChanges:
    """The changes of one owner.

    Args:
        rewrite: rewrite of its forward.
        paths: site → module path of its activation; in an edited loop, for every iteration.
        loops: paths of the lists that edited loops iterate over → their lengths.
    """

    rewrite: OwnerRewrite
    paths: Mapping[str, str]
    loops: Mapping[str, int]


def changes_for(owner: str, module: nn.Module, found: Discovery, chosen: Collection[str]) -> OwnerChanges:
    """The changes for the chosen sites of `owner` that have no separate attribute.

    Raises:
        ConversionError: the source cannot be edited; the message names class, line and remedy.
    """
    sites = [s for s in found.sites if s.owner == owner and s.kind != "module"]
    wanted = [site for site in sites if site.name in chosen]
    name = f"{type(module).__module__}:{type(module).__qualname__}"
    edits, paths, loops = _edited(owner, module, sites, wanted)
    return OwnerChanges(OwnerRewrite(owner, name, rewrite_of(type(module), edits)), paths, loops)


def features_for(model: nn.Module, paths: Collection[str | None]) -> tuple[OwnerRewrite, ...]:
    """The rewrite for a `model` that returns features after one of the replaced modules at `paths`."""
    if not takes_features(model, paths):
        return ()
    return (OwnerRewrite("", f"{type(model).__module__}:{type(model).__qualname__}", FeatureActivations()),)


def _edited(
    owner: str, module: nn.Module, sites: list[Site], wanted: list[Site]
) -> tuple[list[Edit], dict[str, str], dict[str, int]]:
    edits: list[Edit] = []
    paths: dict[str, str] = {}
    loops: dict[str, int] = {}
    for site in wanted:
        if site.name in paths:
            continue
        turns = [s for s in sites if s.span == site.span] if site.in_loop else [site]
        attribute = attribute_of(turns[0].name, module, owner)
        edit = _edit(module, site, attribute, len(turns) if site.in_loop else 0)
        kept = site.is_formula and any(turn not in wanted for turn in turns)
        edits.append(replace(edit, keeps=kept))
        for turn in turns:
            paths[turn.name] = join(owner, f"{attribute}.{turn.iteration}" if site.in_loop else attribute)
        if site.in_loop:
            loops[join(owner, attribute)] = len(turns)
    return edits, paths, loops


def _edit(owner: nn.Module, site: Site, attribute: str, loop: int) -> Edit:
    if site.span is None:
        raise ConversionError(
            f"{type(owner).__name__}: the call's place in its source is unknown; define the class in a file and "
            "call the activation in its forward"
        )
    if site.span.helper is not None and site.expression is None:
        raise ConversionError(
            f"{type(owner).__name__}, {site.span.place}: it runs inside {site.span.helper}; call the activation in "
            "the forward itself"
        )
    edit = locate(type(owner), site.span, attribute, loop=loop, expression=site.expression)
    if edit.method in vars(owner):
        raise ConversionError(
            f"{type(owner).__name__}, {site.span.place}: the instance overrides the {edit.method} of "
            "its class; define it in the class"
        )
    return edit


def attribute_of(site: str, owner: nn.Module, path: str) -> str:
    """The attribute that holds the activation of `site` in its owner at `path`; readable, stable and unused.

    Different sites of an owner get different names: a digest distinguishes what an identifier cannot contain.
    """
    local = site[len(path) + 1 :] if path and site.startswith(f"{path}.") else site
    name = re.sub(r"\W", "_", local.replace("@", "_at"))
    if re.search(r"[^\w.@]", local) or (hasattr(owner, name.rpartition("_at")[0]) and "." in local):
        name += f"_{hashlib.sha256(local.encode()).hexdigest()[:6]}"
    if not name.isidentifier():
        name = f"site_{name}"
    while hasattr(owner, name):
        name += "_"
    return name


def join(path: str, name: str) -> str:
    """`name` below the module at `path` ("" is the model itself)."""
    return f"{path}.{name}" if path else name


def functional_original(found: Discovery, site: Site) -> str | None:
    """The `torch.nn` class and arguments that a functional site computes, as a label; None if there is none."""
    if site.path is not None:
        return None
    if site.is_formula or site.label is not None:
        return site.label
    for run in (found.eval_trace, found.train_trace):
        for op in run.ops if run is not None else ():
            if op.module == site.owner and op.span == site.span and op.inputs:
                return module_label(op)
    return None


def conv_gains(
    model: nn.Module, found: Discovery, chosen: Mapping[str, Choice]
) -> tuple[tuple[str, float], ...]:
    """(path, factor of the scale) of weight-standardised convolutions that hold the gain of their input activation."""
    convs = {path: conv for path, conv in model.named_modules() if isinstance(conv, ScaledStdConv2d)}
    if not convs:
        return ()
    gains: dict[str, float] = {}
    for site in found.sites:
        if site.name not in chosen:
            continue
        gain = gain_of(
            chosen[site.name], build_activation(chosen[site.name], site.channels, layout=site.layout)
        )
        for _, value in site_values(found.eval_trace, site):
            for path in _reading_convs(found.eval_trace, value):
                if gain is not None and path in convs:
                    own = convs[path].scale * convs[path].weight[0].numel() ** 0.5
                    if abs(own - 1.0) > 1e-6 and abs(gain - own) > 1e-6:
                        gains[path] = gain / own
    return tuple(gains.items())


def _reading_convs(run: Trace, value: int) -> list[str]:
    """Modules whose convolution reads the value, directly or after pools and multiplications by a number."""
    found: list[str] = []
    for op in run.consumers(value):
        if op.name == "conv2d" and op.inputs[0] == value:
            found.append(op.module)
        elif "pool" in op.name or op.name == "dropout" or (op.name == "mul" and len(op.inputs) == 1):
            found += _reading_convs(run, op.outputs[0])
    return found
