"""What a conversion will do, module by module: pure data, decided before anything is touched, stored as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from reborn_nas.architecture import ORIGINAL, Architecture, Choice
from reborn_nas.backbone.layers.steps import Widening
from reborn_nas.backbone.replace.admission import admitted, widened
from reborn_nas.backbone.replace.gain import conv_gains
from reborn_nas.backbone.replace.heads import Width
from reborn_nas.backbone.replace.means import OwnerRewrite, means_for, taps_for
from reborn_nas.backbone.replace.original import functional_original
from reborn_nas.backbone.replace.placement import KEPT, Placement
from reborn_nas.backbone.sites.site import Discovery, Site
from reborn_nas.errors import ConversionError

VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What `apply` does. Equal plans on equal networks give equal conversions.

    Args:
        placements: the activations that are put in, in execution order.
        rewrites: the modules whose forward is rewritten.
        loops: path of a `ModuleList` → its length, for calls that a loop runs.
        widening: what grows behind doubled channels, or None.
        init: "xavier", or "preserve" for the function that the network had.
        gains: weight-standardised convolutions that hold the gain of the activation before them, and its change.
        spare: paths of activation modules with parameters that nothing uses any more.
        widths: what a timm network tells of the widths of its features, where widening changes it.
        proof: digest of the proof that the network converts truly; "" in plans from before there was one.
    """

    placements: tuple[Placement, ...]
    rewrites: tuple[OwnerRewrite, ...] = ()
    loops: tuple[tuple[str, int], ...] = ()
    widening: Widening | None = None
    init: str = "xavier"
    gains: tuple[tuple[str, float], ...] = ()
    spare: tuple[str, ...] = ()
    widths: tuple[Width, ...] = ()
    proof: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON values only, with a format version."""
        data: dict[str, Any] = {
            "version": VERSION,
            "init": self.init,
            "placements": [placement.to_dict() for placement in self.placements],
            "rewrites": [rewrite.to_dict() for rewrite in self.rewrites],
            "loops": [list(loop) for loop in self.loops],
            "gains": [list(gain) for gain in self.gains],
            "widening": None if self.widening is None else self.widening.to_dict(),
        }
        more = {
            "spare": list(self.spare),
            "widths": [asdict(width) for width in self.widths],
            "proof": self.proof,
        }
        return {**data, **{key: value for key, value in more.items() if value}}

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
                rewrites=tuple(OwnerRewrite.from_dict(item) for item in data["rewrites"]),
                loops=tuple((str(path), int(length)) for path, length in data["loops"]),
                widening=None if data["widening"] is None else Widening.from_dict(data["widening"]),
                init=data["init"],
                gains=tuple((str(path), float(factor)) for path, factor in data.get("gains", ())),
                spare=tuple(map(str, data.get("spare", ()))),
                widths=tuple(Width(**item) for item in data.get("widths", ())),
                proof=str(data.get("proof", "")),
            )
        except ConversionError:
            raise
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


def outline(model: nn.Module, architecture: Architecture, found: Discovery, init: str = "xavier") -> Plan:
    """A plan that has not been tried out; enough to count what the network costs."""
    chosen = admitted(architecture, found)
    proof = found.proof
    steps = draw(model, found, chosen, widened(found, chosen), init)
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


def draw(
    model: nn.Module,
    found: Discovery,
    chosen: Mapping[str, Choice],
    wide: Widening | None = None,
    init: str = "xavier",
) -> Plan:
    """The plan for choices that are known to be admissible.

    Raises:
        ConversionError: a forward that cannot be rewritten.
    """
    widths = {} if wide is None else wide.channels
    modules = dict(model.named_modules(remove_duplicate=False))
    owners = dict.fromkeys(s.owner for s in found.sites if s.name in chosen and s.kind != "module")
    means = {owner: means_for(owner, modules[owner], found, chosen.keys()) for owner in owners}
    placements: list[Placement] = []
    for site in found.sites:
        if site.kind == "module":
            path = site.path if site.name in chosen else None
        else:
            path = means[site.owner].paths.get(site.name) if site.owner in means else None
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
    loops = {path: length for each in means.values() for path, length in each.loops.items()}
    replaced = {placement.replaces for placement in placements}
    rewrites = (*(each.rewrite for each in means.values()), *taps_for(model, replaced))
    gains = () if init == "preserve" else conv_gains(model, found, chosen)
    return Plan(tuple(placements), rewrites, tuple(loops.items()), wide, init, gains)
