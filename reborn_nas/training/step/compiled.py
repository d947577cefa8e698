"""`torch.compile` of a network's blocks, for the long trainings in which it pays: an option, never the default.

Compiling the network as a whole costs seconds that no other architecture can use again; its blocks are few and come
again. Each is compiled for fixed shapes, the recompile limit is so high that no study meets it, and what is compiled
stays in a cache on disk. Whatever would make torch run a block eagerly without a word – a graph break, the limit, a
switch in the environment – is an error here: who asks for compilation gets it, or the reason why not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reborn_nas.errors import TrainingError, blame_machine

RECOMPILE_LIMIT = 512
"""Compiled forms of one block's code: shapes × architectures of a study. Torch's own limit is 8."""


def second_rung(epochs: int) -> int:
    """Epochs after which compiling may begin: a third, the first rung of successive halving with factor 3.

    A training that is stopped early would not earn the compilation back, which takes 60 to 230 epochs.
    """
    return -(-epochs // 3)


def regions(model: nn.Module) -> list[nn.Module]:
    """The blocks that are compiled one by one: what the network's sequences hold and is a module of several parts.

    The outermost such blocks; the whole network where it has none.
    """
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for child in module.children():
            sequence = isinstance(module, nn.Sequential | nn.ModuleList)
            container = isinstance(child, nn.Sequential | nn.ModuleList)
            if sequence and not container and any(True for _ in child.children()):
                found.append(child)
            else:
                look(child)

    look(model)
    return list(dict.fromkeys(found)) or [model]


class Compiled:
    """The blocks of `model` compiled, until `close`.

    Args:
        backend: of `torch.compile`; "eager" in the tests.

    Raises:
        TrainingError: compilation is switched off in the environment.
    """

    def __init__(self, model: nn.Module, backend: str = "inductor") -> None:
        self._stack = contextlib.ExitStack()
        keep_cache()
        import torch._dynamo

        dynamo: Any = torch._dynamo.config
        if dynamo.disable:
            raise TrainingError(
                "compile: torch.compile is switched off here (TORCH_COMPILE_DISABLE); unset it"
            )
        wanted = {
            "recompile_limit": RECOMPILE_LIMIT,
            "accumulated_recompile_limit": 64 * RECOMPILE_LIMIT,
            "fail_on_recompile_limit_hit": True,
            "suppress_errors": False,
        }
        self._stack.enter_context(dynamo.patch(**wanted))
        self.regions = regions(model)
        for region in self.regions:
            region.compile(backend=backend, dynamic=False, fullgraph=True)
        self._stack.callback(self._undo)

    def run(self, work: Callable[[], Any]) -> None:
        """Compile by running `work`.

        Raises:
            TrainingError: a block cannot be compiled.
        """
        try:
            work()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise anything
            blame_machine(error, "compile: what the compiler keeps on the disk")
            lines = str(error).strip().splitlines() or [""]
            raise TrainingError(
                f"compile: a block of the network cannot be compiled ({type(error).__name__}: {lines[0][:200]}); "
                "train without --compile"
            ) from error

    def _undo(self) -> None:
        for region in self.regions:
            region._compiled_call_impl = None

    def close(self) -> None:
        """The network as it was."""
        self._stack.close()


@contextlib.contextmanager
def eagerly(compiled: bool) -> Iterator[None]:
    """Within, compiled blocks run eagerly: judging has other shapes, which would be compiled for few batches."""
    if not compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):  # type: ignore[no-untyped-call]
        yield


def keep_cache() -> None:
    """Compiled kernels survive the process, in the user's cache folder, unless the environment names another."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home / "reborn-nas" / "inductor"))
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "1")
