"""Runs third-party code from a fixed seed, restores the process state, and gives advice on failures."""

from __future__ import annotations

import gc
import logging
import os
import random
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
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
    """Restore the process state that code may change: the working directory, and torch's and NumPy's settings.

    Use inside a `torch.device` context, not around one: torch restores its default device in that order only.
    """
    folder, before = os.getcwd(), [_asked(get) for get, _ in SETTINGS]
    try:
        yield
    finally:
        for (get, put), value in zip(SETTINGS, before, strict=True):
            if value is not None and _asked(get) != value:
                put(value[0])
        with suppress(OSError):  # the folder is gone
            if _folder() != folder:
                os.chdir(folder)


@contextmanager
def undisturbed(seed: int) -> Iterator[None]:
    """Run a training of the user's own from one seed, and leave the process as it was.

    In addition to what `restored` covers, these are the generators of all devices, environment variables, the handlers
    of signals by which a study ends or watches a training, warnings, logging, output streams, the garbage collector.
    """
    variables, logs = dict(os.environ), {name: _log_state(name) for name in _own_loggers()}
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    streams, collects, disabled = (sys.stdout, sys.stderr), gc.isenabled(), logging.root.manager.disable
    with kept_generators(devices=None), warnings.catch_warnings(), restored():
        seed_everything(seed)
        process = os.getpid()
        try:
            yield
        finally:
            if os.getpid() != process:  # a child that the code forked and that comes back: it is not us
                os._exit(1)
            for number, handler in handlers.items():
                if signal.getsignal(number) is not handler:
                    with suppress(ValueError, TypeError):  # not the main thread; a handler of C code
                        signal.signal(number, handler)
            for name in {*os.environ, *variables}:
                if name.startswith("REBORN_NAS_") or os.environ.get(name) == variables.get(name):
                    continue
                if name in variables:
                    os.environ[name] = variables[name]
                else:
                    del os.environ[name]
            logging.disable(disabled)
            for name, state in logs.items():
                vars(logging.getLogger(name)).update(state)
                vars(logging.getLogger(name))["_cache"].clear()
            sys.stdout, sys.stderr = streams
            if collects:
                gc.enable()


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)]
"""Signals by which a study ends or watches a training; frameworks install separate handlers."""

_cudnn = torch.backends.cudnn

SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (lambda: (_default_device(),), lambda one: torch.set_default_device(one[0])),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
    (lambda: torch.is_autocast_enabled("cuda"), lambda on: torch.set_autocast_enabled("cuda", on)),
    (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
    ),
    (lambda: _cudnn.enabled, lambda on: setattr(_cudnn, "enabled", on)),
    (lambda: _cudnn.benchmark, lambda on: setattr(_cudnn, "benchmark", on)),
    (lambda: _cudnn.deterministic, lambda on: setattr(_cudnn, "deterministic", on)),
    (np.geterr, lambda how: np.seterr(**how)),
]
"""What decides how torch and NumPy compute: how it is read, and how it is set."""


def _asked(get: Callable[[], Any]) -> tuple[Any] | None:
    """What `get` returns; None where torch cannot tell, as after settings of two kinds for one thing."""
    try:
        return (get(),)
    except RuntimeError:
        return None


def _folder() -> str | None:
    """The working directory; None where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _own_loggers() -> list[str]:
    known = [name for name in logging.root.manager.loggerDict if name.startswith("reborn_nas")]
    return [
        "",
        *(name for name in known if isinstance(logging.root.manager.loggerDict[name], logging.Logger)),
    ]


def _log_state(name: str) -> dict[str, Any]:
    logger = logging.getLogger(name)
    return {
        "level": logger.level,
        "handlers": list(logger.handlers),
        "propagate": logger.propagate,
        "disabled": logger.disabled,
    }


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
