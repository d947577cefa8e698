"""What a training step changes outside of its tensors' memory: rebound tensors, Python attributes, host generators.

A captured CUDA graph replays kernels on fixed addresses and runs no Python. A network that counts its calls, replaces
a buffer by a new tensor or draws from `random` trains differently when it is replayed, without any error.
`HiddenState` finds such networks by comparing this state before and after eager steps, and puts it back.
"""

from __future__ import annotations

import collections
import copy
import itertools
import random
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

_OWN = frozenset(vars(nn.Module()))
"""Attributes that `nn.Module` itself keeps; parameters and buffers are compared by identity."""

DEPTH = 6
"""Levels of nested containers and objects that are compared."""

_STATELESS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
"""Functions and modules, whose own attributes are no state of a network."""

_CONTAINERS = (list, tuple, set, frozenset, dict, collections.deque)


class HiddenState:
    """The state of `model` and of the host's random generators that a replay does not reproduce.

    Args:
        model: the network.
        device: where it trains; elsewhere than on a CPU, torch's CPU generator belongs to the host.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._generators = _generators(device)
        self._drawn = {name: read() for name, (read, _) in self._generators.items()}
        self._tensors = dict(_registered(model))
        self._holders = dict(_holders(model))
        self._attributes = {path: _attributes(holder) for path, holder in self._holders.items()}
        self._marks = self._marked()
        self._contents = _Contents(_handled_elsewhere(model))
        for values in self._attributes.values():
            self._contents.keep(values)
        self._model = model

    def changes(self) -> list[str]:
        """One sentence for each difference from the state at the beginning; empty where there is none."""
        found = []
        for name, (read, _) in self._generators.items():
            if not _same(read(), self._drawn[name]):
                found.append(f"a step draws random numbers from {name}")
        now = dict(_registered(self._model))
        for name in sorted(now.keys() | self._tensors.keys()):
            if now.get(name) is not self._tensors.get(name):
                found.append(f"a step replaces the tensor {name!r} by another one")
        marks = self._marked()
        for path, before in self._marks.items():
            for name in sorted(marks[path].keys() | before.keys()):
                if marks[path].get(name) != before.get(name):
                    found.append(f"a step changes the Python attribute {f'{path}.{name}'.lstrip('.')!r}")
        return found

    def restore(self) -> None:
        """Put rebound tensors, changed attributes and generators back."""
        for name, (read, write) in self._generators.items():
            if not _same(read(), self._drawn[name]):
                write(self._drawn[name])
        for name, tensor in self._tensors.items():
            path, _, last = name.rpartition(".")
            module = self._model.get_submodule(path)
            table: Any = module._parameters if last in module._parameters else module._buffers
            if table.get(last) is not tensor:
                table[last] = tensor
        if self._marked() == self._marks:
            return
        self._contents.put_back()
        for path, holder in self._holders.items():
            now = _attributes(holder)
            for name in now.keys() - self._attributes[path].keys():
                delattr(holder, name)
            for name, value in self._attributes[path].items():
                if now.get(name) is not value or name not in now:
                    setattr(holder, name, value)

    def _marked(self) -> dict[str, dict[str, Any]]:
        return {
            path: {name: _mark(value) for name, value in _attributes(holder).items()}
            for path, holder in self._holders.items()
        }


def attribute_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that modules keep as plain attributes, also inside lists and mappings."""
    for holder in model.modules():
        for value in _attributes(holder).values():
            yield from _tensors(value, DEPTH)


def _tensors(value: Any, depth: int) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, _CONTAINERS):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(one, depth - 1)


def _generators(device: torch.device) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    found: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "Python's random module": (random.getstate, random.setstate),
        "numpy.random": (np.random.get_state, np.random.set_state),
    }
    if device.type != "cpu":
        found["torch's CPU generator"] = (torch.get_rng_state, torch.set_rng_state)
    return found


