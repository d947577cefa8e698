"""Networks other than timm classifiers: a folder with weights, architecture, source and example, and its loader."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from reborn_nas.architecture import Architecture
from reborn_nas.backbone import Plan, apply, build
from reborn_nas.backbone.load.factory import source_beside
from reborn_nas.backbone.trace.inputs import arguments
from reborn_nas.backbone.trace.replica import replace_tensors, tensors_in
from reborn_nas.commands import NETWORK
from reborn_nas.errors import ExportError, RebornError
from reborn_nas.export.folder import carry_source, check_target, new_folder
from reborn_nas.files import write_atomic
from reborn_nas.known import foreign_code, remember_code
from reborn_nas.training.device.cpu import cpu_threads
from reborn_nas.training.measure.example import THREADS
from reborn_nas.training.nested import pack, unpack

__all__ = ["export_network", "load", "read_example"]

_ONE_THREAD = (
    "The example's outputs are those of one thread (`torch.set_num_threads(1)`); "
    "with more, their last bits differ."
)
FORMAT = "reborn-nas network"
VERSION = 1


def export_network(
    architecture: Architecture,
    conversion: Plan | None,
    weights: Mapping[str, Tensor],
    inputs: Any,
    card: str,
    out: str | os.PathLike[str],
    *,
    force: bool = False,
) -> Path:
    """Write a trained network for `load`, together with its outputs for `inputs` on a CPU.

    Args:
        conversion: plan of its conversion; None if every site has its original activation.
        weights: state dict.
        card: text of its README.

    Raises:
        ExportError: the network cannot be rebuilt from the written files, or the folder cannot be written.
    """
    target = check_target(out, force)
    with new_folder(target) as folder:
        carried = (
            carry_source(folder, architecture) if architecture.backbone.library == "file" else architecture
        )
        about: dict[str, Any] = {"format": FORMAT, "version": VERSION, "architecture": carried.to_dict()}
        write_atomic(folder / NETWORK, json.dumps(about, indent=2) + "\n")
        if conversion is not None:
            write_atomic(folder / "plan.json", conversion.to_json(indent=2) + "\n")
        write_atomic(folder / "model.safetensors", save(dict(weights), metadata={"format": "pt"}))
        network = _rebuilt(folder, about, conversion)
        inputs, outputs, steady = _example(network, inputs)
        write_atomic(folder / "README.md", card if steady else f"{card}\n{_ONE_THREAD}\n")
        tensors, text = pack({"inputs": inputs, "outputs": outputs})
        write_atomic(folder / "example.safetensors", save(tensors, metadata={"nested": text}))
    remember_code(_located(target, Architecture.from_dict(about["architecture"])).backbone)
    return target


def load(folder: str | os.PathLike[str], *, trust_source: bool = False) -> nn.Module:
    """Load the network of a folder that `export` wrote for a training of your own, in eval mode on the CPU.

    Args:
        trust_source: run the source file in the folder even if it is not known from an export or search of yours on
            this machine.

    Raises:
        ExportError: the folder is not such an export, is damaged, or its source is unknown here.
    """
    home = Path(folder)
    try:
        about = json.loads((home / NETWORK).read_text(encoding="utf-8"))
        text = (home / "plan.json").read_text(encoding="utf-8") if (home / "plan.json").is_file() else None
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{home} holds no network of a training of your own ({error}); a classifier's export is loaded by "
            "timm, as its README says"
        ) from None
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("version") != VERSION:
        raise ExportError(f"{home / NETWORK} is of no version that this reborn-nas reads")
    try:
        located = _located(home, Architecture.from_dict(about["architecture"]))
        code = None if trust_source else foreign_code([located.backbone])
        if code is not None:
            raise ExportError(
                f"{home}: the network is built by source code, {code}, that came from elsewhere; read it, then load "
                "with trust_source=True"
            )
        return _rebuilt(home, about, None if text is None else Plan.from_json(text))
    except (KeyError, TypeError) as error:
        raise ExportError(f"{home / NETWORK} is damaged: {error}") from None


def read_example(file: Path) -> dict[str, Any]:
    """Read `inputs` and `outputs` from an example's file. Raises ExportError."""
    try:
        with safe_open(file, framework="pt") as archive:
            text = archive.metadata()["nested"]
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        return unpack(tensors, text)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{file} cannot be read ({error}), so nothing shows that the network is the same"
        ) from None


def _located(home: Path, architecture: Architecture) -> Architecture:
    """The architecture with its source in the folder."""
    spec = architecture.backbone
    if spec.library != "file":
        return architecture
    return architecture.with_backbone(replace(spec, source=source_beside(home, spec.source)))


def _rebuilt(home: Path, about: Mapping[str, Any], conversion: Plan | None) -> nn.Module:
    architecture = _located(home, Architecture.from_dict(about["architecture"]))
    try:
        network = build(architecture.backbone, device="cpu")
        if conversion is not None:
            network = apply(network, conversion, inplace=True)
        network.load_state_dict(load_file(home / "model.safetensors"))
    except (SafetensorError, OSError, RuntimeError) as error:
        if isinstance(error, RebornError):
            raise
        raise ExportError(f"{home}: the weights do not fit the network, or cannot be read: {error}") from None
    return network.eval()


def _example(network: nn.Module, inputs: Any) -> tuple[Any, Any, bool]:
    """Inputs whose outputs do not depend on the number of threads, the outputs, and whether there are such inputs.

    For some batch sizes the order of a CPU kernel's sums depends on the number of threads. The batch is halved until it
    does not; if that fails, the complete inputs are kept, with the outputs of one thread.
    """
    for fewer in _batches(inputs):
        with cpu_threads(1):
            outputs = _outputs(network, fewer)
        if all(_same_with(network, fewer, outputs, threads) for threads in THREADS):
            return fewer, outputs, True
    with cpu_threads(1):
        return inputs, _outputs(network, inputs), False


def _batches(inputs: Any) -> Iterator[Any]:
    """The inputs, and halves of them if all tensors have the same batch size."""
    yield inputs
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors_in(inputs)}
    rows = sizes.pop() if len(sizes) == 1 else 0
    while rows > 1:
        rows //= 2
        yield replace_tensors(inputs, partial(_first, rows=rows))


def _first(tensor: Tensor, rows: int) -> Tensor:
    return tensor[:rows]


def _same_with(network: nn.Module, inputs: Any, outputs: Any, threads: int) -> bool:
    with cpu_threads(threads):
        again = _outputs(network, inputs)
    return all(map(torch.equal, tensors_in(outputs), tensors_in(again)))


def _outputs(network: nn.Module, inputs: Any) -> Any:
    args, kwargs = arguments(inputs)
    with torch.no_grad():
        outputs = network(*args, **kwargs)
    if not any(True for _ in tensors_in(outputs)):
        raise ExportError(
            "the network's outputs hold no tensor, so nothing would show that it is the same again"
        )
    return outputs
