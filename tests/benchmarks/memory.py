"""Bytes that a training step holds, counted on the meta device: exact, on any machine, in seconds.

    python -m tests.benchmarks.memory [--backbone resnet34] [--batch 128 512] [--json FILE]

A mode of torch sees every tensor that an operation makes and when it is freed, forward and backward. What it cannot
see: cuDNN's workspaces, the allocator's rounding, and the private pool of a CUDA graph. Weights are held as the step on
a GPU holds them: float32 with momentum, gradients, and maps in bf16.

The arithmetic, in maps of one site (N bytes each): a convolution keeps its input, a BatchNorm its input, ReLU its
output, which is the next convolution's input: 2 N a site. An all-reborn network keeps in its place x, relu(x),
min(x, 0), Φ(·), BN(Φ(·)), its output and the BatchNorm's input: 7 N. A sparing block keeps x and, from 128 channels on,
Φ(·): 3 to 4 N.
Goal: all reborn at most 2× ReLU. Weights are 2.3× and count 10 bytes each before the first gradient comes.
"""

from __future__ import annotations

import argparse
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """Counts bytes of storages made within: those alive now (`live`) and the most at a time (`peak`)."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        old = {id_of(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and id_of(tensor) not in old:
                self._watch(tensor.untyped_storage())
        return made

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = weakref.finalize(storage, self._freed, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.live -= size


def id_of(tensor: torch.Tensor) -> int:
    """Of the memory behind a tensor."""
    return tensor.untyped_storage()._cdata


def step_bytes(model: nn.Module, batch: int, input_size: tuple[int, int, int]) -> int:
    """The most bytes that a training step of `model` holds, weights and momentum included; `model` moves to meta."""
    model = model.to("meta", torch.bfloat16).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    held: list[torch.Tensor] = []

    def accumulate(parameter: torch.Tensor) -> None:
        held.append(torch.empty(parameter.shape, device="meta"))  # the float32 gradient
        parameter.grad = None

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(accumulate)
    images = torch.empty(batch, *input_size, device="meta", dtype=torch.bfloat16)
    labels = torch.empty(batch, device="meta", dtype=torch.int64)
    with Meter() as meter:
        loss = nn.functional.cross_entropy(model(images).float(), labels)
        loss.backward()
        del loss
    held.clear()
    weights = sum(p.numel() for p in parameters)
    return meter.peak + weights * (4 + 4 + 2) + images.nbytes


def measure(backbone: str, batch: int, classes: int = 100) -> dict[str, int]:
    """Bytes of ReLU, all reborn, and all reborn and sparing."""
    import reborn_nas as rn
    from reborn_nas.activations import spare_memory
    from reborn_nas.backbone import build, resolve

    size = (3, 32, 32)
    spec = resolve(backbone, input_size=size, num_classes=classes)
    parent = build(spec, device="cpu")
    reborn = rn.convert(parent, "reborn", input_size=size)
    found = {"ReLU": step_bytes(parent, batch, size), "all reborn": step_bytes(reborn, batch, size)}
    spare_memory(reborn)
    for parameter in reborn.parameters():
        parameter._post_accumulate_grad_hooks = None
    return {**found, "all reborn, sparing": step_bytes(reborn, batch, size)}


def main() -> None:
    """Count and print."""
    from tests.benchmarks.harness import print_table, save

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="resnet34")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    rows = []
    for batch in options.batch:
        found = measure(options.backbone, batch)
        for form, size in found.items():
            row = {"backbone": options.backbone, "batch": batch, "form": form, "MiB": round(size / 2**20)}
            rows.append({**row, "× ReLU": round(size / found["ReLU"], 2)})
    print_table(rows, "bytes of a training step, counted on the meta device")
    save(options.json, "memory", rows, [])


if __name__ == "__main__":
    main()