def _registered(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _holders(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules by path, and the classes that are not torch's own: these may keep counters too."""
    classes: dict[type, str] = {}
    for path, module in model.named_modules():
        yield path, module
        for kind in type(module).__mro__:
            if not kind.__module__.startswith(("torch.", "builtins")):
                classes.setdefault(kind, f"class {kind.__qualname__}")
    yield from ((name, kind) for kind, name in classes.items())


def _attributes(holder: Any) -> dict[str, Any]:
    if not isinstance(holder, type):
        return {name: value for name, value in vars(holder).items() if name not in _OWN}
    kept = (bool, int, float, str, type(None), torch.Tensor, *_CONTAINERS)
    return {
        name: value
        for name, value in vars(holder).items()
        if isinstance(value, kept) and not name.startswith("__")
    }


def _handled_elsewhere(model: nn.Module) -> set[int]:
    """Identities of modules and tensors, whose contents are compared and put back by themselves."""
    found: list[Any] = list(model.modules())
    found += [tensor for _, tensor in _registered(model)]
    found += attribute_tensors(model)
    return {id(one) for one in found}


class _Contents:
    """What lists, mappings, sets, objects, arrays and generators hold now, put back into the same objects.

    Whoever else holds one of them, another module or the caller, then has what it had. Iterators cannot be put back:
    copies take their places.
    """

    def __init__(self, left_out: set[int]) -> None:
        self._seen = set(left_out)
        self._found: list[
            tuple[Any, Callable[[], None]]
        ] = []  # the objects too: their identities stay theirs

    def put_back(self) -> None:
        """Everything as it was kept."""
        for _, put in self._found:
            put()

    def keep(self, value: Any, depth: int = DEPTH + 1) -> None:
        """Remember what `value` and what is inside of it hold."""
        plain = bool | int | float | complex | str | bytes | None | torch.Tensor | nn.Module | type
        if depth == 0 or id(value) in self._seen or isinstance(value, plain):
            return
        self._seen.add(id(value))
        put, inside = _put_back(value)
        self._found.append((value, put))
        for one in inside:
            self.keep(one, depth - 1)


def _put_back(value: Any) -> tuple[Callable[[], None], list[Any]]:
    """A function that fills `value` as it is now, and what is inside of it."""
    read_and_write = _generator(value)
    if read_and_write is not None:
        read, write = read_and_write
        drawn = read()
        return lambda: write(drawn), []
    if isinstance(value, np.ndarray):
        numbers = value.copy()
        return lambda: np.copyto(value, numbers), []
    if isinstance(value, dict | list | set | collections.deque):
        items = value.items() if isinstance(value, dict) else [(None, one) for one in value]
        pairs = [(key, _again(one)) for key, one in items]
        return lambda: _fill(value, pairs), [one for pair in pairs for one in pair]
    if isinstance(value, Mapping | tuple | frozenset):
        return lambda: None, list(value.values()) if isinstance(value, Mapping) else list(value)
    if isinstance(value, _STATELESS):
        return lambda: None, []
    state = {name: _again(one) for name, one in _state_of(value).items()}
    return lambda: _fill_object(value, state), list(state.values())


def _generator(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    if isinstance(value, torch.Generator):
        return value.get_state, value.set_state
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    if isinstance(value, np.random.RandomState):
        return value.get_state, value.set_state
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    return None


def _again(value: Any) -> Any:
    """A copy of an iterator, which would go on meanwhile; everything else as it is."""
    return copy.copy(value) if isinstance(value, itertools.count | itertools.cycle) else value


def _fill(value: Any, pairs: list[tuple[Any, Any]]) -> None:
    value.clear()
    if isinstance(value, dict):
        value.update((key, _again(one)) for key, one in pairs)
    elif isinstance(value, set):
        value.update(one for _, one in pairs)
    else:
        value.extend(_again(one) for _, one in pairs)


def _fill_object(value: Any, state: Mapping[str, Any]) -> None:
    """By `object`'s own means, which a frozen dataclass has too."""
    now = _state_of(value)
    for name in now.keys() - state.keys():
        object.__delattr__(value, name)
    for name, one in state.items():
        if name not in now or now[name] is not one:
            object.__setattr__(value, name, _again(one))


def _mark(value: Any, depth: int = DEPTH) -> Any:
    """A value that compares equal as long as `value` has not changed."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return type(value).__name__, repr(value)  # repr: a NaN equals itself
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, np.ndarray):
        return id(value), value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, torch.Tensor | nn.Module | type) or depth == 0:
        return id(value)
    if isinstance(value, itertools.count | itertools.cycle):
        return repr(value)
    if isinstance(value, Mapping):
        return id(value), tuple((repr(key), _mark(one, depth - 1)) for key, one in value.items())
    if isinstance(value, _CONTAINERS):
        inner = sorted(map(repr, value)) if isinstance(value, set | frozenset) else list(value)
        return type(value), tuple(_mark(one, depth - 1) for one in inner)
    if isinstance(value, _STATELESS):
        return id(value)
    return id(value), tuple((name, _mark(one, depth - 1)) for name, one in _state_of(value).items())


def _state_of(value: Any) -> dict[str, Any]:
    """What an object keeps in its `__dict__` and in its slots."""
    slots = [name for kind in type(value).__mro__ for name in vars(kind).get("__slots__", ())]
    own = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
    return {**own, **getattr(value, "__dict__", {})}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return repr(one) == repr(other) if isinstance(one, tuple) else bool(one == other)
