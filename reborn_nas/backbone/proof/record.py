"""When a network is proved, and for what a proof is valid: the traced network, its source, and library versions.

A study proves a network once. The proof is stored as JSON under the network's fingerprint, and every process that
computes the same fingerprint reuses it.
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from reborn_nas.backbone.sites.site import Discovery, Proof
from reborn_nas.backbone.trace.graph import CallSpan, Trace
from reborn_nas.backbone.trace.replica import replicate
from reborn_nas.errors import ConversionError
from reborn_nas.files import sha256_of

KNOWN = ("torch", "timm", "torchvision", "reborn_nas")
"""Packages whose networks have been converted and compared with the originals."""


class Proving:
    """Makes the proof of one network, once. Pickled as the proof, without the network.

    Args:
        model: the network, of which a copy on the meta device is kept; later changes do not matter.
        inputs: inputs of its runs.
        prove: proves a network with given sites and inputs.
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
        """Set the sites. A network with its own classes, or with values in its control flow, is proved at once, with
        its own weights if it has any.

        Args:
            proof: proof of the network, if it has been proved before.
        """
        self._found, self._proof = found, proof
        real = not any(parameter.is_meta for parameter in model.parameters())
        if proof is None and real and (on_cpu or is_own(model)):
            self._model = model
            self.proof()

    def proof(self) -> Proof:
        """The proof, made on first use."""
        if self._proof is None:
            if self._model is None or self._found is None:
                raise ConversionError("the network was not traced")
            self._proof = self._prove(self._model, self._found, self._inputs)
            self._model = self._inputs = self._found = None
        return self._proof

    def __getstate__(self) -> dict[str, Any]:
        return {"_proof": self.proof(), "_model": None, "_inputs": None, "_found": None}


def is_own(model: nn.Module) -> bool:
    """Whether values are compared too: for modules of classes that no known library defines, or for which torch has a
    fused kernel that calls no activation.
    """
    return any(
        type(module).__module__.partition(".")[0] not in KNOWN
        or isinstance(module, nn.TransformerEncoderLayer)
        for module in model.modules()
    )


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


_LIBRARIES = ("reborn-nas", "torch", "timm", "torchvision")


def proof_record(model: nn.Module, found: Discovery) -> dict[str, Any]:
    """Fingerprint of `model` → its proof, in JSON values; `discover` takes it as `proofs`."""
    return {fingerprint(model, found.traces): found.proof.to_dict()}


def recorded_proof(model: nn.Module, traces: Sequence[Trace], records: Mapping[str, Any]) -> Proof | None:
    """The proof of `model` among the records, or None."""

    try:
        return Proof.from_dict(records[fingerprint(model, traces)])
    except (KeyError, TypeError, ValueError):
        return None


def fingerprint(model: nn.Module, traces: Sequence[Trace]) -> str:
    """A fingerprint of sixteen hex digits; processes and machines with the same fingerprint share a proof.

    Args:
        model: network to prove.
        traces: runs in each mode.
    """
    digest = hashlib.sha256()
    for line in (
        *_versions(),
        *_parts(model),
        *_sources(model),
        *(item for run in traces for item in _run(run)),
    ):
        digest.update(_ADDRESS.sub("", line).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def _versions() -> Iterator[str]:
    yield platform.python_version()
    for library in _LIBRARIES:
        yield f"{library} {version(library)}"


def _parts(model: nn.Module) -> Iterator[str]:
    """Each module with its class, its settings and the shapes of its tensors."""
    for path, module in model.named_modules(remove_duplicate=False):
        kind = type(module)
        yield f"{path} {kind.__module__}:{kind.__qualname__} {module.extra_repr()}"
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            yield f"{path}.{name} " + ("" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}")


def _sources(model: nn.Module) -> Iterator[str]:
    """Each file with a class of the network, by its content."""
    classes = {cls for module in model.modules() for cls in type(module).__mro__}
    for name in sorted({cls.__module__ for cls in classes}):
        file = getattr(sys.modules.get(name), "__file__", None)
        if name.partition(".")[0] not in (*KNOWN, "builtins") and file is not None and Path(file).is_file():
            yield f"{name} {sha256_of(Path(file))}"


def _run(run: Trace) -> Iterator[str]:
    """The events of one run, without the folders of source files."""
    yield f"{run.training} {run.on_cpu} {run.inputs} {run.outputs}"
    for value in run.values:
        yield repr(value)
    for op in run.ops:
        yield repr(
            (op.name, op.stack, op.inputs, op.outputs, op.args, dict(op.kwargs), op.inplace, _place(op.span))
        )
    for call in run.calls:
        yield repr((call.path, call.first_op, call.inputs, call.outputs, call.parent, _place(call.span)))


def _place(span: CallSpan | None) -> tuple[object, ...]:
    if span is None:
        return ()
    return (span.function, span.line, span.column, span.end_line, span.end_column, span.helper)
