"""Optimizers by timm's names, with their whole state in tensors that a checkpoint keeps."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from reborn_nas.errors import TrainingError, unknown_name
from reborn_nas.seeds import kept_generators

SGD = "sgd"
"""Torch's own, fused, with the recipe's `momentum` and `nesterov`."""

CAPTURED = frozenset((SGD, "adam", "adamw"))
"""Optimizers that keep nothing outside of tensors in fixed memory, so that a CUDA graph can hold their step."""

LOOKAHEAD = "lookahead_"
"""Before the name of an optimizer of timm's: it wraps that one (Zhang et al. 2019)."""

_OF_THE_RECIPE = frozenset(("lr", "weight_decay", "momentum", "fused", "capturable", "foreach"))
_STATE, _NUMBER, _GROUP, _SHARED = (
    "optimiser/",
    "optimiser-number/",
    "optimiser-group/",
    "optimiser-group-tensor/",
)


def optimiser_faults(name: object, arguments: object) -> list[str]:
    """What is wrong with an optimizer's name and arguments; empty where nothing is."""
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        return [f"recipe.optimizer_args is a map from names to values, not {arguments!r}"]
    if name == SGD:
        more = ", ".join(arguments)
        return [f"recipe.optimizer_args: sgd takes none, not {more}; it has momentum"] if arguments else []
    if name in CAPTURED and not arguments:
        return []  # without timm, which takes a second to import
    if reserved := sorted(_OF_THE_RECIPE & set(arguments)):
        return [f"recipe.optimizer_args has {', '.join(reserved)}, which the recipe sets by itself"]
    from timm.optim import get_optimizer_info, list_optimizers  # type: ignore[attr-defined]

    known = [name for name in list_optimizers() if isinstance(name, str)]
    inner = str(name).removeprefix(LOOKAHEAD)
    if not isinstance(name, str) or inner not in known:
        close = difflib.get_close_matches(inner, known, n=3)
        hint = (
            f"did you mean {', '.join(close)}?" if close else "timm.optim.list_optimizers() has their names"
        )
        return [f"recipe.optimizer is an optimizer of timm, not {name!r}; {hint}"]
    if get_optimizer_info(inner).second_order:
        return [
            f"recipe.optimizer: {name} needs second derivatives, which the training loop does not compute"
        ]
    try:
        taken = arguments_of(name)
        if unknown := [key for key in arguments if key not in taken]:
            kind = f"argument of {name}"
            return [f"recipe.optimizer_args: {unknown_name(kind, key, taken)}" for key in unknown]
        _two_steps(name, arguments)
    except ImportError as error:
        return [f"recipe.optimizer: {name} needs a package that is not installed ({error})"]
    except Exception as error:  # of 90 optimizers, whatever they raise at values that they cannot take
        return [f"recipe.optimizer: {name} cannot be made with {dict(arguments)} ({error})"]
    return []


def arguments_of(name: str) -> list[str]:
    """What `optimizer_args` may have. timm itself passes over `betas` and `eps` where an optimizer has none."""
    return [key for key in _parameters(name) if key not in _OF_THE_RECIPE]


def has_momentum(name: str) -> bool:
    """Whether an optimizer of timm's takes the recipe's `momentum`."""
    return "momentum" in _parameters(name)


def _parameters(name: str) -> list[str]:
    from timm.optim import get_optimizer_class  # type: ignore[attr-defined]

    made: Any = get_optimizer_class(name.removeprefix(LOOKAHEAD), bind_defaults=False)
    return list(inspect.signature(made).parameters)[1:]


def _two_steps(name: str, arguments: Mapping[str, Any]) -> None:
    """Some values are refused by a step only, and by some the second one; nothing is compiled for it."""
    weight = nn.Parameter(torch.zeros(2, 2))
    optimiser = _timm(name, [{"params": [weight]}], 0.1, 0.0, 0.9, dict(arguments))
    weight.grad = torch.ones_like(weight)
    with kept_generators(), torch.compiler.set_stance("force_eager"):
        optimiser.step()
        optimiser.step()


