"""One activation of a plan, and making it."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from reborn_nas.activations import build_activation
from reborn_nas.architecture import ORIGINAL, Choice
from reborn_nas.backbone.replace.gain import Gained, gain_of, without_gain
from reborn_nas.backbone.replace.original import module_of
from reborn_nas.backbone.sites.proof import WRITTEN
from reborn_nas.errors import ConversionError

KEPT = "kept"
"""The function of a placement that keeps the expression which stands in the source."""


class Kept(nn.Module):
    """Stands in a list of activations for a turn of a loop that keeps its own expression; it is never called."""

    kept = True


class Cloned(nn.Module):
    """An activation whose input or output the network overwrites later: it gets, or gives, a copy.

    Backward reads what the activation saved, which the overwriting would change. A copy costs the memory and the time
    of one map.

    Args:
        act: the activation.
        what: "input", "output" or "both"; or "written": the activation works in place, as the original did, on a map
            that the network reads under another name too.
    """

    def __init__(self, act: nn.Module, what: str) -> None:
        super().__init__()
        self.act = act
        self.what = what
        self.channels: int = getattr(act, "channels", 0)
        self.out_channels: int = getattr(act, "out_channels", 0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) → what the activation makes of it."""
        y: Tensor = self.act(x if self.what == "output" else x.clone())
        if self.what == WRITTEN:
            return x.copy_(y)
        return y if self.what == "input" else y.clone()

    def extra_repr(self) -> str:
        """What is copied."""
        return self.what


@dataclass(frozen=True)
class Placement:
    """One activation that is put in.

    Args:
        site: the site's name.
        choice: complete label; "original" only for the other turns of a loop in which one is replaced.
        path: module path that is set.
        channels: channels that reach it, widened ones included.
        layout: of the map, as in `Site`.
        replaces: path of the module that acts there now, or None.
        function: for a functional call, what it computes, as a `torch.nn` class with its arguments, or None.
        clone: "input", "output" or "both": what the network overwrites later and is copied first; "written" where the
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
        """The module that is put in, on the current default device.

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
                    f"site {self.site!r} stands in a loop and has no module that could keep its place; "
                    "choose an activation for every turn of the loop"
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
