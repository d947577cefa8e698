"""The plan of a conversion, module by module: pure data, made before anything is changed, and stored as JSON."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from reborn_nas.activations import build_activation
from reborn_nas.architecture import ORIGINAL, Choice
from reborn_nas.backbone.forward.features import FeatureActivations
from reborn_nas.backbone.forward.rewrite import Rewrite
from reborn_nas.backbone.layers.steps import Widening
from reborn_nas.backbone.replace.modules import KEPT, Cloned, Gained, Kept, gain_of, module_of, without_gain
from reborn_nas.errors import ConversionError


@dataclass(frozen=True)
class Placement:
    """An activation to insert.

    Args:
        site: name of the site.
        choice: complete label; "original" only for other iterations of a loop in which one is replaced.
        path: module path to set.
        channels: number of input channels, including widened ones.
        layout: layout of the map, as in `Site`.
        replaces: path of the replaced module, or None.
        function: for a functional call, its `torch.nn` class with arguments, or None.
        clone: "input", "output" or "both": tensors that are overwritten later and must be cloned; "written" if the
            result is written over the map that the activation reads; "" for none of these.
    """

    site: str
    choice: str
    path: str
    channels: int
    layout: str
    replaces: str | None
    function: str | None
    clone: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the inverse is the constructor."""
        data = asdict(self)
        return data if self.clone else {key: value for key, value in data.items() if key != "clone"}

    def make(self, original: nn.Module | None, init: str) -> nn.Module:
        """Make the module to insert, on the current default device.

        Args:
            original: the module at `replaces`, which is not changed.
            init: "xavier" or "preserve".
        """
        if self.function == KEPT:
            return Kept()
        acts = original if original is not None else module_of(self.function)
        if self.choice == ORIGINAL.label:
            if acts is None:
                raise ConversionError(
                    f"site {self.site!r} is in a loop and has no module that could keep its place; "
                    "choose an activation for every iteration of the loop"
                )
            return acts
        choice = Choice.parse(self.choice)
        plain, gain = (None, None) if acts is None else without_gain(acts)
        made = build_activation(
            choice, self.channels, layout=self.layout, original=copy.deepcopy(plain), init=init
        )
        if gain is not None:
            own = None if init == "preserve" else gain_of(choice, made)
            made = Gained(made, gain if own is None else own)
        return Cloned(made, self.clone) if self.clone else made


@dataclass(frozen=True)
class OwnerRewrite:
    """A module whose class is replaced by one with a rewritten forward.

    Args:
        owner: path of the module.
        cls: class of the module, `module:qualname`.
        change: the changed calls in its source, or in its method for features.
    """

    owner: str
    cls: str
    change: Rewrite | FeatureActivations

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        data: dict[str, Any] = {"owner": self.owner, "cls": self.cls}
        if isinstance(self.change, FeatureActivations):
            return {**data, "taps": True}
        return {**data, "rewrite": self.change.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OwnerRewrite:
        """The inverse of `to_dict`."""
        change: Rewrite | FeatureActivations
        if "rewrite" in data:
            change = Rewrite.from_dict(data["rewrite"])
        elif "taps" in data:
            change = FeatureActivations()
        else:
            raise ConversionError(
                f"the plan has a forward of {data['cls']} that torch.fx wrote, which may omit what torch.fx cannot "
                "trace and is no longer supported; make a new plan"
            )
        return cls(str(data["owner"]), str(data["cls"]), change)


@dataclass(frozen=True)
class Width:
    """An attribute of a network about its widths.

    Args:
        module: path of the module.
        name: name of the attribute.
        value: value after widening.
        row: index of the row with this `num_chs`, for timm's `feature_info`; else None.
    """

    module: str
    name: str
    value: int
    row: int | None = None


VERSION = 1


@dataclass(frozen=True)
class Plan:
    """The steps of a conversion. Equal plans for equal networks give equal conversions.

    Args:
        placements: the activations to insert, in execution order.
        rewrites: modules whose forward is rewritten.
        loops: path of a `ModuleList` → its length, for calls in a loop.
        widening: the widening after doubled channels, or None.
        init: "xavier", or "preserve" to keep the function of the network.
        gains: weight-standardised convolutions with the gain of the preceding activation, and its change.
        spare: paths of activation modules with parameters that are no longer used.
        widths: attributes of a timm network about the widths of its features that widening changes.
        proof: digest of the proof of the network; "" in old plans.
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
        """The plan as a JSON string; `from_json` restores it."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`. Raises ConversionError for another version or other data."""
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
            raise ConversionError(
                f"this is not a conversion plan: {type(error).__name__}: {error}"
            ) from error

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConversionError(f"a conversion plan is JSON: {error}") from error
        return cls.from_dict(data)

    @property
    def digest(self) -> str:
        """A digest of the plan, of twelve hex digits."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
