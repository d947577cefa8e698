"""When a network is put to the proof: at once where its own numbers are needed, else when first asked about a site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from reborn_nas.backbone.sites.proof import Proof
from reborn_nas.backbone.sites.site import Discovery
from reborn_nas.backbone.trace.replica import replicate
from reborn_nas.errors import ConversionError

KNOWN = ("torch", "timm", "torchvision", "reborn_nas")
"""Packages whose networks have been converted and compared with the originals, one by one."""


class Proving:
    """The proof of one network, made once. Pickled as the proof, without the network.

    Args:
        model: the network. What becomes of it later does not matter: a copy on the meta device is kept.
        inputs: what it is run with.
        prove: makes the proof of a network with these sites and inputs.
    """

    def __init__(
        self, model: nn.Module, inputs: Any, prove: Callable[[nn.Module, Discovery, Any], Proof]
    ) -> None:
        self._prove = prove
        self._model: nn.Module | None = replicate(model, "meta")
        self._inputs = inputs
        self._found: Discovery | None = None
        self._proof: Proof | None = None

    def settle(self, found: Discovery, model: nn.Module, *, on_cpu: bool, proof: Proof | None = None) -> None:
        """Take in the sites. A network of other classes than the known libraries', or with numbers in its control
        flow, is proved at once, with its own weights where it has some.

        Args:
            proof: this network's, where it was made before.
        """
        self._found, self._proof = found, proof
        real = not any(parameter.is_meta for parameter in model.parameters())
        if proof is None and real and (on_cpu or is_own(model)):
            self._model = model
            self.proof()

    def proof(self) -> Proof:
        """The proof, made when first asked for."""
        if self._proof is None:
            if self._model is None or self._found is None:
                raise ConversionError("the network was not traced")
            self._proof = self._prove(self._model, self._found, self._inputs)
            self._model = self._inputs = self._found = None
        return self._proof

    def __getstate__(self) -> dict[str, Any]:
        return {"_proof": self.proof(), "_model": None, "_inputs": None, "_found": None}


def is_own(model: nn.Module) -> bool:
    """Whether its numbers are to be compared: it has modules of classes that no library of ours defines, or of those
    for which torch has a fused kernel that calls no activation.
    """
    return any(
        type(module).__module__.partition(".")[0] not in KNOWN
        or isinstance(module, nn.TransformerEncoderLayer)
        for module in model.modules()
    )
