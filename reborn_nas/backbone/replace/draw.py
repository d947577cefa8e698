"""By what means the sites of one module get activations of their own: an edited class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from reborn_nas.backbone.forward.naming import attribute_of, join
from reborn_nas.backbone.forward.rewrite import Edit, Rewrite, locate, rewrite_of
from reborn_nas.backbone.forward.taps import Taps, has_taps
from reborn_nas.backbone.sites.site import Discovery, Site
from reborn_nas.errors import ConversionError


@dataclass(frozen=True)
class OwnerRewrite:
    """A module that gets a class with another forward.

    Args:
        owner: its path.
        cls: its class, `module:qualname`.
        change: the calls that change in its source, or in how it shows features.
    """

    owner: str
    cls: str
    change: Rewrite | Taps

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        data: dict[str, Any] = {"owner": self.owner, "cls": self.cls}
        if isinstance(self.change, Taps):
            return {**data, "taps": True}
        return {**data, "rewrite": self.change.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OwnerRewrite:
        """The inverse of `to_dict`."""
        change: Rewrite | Taps
        if "rewrite" in data:
            change = Rewrite.from_dict(data["rewrite"])
        elif "taps" in data:
            change = Taps()
        else:
            raise ConversionError(
                f"the plan has a forward of {data['cls']} that torch.fx wrote, which may drop what torch.fx cannot "
                "follow and is no longer carried out; plan again"
            )
        return cls(str(data["owner"]), str(data["cls"]), change)


@dataclass(frozen=True)
class Means:
    """What is done at one owner.

    Args:
        rewrite: how its forward changes.
        paths: site → module path where its activation is put; in an edited loop, of every turn.
        loops: paths of the lists that edited loops walk → their length.
    """

    rewrite: OwnerRewrite
    paths: Mapping[str, str]
    loops: Mapping[str, int]


def means_for(owner: str, module: nn.Module, found: Discovery, chosen: Collection[str]) -> Means:
    """The means for the chosen sites of `owner` that have no attribute of their own.

    Raises:
        ConversionError: the source will not do; names class, line and remedy.
    """
    sites = [s for s in found.sites if s.owner == owner and s.kind != "module"]
    wanted = [site for site in sites if site.name in chosen]
    name = f"{type(module).__module__}:{type(module).__qualname__}"
    edits, paths, loops = _edited(owner, module, sites, wanted)
    return Means(OwnerRewrite(owner, name, rewrite_of(type(module), edits)), paths, loops)


def taps_for(model: nn.Module, paths: Collection[str | None]) -> tuple[OwnerRewrite, ...]:
    """What changes where `model` shows features behind one of the modules at `paths`, which are replaced."""
    if not has_taps(model, paths):
        return ()
    return (OwnerRewrite("", f"{type(model).__module__}:{type(model).__qualname__}", Taps()),)


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
            f"{type(owner).__name__}, {site.span.place}: the instance has a {edit.method} of its own, which hides "
            "the class's; define it in the class"
        )
    return edit
