"""Copies a model to another device, without copying data where that can be avoided."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from reborn_nas.errors import ConversionError

_ATOMIC = (int, float, complex, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def replicate(model: nn.Module, device: str) -> nn.Module:
    """A deep copy of `model` with every tensor on `device`; on "meta" no data is copied.

    A module that is registered at several paths becomes a separate object at each. Hooks are copied together with the
    objects that they refer to: a hook that stores what it sees stores it in the copy.

    Raises:
        ConversionError: the model cannot be copied.
    """
    kind = type(model).__name__
    _refuse_compiled(model)
    try:
        memo = _copied_tensors(model, device)
        modules = list(model.modules())
        if not any(_copies_itself(type(module)) for module in modules):
            double = _deepcopied(modules, memo)
        else:
            double = copy.deepcopy(model, memo)
    except Exception as error:
        raise ConversionError(
            f"{kind} cannot be copied: {error}; a network to convert must support copy.deepcopy"
        ) from error
    for module in double.modules():
        for name in _HOOKS:
            hooks = module.__dict__[name]
            for key, hook in hooks.items():
                if not _of_torch(hook):
                    hooks[key] = _own_hook(hook, memo)
    return _unalias(double)


def copied(model: nn.Module) -> nn.Module:
    """`copy.deepcopy` of a network, even if it keeps a tensor computed from its parameters as an attribute.

    torch's `weight_norm` and pruning do so; torch refuses to copy such a tensor.

    Raises:
        ConversionError: the network cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in tensors_in(list(module.__dict__.values())):
            if tensor.grad_fn is not None:
                memo[id(tensor)] = tensor.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ConversionError(
            f"{type(model).__name__} cannot be copied: {error}; a network to convert must support copy.deepcopy"
        ) from error


def _refuse_compiled(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or type(module).__name__ == "OptimizedModule":
            where = f"its module {path!r}" if path else "the network itself"
            raise ConversionError(
                f"{type(model).__name__}: {where} is compiled ({type(module).__name__}), so its activations cannot be "
                "seen; give it as it is written, and compile the converted network"
            )


def _copied_tensors(model: nn.Module, device: str) -> dict[int, Any]:
    """The memo of `copy.deepcopy` with every tensor that the model's modules hold."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        plain = [
            value
            for key, value in module.__dict__.items()
            if key not in ("_parameters", "_buffers", "_modules")
        ]
        held = [*module._parameters.values(), *module._buffers.values(), *tensors_in(plain)]
        for tensor in held:
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = _copy_tensor(tensor, device)
    return memo


def _copies_itself(kind: type[nn.Module]) -> bool:
    """Whether a class defines how it is copied."""
    own = ("__getstate__", "__reduce__", "__reduce_ex__")
    return hasattr(kind, "__deepcopy__") or any(
        getattr(kind, name, None) is not getattr(nn.Module, name, None) for name in own
    )


def _deepcopied(modules: list[nn.Module], memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy` of the first module, which contains the others; ten times as fast, since it knows modules."""
    for module in modules:
        memo[id(module)] = type(module).__new__(type(module))
    for module in modules:
        state = memo[id(module)].__dict__
        for key, value in module.__dict__.items():
            if isinstance(value, _ATOMIC):
                state[key] = value
            elif key in ("_parameters", "_buffers", "_modules"):
                state[key] = type(value)(
                    (name, None if item is None else memo[id(item)]) for name, item in value.items()
                )
            elif key.endswith(("_hooks", "_hooks_with_kwargs", "_always_called")):
                state[key] = copy.copy(value)
            else:
                state[key] = copy.deepcopy(value, memo)
    double: nn.Module = memo[id(modules[0])]
    return double


def _own_hook(hook: Any, memo: dict[int, Any]) -> Any:
    """A hook that refers to the copied modules, and to copies of the variables that a function closes over."""
    try:
        if not isinstance(hook, types.FunctionType) or not hook.__closure__:
            return copy.deepcopy(hook, memo)
        cells = tuple(types.CellType(copy.deepcopy(cell.cell_contents, memo)) for cell in hook.__closure__)
    except Exception:
        return hook
    own = types.FunctionType(hook.__code__, hook.__globals__, hook.__name__, hook.__defaults__, cells)
    own.__kwdefaults__ = hook.__kwdefaults__
    return own


def _of_torch(hook: Any) -> bool:
    """Whether a hook belongs to torch, such as that of weight_norm, without which the forward lacks its weight."""
    return str(getattr(hook, "__module__", None) or type(hook).__module__).startswith("torch.")


def _copy_tensor(tensor: Tensor, device: str) -> Tensor:
    data = tensor.detach()
    if device == "cpu" and data.is_meta:
        data = torch.zeros(data.shape, dtype=data.dtype)
    else:
        data = data.to(device) if device == "meta" else data.to(device, copy=True)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data


def _unalias(model: nn.Module) -> nn.Module:
    """Replace a childless module that is registered at several paths by an object at each, which share the tensors.

    `nn.Sequential(conv1, act, conv2, act)` then has the paths "1" and "3", each of which can be replaced separately.
    """
    seen: set[int] = set()
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is None:
                continue
            if id(child) in seen and not child._modules:
                double = copy.copy(child)
                for hooks in _HOOKS:
                    double.__dict__[hooks] = OrderedDict(child.__dict__[hooks])
                module._modules[name] = double
            seen.add(id(child))
    return model


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings, dataclasses and other objects with attributes, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from tensors_in(item)
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from tensors_in(item)
    elif _is_record(tree):
        for item in _attributes(tree).values():
            if item is not tree:
                yield from tensors_in(item)


def replace_tensors(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """A copy of nested tuples, lists, mappings, slices and objects with attributes, with each tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    return rebuilt(tree, lambda item: replace_tensors(item, change))


def rebuilt(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a container or a record with each item changed; anything else is returned unchanged."""
    if isinstance(tree, torch.Size):
        return tuple(tree)
    if type(tree) is dict:
        return {key: change(item) for key, item in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(change(item) for item in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(change(item) for item in tree)
    if isinstance(tree, slice):
        return slice(change(tree.start), change(tree.stop), change(tree.step))
    if isinstance(tree, MutableMapping):
        new = copy.copy(tree)
        for key, item in tree.items():
            new[key] = change(item)
        return new
    if isinstance(tree, Mapping):
        return {key: change(item) for key, item in tree.items()}
    if _is_record(tree):
        new = copy.copy(tree)
        for name, item in _attributes(tree).items():
            object.__setattr__(new, name, item if item is tree else change(item))  # frozen dataclasses too
        return new
    return tree


def _is_record(item: Any) -> bool:
    """Whether `item` is an object with its data in attributes, such as a dataclass or torchvision's `ImageList`."""
    if isinstance(item, _ATOMIC) or not (hasattr(item, "__dict__") or hasattr(item, "__slots__")):
        return False
    return not (isinstance(item, nn.Module) or callable(item) or isinstance(item, ModuleType))


def _attributes(record: Any) -> dict[str, Any]:
    """The attributes of a record, including those in slots."""
    found = dict(getattr(record, "__dict__", ()))
    for kind in type(record).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(record, name):
                found[name] = getattr(record, name)
    return found
