"""What a conversion will do, module by module: pure data, decided before anything is touched, stored as JSON."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from reborn_nas.activations import complete, get_family
from reborn_nas.architecture import ORIGINAL, Architecture, Choice
from reborn_nas.backbone.channels import Refusal, Widening, widening
from reborn_nas.backbone.naming import attribute_of, join
from reborn_nas.backbone.original import functional_original
from reborn_nas.backbone.placement import Placement
from reborn_nas.backbone.rewrite import Edit, Rewrite, locate, rewrite_of
from reborn_nas.backbone.sites import Discovery, Site, discover
from reborn_nas.errors import ConversionError, RebornError, SiteError

VERSION = 1


@dataclass(frozen=True)
class OwnerRewrite:
    """A module that gets a class with a rewritten forward.

    Args:
        owner: its path.
        cls: its class, `module:qualname`.
        rewrite: the calls that change, with the digest of the source.
    """

    owner: str
    cls: str
    rewrite: Rewrite


@dataclass(frozen=True)
class Plan:
    """What `apply` does. Equal plans on equal networks give equal conversions.

    Args:
        placements: the activations that are put in, in execution order.
        rewrites: the modules whose forward is rewritten.
        loops: path of a `ModuleList` → its length, for calls that a loop runs.
        widening: what grows behind doubled channels, or None.
        init: "xavier", or "preserve" for the function that the network had.
    """

    placements: tuple[Placement, ...]
    rewrites: tuple[OwnerRewrite, ...] = ()
    loops: tuple[tuple[str, int], ...] = ()
    widening: Widening | None = None
    init: str = "xavier"

    def to_dict(self) -> dict[str, Any]:
        """JSON values only, with a format version."""
        return {
            "version": VERSION,
            "init": self.init,
            "placements": [asdict(placement) for placement in self.placements],
            "rewrites": [
                {"owner": r.owner, "cls": r.cls, "rewrite": r.rewrite.to_dict()} for r in self.rewrites
            ],
            "loops": [list(loop) for loop in self.loops],
            "widening": None if self.widening is None else self.widening.to_dict(),
        }

    def to_json(self, indent: int | None = None) -> str:
        """The plan as JSON text; `from_json` restores it."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`. Raises ConversionError for another version or what is no plan."""
        if not isinstance(data, Mapping) or data.get("version") != VERSION:
            version = data.get("version") if isinstance(data, Mapping) else data
            raise ConversionError(
                f"a conversion plan has version {VERSION}, not {version!r}; plan again or upgrade"
            )
        try:
            return cls(
                placements=tuple(Placement(**item) for item in data["placements"]),
                rewrites=tuple(
                    OwnerRewrite(item["owner"], item["cls"], Rewrite.from_dict(item["rewrite"]))
                    for item in data["rewrites"]
                ),
                loops=tuple((str(path), int(length)) for path, length in data["loops"]),
                widening=None if data["widening"] is None else Widening.from_dict(data["widening"]),
                init=data["init"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConversionError(f"this is no conversion plan: {type(error).__name__}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `text` describes."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConversionError(f"a conversion plan is JSON: {error}") from error
        return cls.from_dict(data)

    @property
    def digest(self) -> str:
        """Twelve hex digits that change whenever anything in the plan does."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def plan(
    model: nn.Module,
    architecture: Architecture,
    input_size: Any = None,
    *,
    example_inputs: Any = None,
    init: str = "xavier",
    discovery: Discovery | None = None,
) -> Plan:
    """What `apply` has to do to give `model` this architecture. The model is not changed.

    Args:
        architecture: site → choice; sites that it does not name keep their original.
        input_size: (C, H, W) of one image.
        example_inputs: what the forward takes, where that is not one image batch.
        init: "xavier" (the paper), or "preserve": the converted network starts as the same function where it can.
        discovery: what `discover(model, …)` returned, to save the tracing.

    Raises:
        SiteError: unknown sites and choices that a site does not admit, all of them in one message.
        ConversionError: a forward that cannot be traced or rewritten.
    """
    found = discovery or discover(model, input_size, example_inputs=example_inputs)
    chosen = _admitted(architecture, found.sites)
    wide = _widened(found, chosen)
    widths = {} if wide is None else wide.channels
    modules = dict(model.named_modules(remove_duplicate=False))
    placements: list[Placement] = []
    edits: dict[str, list[Edit]] = {}
    loops: dict[str, int] = {}
    for site in found.sites:
        if site.kind == "module":
            path = site.path
            if site.name not in chosen:
                continue
        elif site.in_loop:
            turns = [s for s in found.sites if s.in_loop and (s.owner, s.span) == (site.owner, site.span)]
            if not any(s.name in chosen for s in turns):
                continue
            holder = attribute_of(turns[0].name, modules[site.owner], site.owner)
            path = join(site.owner, f"{holder}.{site.iteration}")
            loops[join(site.owner, holder)] = len(turns)
            if site is turns[0]:
                edits.setdefault(site.owner, []).append(_edit(modules, site, holder, len(turns)))
        elif site.name in chosen:
            attribute = attribute_of(site.name, modules[site.owner], site.owner)
            path = join(site.owner, attribute)
            edits.setdefault(site.owner, []).append(_edit(modules, site, attribute, 0))
        else:
            continue
        assert path is not None
        placements.append(
            Placement(
                site=site.name,
                choice=chosen.get(site.name, ORIGINAL).label,
                path=path,
                channels=widths.get(site.name, site.channels),
                layout=site.layout,
                replaces=site.path,
                function=functional_original(found, site),
            )
        )
    rewrites = []
    for owner, changes in edits.items():
        cls = type(modules[owner])
        rewrites.append(OwnerRewrite(owner, f"{cls.__module__}:{cls.__qualname__}", rewrite_of(cls, changes)))
    return Plan(tuple(placements), tuple(rewrites), tuple(loops.items()), wide, init)


def everywhere(found: Discovery, choice: Choice | str) -> dict[str, Choice]:
    """`choice` at every site that admits it, together.

    Raises:
        SiteError: when no site does.
    """
    wanted = complete(choice)
    names = [site.name for site in found.sites if site.admits(wanted)]
    if not names:
        reasons = sorted({site.refusal(wanted) or "" for site in found.sites})[:3]
        raise SiteError(
            f"no activation site of this network admits {wanted.label}: {'; '.join(reasons) or 'it has no sites'}"
        )
    doubles = wanted != ORIGINAL and get_family(wanted.name).channel_factor(**wanted.options) > 1
    if doubles and _joint_refusal(found, names) is not None:
        kept: list[
            str
        ] = []  # each alone can be widened, all together cannot: take what fits, in execution order
        for name in names:
            if _joint_refusal(found, [*kept, name]) is None:
                kept.append(name)
        names = kept
    return dict.fromkeys(names, wanted)


def _admitted(architecture: Architecture, sites: Sequence[Site]) -> dict[str, Choice]:
    """The complete choices by site, or every fault at once."""
    known = {site.name: site for site in sites}
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
            whole = complete(choice)
        except RebornError as error:
            faults.append(f"site {name!r}: {error}")
            continue
        reason = site.refusal(whole)
        if reason is not None:
            faults.append(f"site {name!r}: {reason}; exclude the site or choose another form")
        elif whole != ORIGINAL:
            chosen[name] = whole
    if faults:
        raise SiteError(
            faults[0]
            if len(faults) == 1
            else f"{len(faults)} sites cannot be as asked:" + "".join(f"\n  - {fault}" for fault in faults)
        )
    return chosen


def _doubles(choice: Choice) -> bool:
    return get_family(choice.name).channel_factor(**choice.options) > 1


def _widened(found: Discovery, chosen: Mapping[str, Choice]) -> Widening | None:
    doubled = [site for site in found.sites if site.name in chosen and _doubles(chosen[site.name])]
    if not doubled:
        return None
    others = [site for site in found.sites if site.name in chosen and site not in doubled]
    answer = widening(_runs(found), doubled, among=others)
    if isinstance(answer, Refusal):
        names = ", ".join(repr(site.name) for site in doubled[:5])
        raise SiteError(
            f"sites {names} cannot double their channels together: {answer.reason}; choose a compressed form for some"
        )
    return answer


def _joint_refusal(found: Discovery, names: Sequence[str]) -> Refusal | None:
    wanted = set(names)
    answer = widening(_runs(found), [site for site in found.sites if site.name in wanted])
    return answer if isinstance(answer, Refusal) else None


def _runs(found: Discovery) -> list[Any]:
    return [found.eval_trace, *([found.train_trace] if found.train_trace is not None else [])]


def _edit(modules: Mapping[str, nn.Module], site: Site, attribute: str, loop: int) -> Edit:
    owner = modules[site.owner]
    if site.span is None:
        raise ConversionError(
            f"site {site.name!r}: the call's place in the source of {type(owner).__name__} is unknown; "
            "define the class in a file and call the activation in its forward"
        )
    edit = locate(type(owner), site.span, attribute, loop=loop)
    if edit.method in vars(owner):
        raise ConversionError(
            f"site {site.name!r}: {type(owner).__name__} at {site.owner!r} has a {edit.method} of its own "
            "instance, which hides the class's; define it in the class"
        )
    return edit


def with_init(plan: Plan, init: str) -> Plan:
    """The same plan with another start."""
    return replace(plan, init=init)
