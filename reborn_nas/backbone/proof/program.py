"""The executed program of a network, as a stream of events: module calls, aten operations, sites, outputs.

Tensors are identified by what was written to their storage: an event names each operand by the events whose results it
still holds. An in-place activation and one that returns a new tensor therefore give the same stream, unless the
overwritten value is read under another name, which conversion must know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from reborn_nas.backbone.trace.replica import tensors_in

Event = tuple[Any, ...]
Label = Any  # origin of data: an event's index, ("site", index), or a parameter's or input's name


@dataclass(frozen=True)
class Region:
    """The elements of a storage in a view."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Region:
        """The region of `tensor` in its storage; dimensions of one element are omitted."""
        pairs = [(n, s) for n, s in zip(tensor.shape, tensor.stride()) if n != 1]
        pairs.sort(key=lambda pair: -pair[1])
        return cls(int(tensor.storage_offset()), tuple(n for n, _ in pairs), tuple(s for _, s in pairs))

    def apart(self, other: Region) -> bool:
        """Whether the regions are known to be disjoint: boxes of one grid that are disjoint in a dimension."""
        if self.strides != other.strides or not self.strides or 0 in self.strides:
            return False
        mine, theirs = self.offset, other.offset
        for stride, n, m in zip(self.strides, self.shape, other.shape):
            start, begin = mine // stride, theirs // stride
            if start + n <= begin or begin + m <= start:
                return True
            mine, theirs = mine % stride, theirs % stride
        return False


@dataclass
class _Storage:
    """The writes to one storage, oldest first; a region of None is the entire storage."""

    writes: list[tuple[Label, Region | None]]

    def write(self, label: Label, tensor: Tensor, size: int) -> None:
        if tensor.numel() * tensor.element_size() >= size:
            self.writes = [(label, None)]
        else:
            self.writes.append((label, Region.of(tensor)))

    def seen(self, tensor: Tensor) -> tuple[Label, ...]:
        """The labels of the elements of `tensor`."""
        if len(self.writes) == 1:
            return (self.writes[0][0],)
        region = Region.of(tensor)
        found: list[Label] = []
        for label, where in reversed(self.writes):
            if where is None or where == region:
                found.append(label)
                break
            if not where.apart(region):
                found.append(label)
        return tuple(found)


