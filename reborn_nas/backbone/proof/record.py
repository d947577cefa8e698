"""What a proof holds for: one network as it was traced, its source, and the versions of what builds and runs it.

A study proves a network once. The proof travels in JSON under the network's fingerprint, and a process that finds the
same fingerprint takes it over.
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from reborn_nas.backbone.sites.proving import KNOWN
from reborn_nas.backbone.trace.events import Trace
from reborn_nas.backbone.trace.spans import CallSpan
from reborn_nas.files import sha256_of

if TYPE_CHECKING:
    from reborn_nas.backbone.sites.proof import Proof
    from reborn_nas.backbone.sites.site import Discovery

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_LIBRARIES = ("reborn-nas", "torch", "timm", "torchvision")


def proof_record(model: nn.Module, found: Discovery) -> dict[str, Any]:
    """Fingerprint of `model` → its proof, in JSON values; `discover` takes it as `proofs`."""
    return {fingerprint(model, found.traces): found.proof.to_dict()}


def recorded_proof(model: nn.Module, traces: Sequence[Trace], records: Mapping[str, Any]) -> Proof | None:
    """The proof of `model` among the records, or None where it has to be made."""
    from reborn_nas.backbone.sites.proof import Proof  # it asks for sites

    try:
        return Proof.from_dict(records[fingerprint(model, traces)])
    except (KeyError, TypeError, ValueError):
        return None


def fingerprint(model: nn.Module, traces: Sequence[Trace]) -> str:
    """Sixteen hex digits, the same in every process and on every machine where the proof would be the same.

    Args:
        model: the network.
        traces: its runs in each mode.
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
    """Each file with a class of the network's own, by its content."""
    classes = {cls for module in model.modules() for cls in type(module).__mro__}
    for name in sorted({cls.__module__ for cls in classes}):
        file = getattr(sys.modules.get(name), "__file__", None)
        if name.partition(".")[0] not in (*KNOWN, "builtins") and file is not None and Path(file).is_file():
            yield f"{name} {sha256_of(Path(file))}"


def _run(run: Trace) -> Iterator[str]:
    """What one run did, without the folders that the source lies in."""
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