def make_optimiser(
    model: nn.Module,
    name: str,
    rate: float | torch.Tensor,
    device: torch.device,
    *,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    arguments: Mapping[str, Any],
    undecayed: Collection[str],
    layer_decay: float | None = None,
) -> torch.optim.Optimizer:
    """An optimizer for the trainable parameters of `model`.

    Args:
        name: "sgd" or one of timm's.
        rate: the learning rate, or a tensor that holds it, which a captured step reads.
        nesterov: of sgd.
        arguments: further ones.
        undecayed: names of parameters that weight decay leaves alone.
        layer_decay: factor of the rate from each layer to the one before it; the groups then carry it as `lr_scale`,
            by which whoever sets their rates multiplies.

    Raises:
        TrainingError: a layer decay for a network without `group_matcher`.
    """
    groups = _groups(model, undecayed) if layer_decay is None else _layers(model, undecayed, layer_decay)
    if name == SGD:
        return torch.optim.SGD(
            groups,
            lr=rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
    more = dict(arguments)
    if name in CAPTURED:
        more |= {"fused": device.type in ("cpu", "cuda"), "capturable": device.type == "cuda"}
    return _timm(name, groups, rate, weight_decay, momentum, more)


def _timm(
    name: str,
    groups: list[dict[str, Any]],
    rate: Any,
    decay: float,
    momentum: float,
    arguments: dict[str, Any],
) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what timm says of its own defaults
        return create_optimizer_v2(
            groups,
            opt=name,
            lr=rate,
            weight_decay=decay,
            momentum=momentum,
            filter_bias_and_bn=False,
            **arguments,
        )


def norms_and_biases(model: nn.Module) -> set[str]:
    """Parameters of one dimension, biases of any, and those whose name or pattern is in the network's own
    `no_weight_decay()`, as in timm.
    """
    ask = getattr(model, "no_weight_decay", None)
    patterns = list(ask()) if callable(ask) else []
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1
        or name.endswith(".bias")
        or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    }


def _groups(model: nn.Module, undecayed: Collection[str]) -> list[dict[str, Any]]:
    """The parameters: one group, and a second one without weight decay where it is asked for."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    spared = [parameter for name, parameter in named if name in undecayed]
    groups: list[dict[str, Any]] = [{"params": [p for name, p in named if name not in undecayed]}]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared else groups


def layers_of(model: nn.Module) -> dict[str, int]:
    """Parameter → its layer from 0 on, by the network's `group_matcher`. Raises TrainingError where it names no two."""
    from timm.models import group_parameters

    matcher = getattr(model, "group_matcher", None)
    found = group_parameters(model, matcher(coarse=False), reverse=True) if callable(matcher) else {}
    if len(set(found.values())) < 2:
        raise TrainingError(
            f"layer_decay: {type(model).__name__} has no group_matcher() that names its layers, as timm's networks "
            "have; train without layer_decay"
        )
    return dict(found)


def _layers(model: nn.Module, undecayed: Collection[str], layer_decay: float) -> list[dict[str, Any]]:
    """As timm groups them: the last layer has the whole rate, each before it `layer_decay` times the next one's."""
    layers = layers_of(model)
    last = max(layers.values())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, spared = layers.get(name, last), name in undecayed
        group = groups.setdefault((layer, spared), {"params": [], "lr_scale": layer_decay ** (last - layer)})
        group["params"].append(parameter)
        if spared:
            group["weight_decay"] = 0.0
    return list(groups.values())


