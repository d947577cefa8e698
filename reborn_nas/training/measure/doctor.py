"""What a training relies on, tried on the user's own device: `reborn-nas doctor`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from reborn_nas.activations import build_activation
from reborn_nas.activations.phases import KINDS, kernels_work
from reborn_nas.data import ImageSet, load_dataset, split
from reborn_nas.seeds import derive_seed
from reborn_nas.training.device.precision import resolve_precision
from reborn_nas.training.device.selection import describe, first_line, probe
from reborn_nas.training.loop import train
from reborn_nas.training.recipe.recipe import Recipe
from reborn_nas.training.result import TrainingResult

KINDS_OF_SITE = ("relu", "reborn", "crelu", "positive_twin")
ARITHMETIC = {"fp32": 0.02, "bf16": 0.25, "fp16": 0.1}
"""By how much the last loss may differ from the CPU's in fp32, as a share: rounding of one epoch's training."""

GROWTH = 2**20
"""Bytes that ten trainings may leave on the device beyond what the first one leaves."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        name: what was tried.
        good: whether it is as it should be.
        text: the figure, or what is wrong.
    """

    name: str
    good: bool
    text: str


def examine(device: str) -> Iterator[Finding]:
    """Try everything that trainings on `device` rely on, in about a minute; each result as soon as it is there.

    Small networks are trained on scikit-learn's digits: by replayed steps and by eager ones, in each arithmetic of
    the device, with every kind of site; what differs is a finding that is not good.
    """
    place = torch.device(device)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("device", lambda: describe(place)),
        ("computes", lambda: _computes(place)),
    ]
    if place.type == "cuda":
        checks += [("Triton kernels", lambda: _kernels(place))]
    images = load_dataset("digits", seed=0)
    precisions = list(
        dict.fromkeys(["fp32", resolve_precision("auto", place, nn.Linear(1000, 1000, device="meta"))])
    )
    reference = _train("relu", images, torch.device("cpu"), "fp32").curve[-1]["train_loss"]
    for precision in precisions:
        for kind in KINDS_OF_SITE:
            checks.append(
                (f"training, {kind}, {precision}", _training(kind, images, place, precision, reference))
            )
    checks += [("repeats", lambda: _repeats(images, place)), ("memory", lambda: _memory(images, place))]
    for name, check in checks:
        try:
            yield Finding(name, True, check())
        except Exception as error:  # whatever a broken device raises is the finding
            yield Finding(name, False, first_line(error))
            if name == "computes":
                return


def _computes(place: torch.device) -> str:
    probe(place)
    x = torch.linspace(-1, 1, 64 * 64, dtype=torch.float64).view(64, 64)
    expected = (x @ x).float()
    got = (x.float().to(place) @ x.float().to(place)).cpu()
    error = float((got - expected).abs().max() / expected.abs().max())
    if not error < 1e-2:
        raise RuntimeError(f"a product of matrices is wrong by {error:.1e} of its largest value")
    return f"a product of matrices to {error:.0e}"


def _kernels(place: torch.device) -> str:
    broken = [
        f"{dtype}{' channels_last' * last}"
        for dtype in KINDS
        for last in (False, True)
        if not kernels_work(str(place), dtype, last)
    ]
    if broken:
        raise RuntimeError(f"not used, plain operations take their place: {', '.join(broken)}")
    return "equal to plain operations in fp32, bf16 and fp16, both memory orders"


def _training(
    kind: str, images: ImageSet, place: torch.device, precision: str, reference: float
) -> Callable[[], str]:
    def check() -> str:
        began = time.perf_counter()
        result = _train(kind, images, place, precision)
        seconds = time.perf_counter() - began
        loss, first = result.curve[-1]["train_loss"], result.curve[0]["train_loss"]
        if not loss < first:
            raise RuntimeError(f"does not learn: the loss goes from {first:.3f} to {loss:.3f}")
        if place.type == "cuda" and result.form != "cuda-graph":
            raise RuntimeError(f"trains {result.form}")
        if kind == "relu" and abs(loss - reference) > ARITHMETIC[precision] * reference:
            raise RuntimeError(f"the loss is {loss:.4f}, on the CPU in fp32 {reference:.4f}")
        trained = result.epochs * result.batch_size * (len(images.pool) // result.batch_size)
        return f"loss {first:.3f} to {loss:.3f}, {trained / seconds:,.0f} images a second, {result.form}"

    return check


def _repeats(images: ImageSet, place: torch.device) -> str:
    one, two = (_train("reborn", images, place, "fp32").curve[-1]["train_loss"] for _ in range(2))
    if one == two:
        return "the same seed gives the same loss to the bit"
    if place.type == "cpu" or abs(one - two) > 0.05 * abs(one):
        raise RuntimeError(f"the same seed gives losses of {one!r} and {two!r}")
    return f"the same seed gives the same loss to {abs(one - two) / one:.0e} (--deterministic: to the bit, slower)"


def _memory(images: ImageSet, place: torch.device) -> str:
    if place.type != "cuda":
        return "not measured on this kind of device"
    _train("reborn", images, place, "fp32")
    gc.collect()
    before = torch.cuda.memory_allocated(place), torch.cuda.memory_reserved(place)
    for _ in range(10):
        _train("reborn", images, place, "fp32")
    gc.collect()
    grown = torch.cuda.memory_allocated(place) - before[0], torch.cuda.memory_reserved(place) - before[1]
    if grown[0] > GROWTH:
        raise RuntimeError(f"ten trainings leave {grown[0]:,} bytes allocated ({grown[1]:,} reserved)")
    return f"ten trainings leave {grown[0]:,} bytes allocated, {grown[1]:,} reserved"


def _train(kind: str, images: ImageSet, place: torch.device, precision: str) -> TrainingResult:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "doctor"))
        layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)]
        layers += [build_activation(kind, channels=16, compression="1x1") if kind != "relu" else nn.ReLU()]
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(16, 10))
    parts = split(images, block=0, seed=0)
    return train(
        model,
        images,
        train_indices=parts.train,
        evaluate={"validation": parts.validation},
        recipe=Recipe(epochs=3, batch_size=64, learning_rate=0.05, precision=precision),
        seed=0,
        device=place,
    )
