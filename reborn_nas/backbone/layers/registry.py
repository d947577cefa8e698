"""The registry of layers: how each kind handles widened channels in planning and applying.

Most layers need no entry: an operation of the trace passes widened channels on, or its weights grow, by the rule for
the operation (`widen.rules`). A layer whose forward uses its channels in a special way is a `Layer` here: it is
recognised by its class, plans how widened channels pass its operations, and changes the module to a form that accepts
them. A new kind of layer is therefore one class and one call of `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from reborn_nas.backbone.layers.steps import ACTIONS, Action, ChannelMap, WidenStep
from reborn_nas.backbone.trace.graph import Op, Trace, ValueRef
from reborn_nas.errors import ConversionError


class Blocked(Exception):
    """An operation that widened channels cannot pass; the message completes "… by" and does not name the module."""


@dataclass(frozen=True)
class Wide:
    """A value is wider than in the trace: along dimension `dim`, as `channels` describes."""

    dim: int
    channels: ChannelMap


@dataclass(frozen=True)
class Outcome:
    """How widened channels pass one operation.

    Args:
        outputs: for each output of the operation, how it is widened.
        steps: tensors that must be widened in addition.
        wanted: further values that must be widened, and how.
        later: values after several operations of one known function, and how they are widened.
    """

    outputs: tuple[Wide | None, ...]
    steps: tuple[WidenStep, ...] = ()
    wanted: tuple[tuple[int, Wide], ...] = ()
    later: tuple[tuple[int, Wide], ...] = ()


@dataclass(frozen=True)
class Scene:
    """An operation with its trace and the values known to be widened."""

    trace: Trace
    op: Op
    wide: Mapping[int, Wide]

    @property
    def layer(self) -> Layer:
        """The layer of the registry whose forward runs the operation."""
        return layer_of(self.trace.classes.get(self.op.module))

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """The argument at position `place` or with the name `name`."""
        return self.op.arg(place, name, default)

    def tensor(self, place: int, name: str) -> int | None:
        """The id of the tensor argument at position `place` or with the name `name`."""
        found = self.arg(place, name)
        return found.id if isinstance(found, ValueRef) else None

    def shape(self, value: int) -> tuple[int, ...]:
        """The value's shape in the trace."""
        return self.trace.values[value].shape

    def subject(self) -> tuple[int, Wide]:
        """The first tensor argument, which must be the only widened one."""
        found = self.tensor(0, "input")
        others = any(value in self.wide for value in self.op.inputs if value != found)
        if found is None or found not in self.wide or others:
            raise Blocked("a tensor argument that is not a feature map")
        return found, self.wide[found]

    def same(self, wide: Wide) -> Outcome:
        """An outcome with all outputs widened like `wide`."""
        return Outcome((wide,) * len(self.op.outputs))

    def narrow(self, *steps: WidenStep) -> Outcome:
        """An outcome without widened outputs."""
        return Outcome((None,) * len(self.op.outputs), steps)

    def step(
        self, action: str, tensors: Sequence[int | None], dim: int, channels: ChannelMap, groups: int = 1
    ) -> WidenStep:
        """A step on `tensors`, which must be parameters or buffers of one module."""
        names = [self.trace.values[value].param for value in tensors if value is not None]
        if any(name is None for name in names):
            raise Blocked("a weight that is computed, not stored")
        owners = {name.rpartition(".")[0] for name in names if name}
        if len(owners) != 1:
            raise Blocked("weights that belong to several modules")
        tails = tuple(name.rpartition(".")[2] for name in names if name)
        return WidenStep(action, owners.pop(), tails, dim, groups, channels)

    def form(self, action: str, attribute: str, channels: ChannelMap, groups: int = 1) -> WidenStep:
        """A step that changes the running layer to another form, which holds `attribute`."""
        return WidenStep(action, self.op.module, (attribute,), 1, groups, channels)


