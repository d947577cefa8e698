"""What a Dataset is known by: a digest of all that it holds, without reading its items.

Arrays count by their bytes, strings that name files with the files' sizes and times, code of the user's own by what it
does, everything else by what pickle would write. Nothing is ever unpickled.
"""

from __future__ import annotations

import dis
import hashlib
import os
import pickle
import sys
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

__all__ = ["digest_of"]

_PACKAGES = frozenset(("site-packages", "dist-packages"))


def digest_of(value: Any) -> str | None:
    """Hex digest of what an object holds; None where it holds what cannot be read, such as an open file."""
    sink = _Sink()
    try:
        _Digest(sink).dump(value)
    except Exception:  # whatever an object's own reduction raises
        return None
    return sink.digest.hexdigest()


class _Sink:
    """A file that is hashed, not written."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return memoryview(data).nbytes


class _Digest(pickle.Pickler):
    def __init__(self, sink: _Sink) -> None:
        super().__init__(sink, protocol=5)
        self._code: list[Any] = []  # being described: code may name itself

    def persistent_id(self, value: Any) -> Any:
        """What stands for `value`; None where pickle describes it."""
        if isinstance(value, str):
            return _file(value)
        if isinstance(value, os.PathLike):
            return _file(os.fspath(value)) or None
        if isinstance(value, np.memmap) and value.filename is not None:
            return "memmap", value.dtype.str, value.shape, value.offset, _file(os.fspath(value.filename))
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            plain = value.detach().cpu().contiguous()
            return (
                "tensor",
                str(plain.dtype).encode(),
                tuple(plain.shape),
                _bytes(plain.view(-1).view(torch.uint8)),
            )
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return "array", value.dtype.str.encode(), value.shape, _bytes(np.ascontiguousarray(value))
        if isinstance(value, set | frozenset):
            return "set", sorted(digest_of(one) or "?" for one in value)
        if isinstance(value, FunctionType | type | ModuleType):
            return self._named(value)
        return None

    def _named(self, value: Any) -> Any:
        """Code: what is installed by its name, the user's own by what it does."""
        if isinstance(value, ModuleType) or _is_installed(value.__module__):
            owner = "" if isinstance(value, ModuleType) else value.__module__
            return "name", owner.encode(), getattr(value, "__qualname__", value.__name__).encode()
        if any(value is one for one in self._code):
            return "again", value.__qualname__.encode()
        self._code.append(value)
        return "code", _described(value)


def _described(value: Any) -> Any:
    """What a function or class of the user's own does: its byte code, and what that refers to."""
    if isinstance(value, type):
        bases = [base for base in value.__mro__[1:] if base is not object]
        own = {
            name.encode(): member
            for name, member in vars(value).items()
            if (not name.startswith("__") or callable(member)) and name != "_abc_impl"
        }
        members = [
            (name, getattr(member, "__func__", getattr(member, "fget", member)))
            for name, member in own.items()
        ]
        return value.__qualname__.encode(), bases, members
    code = value.__code__
    used = [(name.encode(), value.__globals__[name]) for name in _names(code) if name in value.__globals__]
    cells = [_contents(cell) for cell in value.__closure__ or ()]
    return _text(code), value.__defaults__, value.__kwdefaults__, cells, used


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None


def _names(code: CodeType) -> list[str]:
    """The global names that code reads, those of functions inside of it included, each once."""
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part)]
    own = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    return list(dict.fromkeys((*own, *inner)))


def _text(code: CodeType) -> bytes:
    """Code without the places that it stands at."""
    parts = [_constant(part) for part in code.co_consts]
    return b"|".join((code.co_code, *parts, *(name.encode() for name in code.co_names)))


def _constant(value: Any) -> bytes:
    if isinstance(value, CodeType):
        return _text(value)
    if isinstance(value, frozenset):  # whose order differs from process to process
        return b",".join(sorted(repr(one).encode() for one in value))
    return repr(value).encode()


def _file(name: str) -> Any:
    """A name of a file with its size and time; None for other strings."""
    if not 0 < len(name) < 4096 or not ("/" in name or os.sep in name or "." in name) or "\0" in name:
        return None
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return None
    if not os.path.isfile(name):
        return None
    return "file", name.encode("utf-8", "surrogateescape"), status.st_size, status.st_mtime_ns


def _bytes(values: Any) -> bytes:
    array = values.numpy() if isinstance(values, torch.Tensor) else values
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()


@cache
def _is_installed(module: str) -> bool:
    """Whether a module comes with Python or with a package, and not from a file of the user's own."""
    top = module.partition(".")[0]
    if top != "__main__" and top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and (Path(file).suffix != ".py" or not _PACKAGES.isdisjoint(Path(file).parts))
