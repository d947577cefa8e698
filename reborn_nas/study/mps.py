"""NVIDIA's Multi-Process Service, so that several workers' kernels run side by side on one GPU.

Started for the time of a study where its control program is installed and nobody runs one already; elsewhere workers
take turns on the GPU. It needs no rights and changes no setting of the GPU.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["has_service", "service"]

PROGRAM = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
DEFAULT_PIPES = Path("/tmp/nvidia-mps")
PATIENCE = 20.0
"""Seconds that the control program has for an answer."""

QUIT = f"quit -t {PATIENCE / 2:.0f}\nquit\n"
"""With a limit, so that a worker that hangs does not keep the daemon; plainly, where that form is unknown."""


def has_service() -> bool:
    """Whether a service runs here or could be started."""
    return _running() or shutil.which(PROGRAM) is not None


@contextlib.contextmanager
def service(devices: Sequence[str], workers: int) -> Iterator[str]:
    """Within, workers that are started share their GPUs by the service where that is possible.

    Args:
        devices: where the workers train.
        workers: how many there are.

    Yields:
        What the user should be told; "" where no GPU is shared.
    """
    gpus = [device for device in dict.fromkeys(devices) if device.startswith("cuda")]
    if not gpus or workers <= len(gpus):
        yield ""
        return
    each = f"{-(-workers // len(gpus))} trainings share a GPU"
    if _running():
        yield f"{each}, side by side by the Multi-Process Service that runs here"
        return
    program = shutil.which(PROGRAM)
    if program is None:
        yield f"{each} by taking turns: the Multi-Process Service ({PROGRAM}) is not installed here"
        return
    folder = Path(tempfile.mkdtemp(prefix="mps-"))  # short: the path of a socket is limited to 107 characters
    mine = {PIPES: str(folder / "pipe"), LOGS: str(folder / "log")}
    before = {name: os.environ.get(name) for name in mine}
    for name, place in mine.items():
        Path(place).mkdir()
        os.environ[name] = place
    fault = _control(program, ["-d"])
    try:
        if fault:
            _restore(before)
            yield f"{each} by taking turns: the Multi-Process Service does not start ({fault})"
        else:
            yield f"{each}, side by side by the Multi-Process Service"
    finally:
        if not fault:
            _control(program, [], QUIT)
        _restore(before)
        shutil.rmtree(folder, ignore_errors=True)


def _running() -> bool:
    return (Path(os.environ.get(PIPES) or DEFAULT_PIPES) / "control").exists()


def _control(program: str, arguments: list[str], text: str = "") -> str:
    """Call the control program; why it failed, or ""."""
    try:
        done = subprocess.run(
            [program, *arguments],
            input=text,
            text=True,
            timeout=PATIENCE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if text else subprocess.DEVNULL,  # a daemon would hold the pipe open
        )
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__
    return f"exit code {done.returncode}" if done.returncode else ""


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