class Layer:
    """A kind of layer. Layers without an entry in the registry are of this class itself.

    Attributes:
        classes: classes of such layers. A subclass is included if it has the forward of its base and thus differs only
            in how it is built.
        named: likewise, as "module:qualname", for classes whose modules are slow to import; without subclasses.
        actions: name → action for the steps that it plans and applies.
        regroups: whether its grouped convolution can `consume` wider groups (`regroup`).
        cuts: whether it can read only the original channels as the identity branch of a sum.
    """

    classes: tuple[type[nn.Module], ...] = ()
    named: tuple[str, ...] = ()
    actions: Mapping[str, Action] = {}
    regroups = False
    cuts = False

    def plan(self, scene: Scene) -> Outcome | None:
        """Plan how widened channels pass an operation of the layer's forward.

        Returns:
            None if the general rule for the operation applies.

        Raises:
            Blocked: they cannot pass.
        """
        return None

    def cut(self, scene: Scene) -> WidenStep:
        """The step by which a layer with `cuts` reads only the original channels in the operation."""
        raise NotImplementedError

    def grow(self, module: nn.Module, old: Tensor, widen: Callable[[Tensor], Tensor]) -> Tensor:
        """Grow the tensor `old` of a step; `widen` grows a tensor along the step's dimension."""
        return widen(old)

    def apply(self, module: nn.Module, step: WidenStep) -> None:
        """Apply a step with one of the layer's actions; the tensors and widths of `module` have already grown.

        Raises:
            ConversionError: the class of `module` has no form that takes widened channels.
        """

    def regroup(self, module: nn.Module, step: WidenStep) -> None:
        """Make `module`, a grouped convolution that will `consume` more channels, sort them by groups.

        Raises:
            ConversionError: its class has no such form.
        """
        raise no_form(module, step.module)


_PLAIN = Layer()
_LAYERS: dict[type, Layer] = {}
_NAMED: dict[str, Layer] = {}
_OF_ACTION: dict[str, Layer] = {}


def register(layer: Layer) -> None:
    """Add a kind of layer.

    Raises:
        ConversionError: one of its classes or actions is already registered.
    """
    taken = [cls.__name__ for cls in layer.classes if cls in _LAYERS]
    taken += [name for name in (*layer.named, *layer.actions) if name in _NAMED or name in ACTIONS]
    if taken:
        raise ConversionError(
            f"{', '.join(map(repr, taken))} is already in the registry of layers; give the layer another name"
        )
    _LAYERS.update(dict.fromkeys(layer.classes, layer))
    _NAMED.update(dict.fromkeys(layer.named, layer))
    _OF_ACTION.update(dict.fromkeys(layer.actions, layer))
    ACTIONS.update(layer.actions)
    _FOUND.clear()


_FOUND: WeakKeyDictionary[type, Layer] = WeakKeyDictionary()


def layer_of(cls: type | None) -> Layer:
    """The layer of a class."""
    if cls is None:
        return _PLAIN
    if cls not in _FOUND:
        base = base_among(cls, _LAYERS)
        named = _NAMED.get(f"{cls.__module__}:{cls.__qualname__}", _PLAIN)
        _FOUND[cls] = named if base is None else _LAYERS[base]
    return _FOUND[cls]


def layer_for(step: WidenStep, module: nn.Module) -> Layer:
    """The layer that applies a step: that of its action, else that of the module."""
    return _OF_ACTION.get(step.action) or layer_of(type(module))


def base_among(cls: type, kinds: Mapping[type, Any]) -> type | None:
    """The class among `kinds` that `cls` is, or whose forward it has."""
    forward = getattr(cls, "forward", None)
    bases = (base for base in cls.__mro__ if base in kinds and getattr(base, "forward", None) is forward)
    return next(bases, None)


def become(module: nn.Module, forms: Mapping[type, type], where: str) -> Any:
    """Replace the class of `module` by its form in `forms`. Raises ConversionError if there is none."""
    kind = base_among(type(module), forms)
    if kind is None:
        raise no_form(module, where)
    module.__class__ = forms[kind]
    return module


def no_form(module: nn.Module, where: str) -> ConversionError:
    """The error for a layer that cannot read widened channels."""
    return ConversionError(
        f"'{where}' is a {type(module).__name__}, which has no form that reads doubled channels; keep the "
        "activation before it, or choose a compressed form"
    )