def prepare(optimiser: torch.optim.Optimizer) -> None:
    """Make the state of SGD and Adam before the first step, of zeros, which gives the same first step.

    A captured step needs their memory, and the fused kernels take all parameters or none, also where one gets its
    first gradient later than the others.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            state = optimiser.state[parameter]
            if isinstance(optimiser, torch.optim.SGD) and "momentum_buffer" not in state:
                state["momentum_buffer"] = _zeros(parameter)
            elif type(optimiser) in (torch.optim.Adam, torch.optim.AdamW) and not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = _zeros(parameter)
                state["exp_avg_sq"] = _zeros(parameter)
                if group["amsgrad"]:
                    state["max_exp_avg_sq"] = _zeros(parameter)


def _zeros(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter, memory_format=torch.preserve_format)


def _state_of(optimiser: torch.optim.Optimizer) -> Any:
    """Parameter → its state; a lookahead keeps its own there too, beside that of the optimizer that it wraps."""
    return getattr(optimiser, "_base_optimizer", optimiser).state


def live_state(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that a step changes; the first word of a name is their kind."""
    words = {"momentum_buffer": "momentum"}
    return {
        f"{words.get(key, key)} of {name}": tensor
        for name, parameter in model.named_parameters()
        for key, tensor in _state_of(optimiser).get(parameter, {}).items()
        if isinstance(tensor, torch.Tensor)
    }


def saved_state(optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> dict[str, torch.Tensor]:
    """The whole state as tensors for a checkpoint.

    Raises:
        TrainingError: there is something else in it than tensors, numbers and lists of tensors.
    """
    if isinstance(optimiser, torch.optim.SGD):
        buffers = (optimiser.state[parameter]["momentum_buffer"] for parameter in parameters)
        return {f"momentum/{k}": buffer for k, buffer in enumerate(buffers)}
    found: dict[str, torch.Tensor] = {}
    for k, parameter in enumerate(parameters):
        for key, value in _state_of(optimiser).get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                found[f"{_STATE}{k}/{key}"] = value
            elif isinstance(value, list) and all(isinstance(item, torch.Tensor) for item in value):
                found |= {f"{_STATE}{k}/{key}/{at}": item for at, item in enumerate(value)}
            elif isinstance(value, bool | int | float):
                found[f"{_NUMBER}{k}/{key}"] = _number(value)
            elif value is not None:
                raise TrainingError(
                    f"{type(optimiser).__name__} keeps a {type(value).__name__} as {key!r}, which no checkpoint can "
                    "hold; train without one, or take another optimizer"
                )
    for g, group in enumerate(optimiser.param_groups):
        for key, value in group.items():
            if key != "lr" and isinstance(value, torch.Tensor):
                found[f"{_SHARED}{g}/{key}"] = value
            elif key != "lr" and isinstance(value, bool | int | float):
                found[f"{_GROUP}{g}/{key}"] = _number(value)
    return found


def _number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def restore_state(
    optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put back what `saved_state` returned. Raises KeyError or RuntimeError where it does not fit."""
    if isinstance(optimiser, torch.optim.SGD):
        with torch.no_grad():
            for k, parameter in enumerate(parameters):
                optimiser.state[parameter]["momentum_buffer"].copy_(tensors[f"momentum/{k}"])
        return
    for name, tensor in tensors.items():
        if name.startswith(_GROUP):
            number, key = name.removeprefix(_GROUP).split("/")
            optimiser.param_groups[int(number)][key] = tensor.item()
        elif name.startswith(_SHARED):
            number, key = name.removeprefix(_SHARED).split("/")
            optimiser.param_groups[int(number)][key] = tensor.clone()
        elif name.startswith(_NUMBER):
            number, key = name.removeprefix(_NUMBER).split("/")
            _state_of(optimiser)[parameters[int(number)]][key] = tensor.item()
        elif name.startswith(_STATE):
            number, key, *place = name.removeprefix(_STATE).split("/")
            parameter = parameters[int(number)]
            _put(_state_of(optimiser)[parameter], key, place, tensor, parameter)


def _put(
    state: dict[str, Any], key: str, place: list[str], tensor: torch.Tensor, parameter: nn.Parameter
) -> None:
    live = state.get(key)
    if isinstance(live, torch.Tensor) and not place:
        with torch.no_grad():
            live.copy_(tensor)
        return
    copy = tensor.to(parameter.device if tensor.ndim else tensor.device, copy=True)
    if place:
        state.setdefault(key, []).append(copy)
    else:
        state[key] = copy
