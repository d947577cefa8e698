"""Runs third-party code from a fixed seed, restores the process state, and gives advice on failures."""

from __future__ import annotations

import os
import random
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from reborn_nas.seeds import kept_generators, seed_everything

SEED = 20_011


@contextmanager
def quiet(device: str, seed: int = 0) -> Iterator[None]:
    """Run on a device from one seed, and restore the random generators."""
    with _seeded(SEED + seed), torch.device("meta") if device == "meta" else nullcontext(), restored():
        yield


@contextmanager
def restored() -> Iterator[None]:
    """Restore the process state that code may change: the working directory and torch's defaults.

    Use inside a `torch.device` context, not around one: torch restores its default device in that order only.
    """
    folder, threads = os.getcwd(), torch.get_num_threads()
    dtype, device, grad = torch.get_default_dtype(), _default_device(), torch.is_grad_enabled()
    try:
        yield
    finally:
        if os.getcwd() != folder:
            os.chdir(folder)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if _default_device() != device:
            torch.set_default_device(device)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)


def _default_device() -> torch.device | None:
    """The device set by `torch.set_default_device`; contexts around the caller are ignored."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def random_states() -> tuple[object, ...]:
    """The state of the random generators of torch, Python and numpy: unchanged as long as nothing is drawn."""
    numpy = sys.modules.get("numpy")
    drawn = () if numpy is None else numpy.random.get_state(legacy=True)
    torchs = torch.get_rng_state().numpy().tobytes()
    return (
        torchs,
        random.getstate(),
        *(part.tobytes() if hasattr(part, "tobytes") else part for part in drawn),
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with kept_generators():
        seed_everything(seed)
        yield


_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")


_GPU = re.compile(r"nvidia|cuda|hip|\bgpu\b|mps backend|\bxpu\b", re.IGNORECASE)


_FITTING = re.compile(
    r"size|shape|channel|dimension|argument|expected|dtype|scalar type|multipl|input type|too small",
    re.IGNORECASE,
)


def place_of(error: BaseException) -> str:
    """File and line of the last call outside of torch that an error went through; "" if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, with its class if the line is unclear without it."""
    if isinstance(error, SystemExit):
        return f"it ends the program (exit code {error.code})"
    first = (str(error).strip().splitlines() or [""])[0]
    plain = first and isinstance(error, RuntimeError | TypeError | ValueError | NotImplementedError)
    return first if plain else f"{type(error).__name__}: {first}".removesuffix(": ")


def way_out(reason: str, inputs: str) -> str:
    """Advice about a failure.

    Args:
        reason: the message of the failing forward.
        inputs: the advice for inputs that do not fit.
    """
    if _GPU.search(reason):
        return "it requires a GPU: create tensors on the device of its input (x.device) instead"
    if "higher order operator" in reason:
        return "write a plain if or loop: torch.cond, while_loop and scan are not followed"
    if _FITTING.search(reason):
        return inputs
    return "the network must run first: try model(example) in eval and in train mode"
