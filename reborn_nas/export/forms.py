"""Other forms of a network: ONNX, torch.export, TorchScript; each is loaded again and compared."""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reborn_nas.commands import install_line
from reborn_nas.errors import ExportError, blame_machine

__all__ = ["FORMS", "check_forms", "write_forms"]

TOLERANCE = 1e-4  # relative to the largest logit
BATCHES = (1, 5)  # batch sizes at which each form is compared, in addition to the example's

Run = Callable[[Tensor], Tensor]


def check_forms(forms: Sequence[str]) -> None:
    """Raise ExportError for an unknown form, or one whose packages are not installed."""
    for form in forms:
        if form not in FORMS:
            raise ExportError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    if "onnx" in forms:
        needed = ("onnx", "onnxscript", "onnxruntime")
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(f"ONNX needs {', '.join(missing)}: {install_line('onnx')}")


def write_forms(folder: Path, model: nn.Module, example: Tensor, forms: Sequence[str]) -> dict[str, float]:
    """Write each of `forms` into `folder`, load it again and compare it with `model` at several batch sizes.

    Args:
        model: in eval mode on the CPU.
        example: (B, C, H, W), normalised.

    Returns:
        File name → largest deviation from the model's logits, relative to the largest logit.

    Raises:
        ExportError: the network cannot be exported to a form, or the form computes something else.
    """
    found = {}
    if len(example) == 1:  # a batch of one would be treated as a constant
        example = example.repeat(2, 1, 1, 1)
    for form in forms:
        name, write, load = FORMS[form]
        try:
            with _quiet(), torch.no_grad():
                write(copy.deepcopy(model), example, folder / name)
                error = _deviation(model, load(folder / name), example)
        except Exception as failure:  # exporters raise any exception
            blame_machine(failure, folder / name)
            lines = str(failure).strip().splitlines() or [type(failure).__name__]
            raise ExportError(f"{name} cannot be written ({form}): {lines[0][:300]}") from failure
        if not error <= TOLERANCE:
            raise ExportError(
                f"{name} differs from the network by {error:.1e} of its largest logit; not kept"
            )
        found[name] = error
    return found


def _deviation(model: nn.Module, run: Run, example: Tensor) -> float:
    worst = 0.0
    for size in (len(example), *BATCHES):
        x = example[torch.arange(size) % len(example)].contiguous()
        expected = model(x)
        worst = max(worst, float((run(x) - expected).abs().max() / expected.abs().max().clamp(min=1e-12)))
    return worst


def _batch(example: Tensor) -> tuple[Any, ...]:
    """Dynamic shapes: only the first axis is free."""
    return ({0: torch.export.Dim("batch", min=1, max=65536)},)


def _write_onnx(model: nn.Module, example: Tensor, path: Path) -> None:
    import onnx

    program: Any = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        dynamic_shapes=_batch(example),
        input_names=["input"],
        output_names=["logits"],
        verbose=False,
    )
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path))


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _write_export(model: nn.Module, example: Tensor, path: Path) -> None:
    program = torch.export.export(model, (example,), dynamic_shapes=_batch(example), strict=False)
    torch.export.save(program, path)


def _load_export(path: Path) -> Run:
    run: Run = torch.export.load(path).module()
    return run


def _write_trace(model: nn.Module, example: Tensor, path: Path) -> None:
    traced: Any = torch.jit.trace(model, example, check_trace=False)  # type: ignore[no-untyped-call]
    traced.save(str(path))


def _load_trace(path: Path) -> Run:
    run: Run = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return run


FORMS: Mapping[str, tuple[str, Callable[[nn.Module, Tensor, Path], None], Callable[[Path], Run]]] = {
    "onnx": ("model.onnx", _write_onnx, _load_onnx),
    "torch-export": ("model.pt2", _write_export, _load_export),
    "jit-trace": ("model.torchscript", _write_trace, _load_trace),
}
"""Form → (file, function that writes it, function that loads it)."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the logs and warnings of exporters, which do not concern the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
