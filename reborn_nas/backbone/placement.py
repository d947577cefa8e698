"""One activation of a plan, and making it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from reborn_nas.activations import build_activation
from reborn_nas.architecture import ORIGINAL, Choice
from reborn_nas.backbone.gain import Gained, gain_of, without_gain
from reborn_nas.backbone.original import module_of
from reborn_nas.errors import ConversionError


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
    """

    site: str
    choice: str
    path: str
    channels: int
    layout: str
    replaces: str | None
    function: str | None

    def make(self, original: nn.Module | None, init: str) -> nn.Module:
        """The module that is put in, on the current default device.

        Args:
            original: the module at `replaces`, which is not changed.
            init: "xavier" or "preserve".
        """
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
        if gain is None:
            return made
        own = None if init == "preserve" else gain_of(choice, made)
        return Gained(made, gain if own is None else own)