@dataclass
class Program:
    """A recorded run.

    Args:
        events: in order; ("enter", path), ("exit", path), ("op", name, arguments), ("site", name, operands),
            ("return", operands).
        output: result of the network.
        overwritten: site → "input" and "output": its tensors that are written to later.
        known: names of the initial tensors: parameters, buffers, inputs.
        parameters: names of the parameters and buffers read by operations outside of sites.
        gradients: parameter → gradient, if requested.
        frozen: sites whose map has no gradient although others have.
        checkpointed: sites in a part that is recomputed in the backward pass.
        drew: whether random numbers were drawn on the CPU.
        error: exception of the network, or None.
    """

    events: list[Event] = field(default_factory=list)
    output: Any = None
    overwritten: dict[str, set[str]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    checkpointed: set[str] = field(default_factory=set)
    drew: bool = False
    error: Exception | None = None

    @property
    def runs(self) -> dict[str, int]:
        """Site → number of runs."""
        found: dict[str, int] = {}
        for event in self.events:
            if event[0] == "site":
                found[event[1]] = found.get(event[1], 0) + 1
        return found

    def stack(self, index: int) -> list[str]:
        """Paths of the running modules at an event, outermost first."""
        stack: list[str] = []
        for event in self.events[:index]:
            if event[0] == "enter":
                stack.append(event[1])
            elif event[0] == "exit":
                stack.pop()
        return stack


class ProgramRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the program of a running model. `site` marks the run of a site, which is one event."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.program = Program()
        self._storages: dict[int, _Storage] = {}
        self._alive: list[Any] = []
        self._given = 0
        self._site: int | None = None
        self._parts = 0
        self._checkpoints = 0
        self._held: dict[int, list[tuple[str, str]]] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._know(tensor, name)
            self.program.known.add(name)
        for number, tensor in enumerate(tensors_in(inputs)):
            self._know(tensor, f"input {number}")
            self.program.known.add(f"input {number}")

    @property
    def in_site(self) -> bool:
        """Whether a site, or a part of its expression, is running."""
        return self._site is not None or self._parts > 0

    @contextmanager
    def part(self) -> Iterator[None]:
        """Mark the context as a part of an expression that is a site, which is not recorded."""
        self._parts += 1
        try:
            yield
        finally:
            self._parts -= 1

    @contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Mark the context as recomputed in the backward pass."""
        self._checkpoints += 1
        try:
            yield
        finally:
            self._checkpoints -= 1

    def event(self, *event: Any) -> None:
        """Add an event, unless a site is running."""
        if not self.in_site:
            self.program.events.append(event)

    @contextmanager
    def site(self, name: str, given: Sequence[Tensor]) -> Iterator[Callable[[Any], None]]:
        """Mark the context as the run of a site; pass the result to the function that it yields."""
        if self._site is not None:
            yield lambda result: None
            return
        with torch._C.DisableTorchFunction():
            operands = tuple(self._shown(tensor) for tensor in given)
        if torch.is_grad_enabled() and not any(tensor.requires_grad for tensor in given):
            self.program.frozen.add(name)
        if self._checkpoints:
            self.program.checkpointed.add(name)
        self._site = len(self.program.events)
        self.program.events.append(("site", name, operands))
        label = ("site", self._site)

        def close(result: Any) -> None:
            with torch._C.DisableTorchFunction():
                for tensor in tensors_in(result):
                    storage = self._storages.get(tensor.untyped_storage()._cdata)
                    if storage is None:
                        self._know(tensor, label)
                    elif storage.seen(tensor) != (label,):
                        storage.write(label, tensor, tensor.untyped_storage().nbytes())
                for role, tensors in (("input", given), ("output", tuple(tensors_in(result)))):
                    for tensor in tensors:
                        self._held.setdefault(tensor.untyped_storage()._cdata, []).append((name, role))

        try:
            yield close
        finally:
            self._site = None

    def finish(self, output: Any) -> None:
        """Record the result of the network."""
        self.program.output = output
        with torch._C.DisableTorchFunction():
            self.program.events.append(("return", tuple(self._shown(t) for t in tensors_in(output))))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            event: Event | None = None
            if not self.in_site:
                shown = self._describe(args), tuple((k, self._describe(v)) for k, v in kwargs.items())
                event = ("op", func, *shown)
            label: Label = len(self.program.events) if self._site is None else ("site", self._site)
            if self._parts and self._site is None:
                label = "a part of an expression"
            result = _shortcut(func, args)
            if result is None:
                result = func(*args, **kwargs)
            if event is not None:
                self.program.events.append(event)
            written = _written(func, args, kwargs) if func._schema.is_mutable else ()
            for tensor in written:
                self._write(tensor, label)
            for tensor in tensors_in(result):
                if tensor.untyped_storage()._cdata not in self._storages:
                    self._know(tensor, label)
        return result

    def _write(self, tensor: Tensor, label: Label) -> None:
        storage = tensor.untyped_storage()
        known = self._storages.get(storage._cdata)
        if known is None:
            known = self._know(tensor, self._next())
        known.write(label, tensor, storage.nbytes())
        if self._parts and self._site is None:
            return
        if self._site is None:
            for site, role in self._held.get(storage._cdata, ()):
                self.program.overwritten.setdefault(site, set()).add(role)
        else:
            running = self.program.events[self._site][1]
            for site, role in self._held.get(storage._cdata, ()):
                if site != running:
                    self.program.overwritten.setdefault(site, set()).add(role)

    def _know(self, tensor: Tensor, label: Label) -> _Storage:
        storage = tensor.untyped_storage()
        self._alive.append(storage)
        return self._storages.setdefault(storage._cdata, _Storage([(label, None)]))

    def _next(self) -> str:
        """The label of a tensor without an origin: a constant of the network."""
        self._given += 1
        return f"constant {self._given}"

    def _shown(self, tensor: Tensor) -> Event:
        """The description of an operand in an event."""
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        if storage is None:
            storage = self._know(tensor, self._next())
        labels = storage.seen(tensor)
        if self._site is None and isinstance(labels[0], str):
            self.program.parameters.update(label for label in labels if isinstance(label, str))
        # an in-place site keeps a view, its replacement returns a new tensor
        moved = isinstance(labels[0], tuple)
        return (tensor.dtype, tuple(tensor.shape), labels, None if moved else tensor.storage_offset())

    def _describe(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._shown(value)
        if isinstance(value, list | tuple):
            return tuple(self._describe(item) for item in value)
        if isinstance(value, float):
            return repr(value)  # so that nan equals nan
        if isinstance(value, int | str | bool | torch.dtype | torch.layout | torch.memory_format | None):
            return value
        return type(value).__name__ if not isinstance(value, torch.device) else value.type


def _shortcut(func: Any, args: tuple[Any, ...]) -> Any:
    """The result on the meta device of two operations whose meta kernels are written in Python and slow."""
    if func not in _SLOW or not args[0].is_meta or args[0].dim() < 2:
        return None
    if func is torch.ops.aten._prelu_kernel.default:
        return torch.empty_like(args[0])
    (x, *of_channels), training = args[:5], args[5]
    if any(tensor is not None and tensor.shape != x.shape[1:2] for tensor in of_channels):
        return None
    saved = x.new_empty(x.shape[1] if training else 0)
    return torch.empty_like(x), saved, torch.empty_like(saved)


_SLOW = (torch.ops.aten.native_batch_norm.default, torch.ops.aten._prelu_kernel.default)


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors to which an operation writes, by its schema."""
    for place, argument in enumerate(func._schema.arguments):
        info = argument.alias_info
        if info is None or not info.is_write:
            continue
        value = args[place] if place < len(args) and not argument.kwarg_only else kwargs.get(argument.name)
        yield from tensors_in(value)
