"""Ways to call an activation: helpers, partials, lambdas, closures, decorators, properties, inheritance."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import relu as rectify

from tests.backbone.own_networks.register import Base, conv, own


def conv_relu(layer, x):
    return F.relu(layer(x))


def activate(x, kind="relu"):
    if kind == "relu":
        return F.relu(x)
    return F.gelu(x)


ACTS = {"relu": F.relu, "silu": F.silu}
GLOBAL_ACT = nn.ReLU()


@own(2)
class HelperFunction(Base):
    def forward(self, x):
        x = conv_relu(self.convs[0], self.start(x))
        return self.finish(conv_relu(self.convs[1], x))


class UsesHelper(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()

    def forward(self, x):
        return activate(self.conv(x))


@own(3)
class HelperOfSeveralOwners(Base):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(UsesHelper(), UsesHelper())

    def forward(self, x):
        return self.finish(activate(self.convs[0](self.blocks(self.start(x))), "gelu"))


@own(2)
class Partial(Base):
    def __init__(self):
        super().__init__()
        self.act = functools.partial(F.leaky_relu, negative_slope=0.3)

    def forward(self, x):
        x = self.act(self.convs[0](self.start(x)))
        return self.finish(self.act(self.convs[1](x)))


@own(1)
class PartialClass(Base):
    def __init__(self, act=functools.partial(nn.LeakyReLU, 0.2)):  # noqa: B008
        super().__init__()
        self.act = act()

    def forward(self, x):
        return self.finish(self.act(self.start(x)))


@own(2)
class LambdaOnSelf(Base):
    def __init__(self):
        super().__init__()
        self.act = lambda t: F.relu(t)

    def forward(self, x):
        x = self.act(self.convs[0](self.start(x)))
        return self.finish(self.act(self.convs[1](x)))


@own(1)
class LambdaOverSelf(Base):
    """A lambda that reads the network's own layers."""

    def __init__(self):
        super().__init__()
        self.step = lambda t: self.relu(self.convs[0](t))

    def forward(self, x):
        return self.finish(self.step(self.start(x)))


def make_act(scale):
    def act(x):
        return F.relu(x) * scale

    return act


@own(1)
class Closure(Base):
    def __init__(self):
        super().__init__()
        self.act = make_act(0.5)

    def forward(self, x):
        return self.finish(self.act(self.start(x)))


@own(2)
class ByDict(Base):
    def forward(self, x):
        x = ACTS["relu"](self.convs[0](self.start(x)))
        return self.finish(ACTS["silu"](self.convs[1](x)))


@own(2)
class Passed(Base):
    def block(self, x, layer, act):
        return act(layer(x))

    def forward(self, x):
        x = self.block(self.start(x), self.convs[0], F.relu)
        return self.finish(self.block(x, self.convs[1], F.gelu))


@own(2)
class PassedModule(Base):
    def block(self, x, layer, act):
        return act(layer(x))

    def forward(self, x):
        x = self.block(self.start(x), self.convs[0], self.relu)
        return self.finish(self.block(x, self.convs[1], self.relu))


@own(2)
class PlainList(Base):
    def __init__(self):
        super().__init__()
        self.acts = [nn.ReLU(), nn.ELU()]

    def forward(self, x):
        x = self.start(x)
        for layer, act in zip(self.convs, self.acts):
            x = act(layer(x))
        return self.finish(x)


@own(2)
class PlainTupleByIndex(Base):
    def __init__(self):
        super().__init__()
        self.acts = (nn.ReLU(), nn.ELU())

    def forward(self, x):
        x = self.acts[0](self.convs[0](self.start(x)))
        return self.finish(self.acts[1](self.convs[1](x)))


@own(2)
class FunctionOnSelf(Base):
    def __init__(self):
        super().__init__()
        self.act = F.relu

    def forward(self, x):
        x = self.act(self.convs[0](self.start(x)))
        return self.finish(self.act(self.convs[1](x)))


@own(1)
class StaticFunction(Base):
    act = staticmethod(F.relu)

    def forward(self, x):
        return self.finish(self.act(self.start(x)))


@own(1)
class ClassAttribute(Base):
    """One module object for all instances of the class."""

    act = nn.ReLU()

    def forward(self, x):
        return self.finish(self.act(self.start(x)))


@own(1)
class GlobalModule(Base):
    def forward(self, x):
        return self.finish(GLOBAL_ACT(self.start(x)))


@own(2)
class MadeInForward(Base):
    def forward(self, x):
        x = nn.ReLU()(self.start(x))
        act = nn.ReLU(inplace=True)
        return self.finish(act(self.convs[0](x)))


@own(1)
class GetattrOfLibrary(Base):
    def forward(self, x, name="relu"):
        return self.finish(getattr(torch.nn.functional, name)(self.start(x)))


@own(6)
class Spellings(Base):
    def forward(self, x):
        x = self.convs[0](torch.relu(self.start(x)))
        x = self.convs[0](x.relu())
        x = self.convs[1](x.clamp(min=0))
        x = self.convs[1](torch.clamp_min(x, 0))
        x = self.convs[2](rectify(x))
        return self.finish(torch.nn.functional.relu(input=x))


@own(1)
class MaximumOfZero(Base):
    def forward(self, x):
        y = self.start(x)
        return self.finish(torch.maximum(y, torch.zeros_like(y)))


@own(1)
class DirectForward(Base):
    """Calls `forward` rather than the module."""

    def forward(self, x):
        return self.finish(self.relu.forward(self.start(x)))


@own(2)
class NestedClass(Base):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = conv(), nn.ReLU()

        def forward(self, x):
            return F.gelu(self.act(self.conv(x)))

    def __init__(self):
        super().__init__()
        self.block = self.Block()

    def forward(self, x):
        return self.finish(self.block(self.start(x)))


@own(2)
class PropertyAct(Base):
    @property
    def act(self):
        return self.relu

    def forward(self, x):
        x = self.act(self.start(x))
        return self.finish(self.act(self.convs[0](x)))


@own(1)
class PropertyOfLayers(Base):
    @property
    def body(self):
        return nn.Sequential(self.convs[0], self.relu)

    def forward(self, x):
        return self.finish(self.body(self.start(x)))


class ActMixin:
    def activated(self, x):
        return self.relu(x)


@own(2)
class Mixin(ActMixin, Base):
    def forward(self, x):
        x = self.activated(self.start(x))
        return self.finish(self.activated(self.convs[0](x)))


class Parent(Base):
    def forward(self, x):
        return F.relu(self.convs[0](self.start(x)))


@own(2)
class SuperForward(Parent):
    def forward(self, x):
        return self.finish(F.relu(self.convs[1](super().forward(x))))


@own(2)
class BaseForwardByName(Parent):
    def forward(self, x):
        return self.finish(F.relu(self.convs[1](Parent.forward(self, x))))


class Middle(Parent):
    def forward(self, x):
        return F.gelu(self.convs[1](super().forward(x)))


@own(3)
class TwoSupers(Middle):
    def forward(self, x):
        return self.finish(F.relu(self.convs[2](super().forward(x))))


@own(2)
class StaticHelper(Base):
    @staticmethod
    def act(x):
        return F.relu(x)

    def forward(self, x):
        x = self.act(self.start(x))
        return self.finish(self.act(self.convs[0](x)))


@own(1)
class ClassHelper(Base):
    @classmethod
    def act(cls, x):
        return F.relu(x)

    def forward(self, x):
        return self.finish(self.act(self.start(x)))


@own(1)
class OwnCall(Base):
    def __call__(self, x):
        return self.finish(F.relu(super().__call__(x)))

    def forward(self, x):
        return self.start(x)


@own(1)
class ForwardAssigned(Base):
    def __init__(self):
        super().__init__()
        self.forward = self.forward_plain

    def forward_plain(self, x):
        return self.finish(F.relu(self.start(x)))


@own(2)
class ForwardByMode(Base):
    def forward(self, x):
        return self.forward_train(x) if self.training else self.forward_test(x)

    def forward_train(self, x):
        return self.finish(F.relu(self.start(x)))

    def forward_test(self, x):
        return self.finish(F.relu(self.start(x)))


def doubled(function):
    @functools.wraps(function)
    def inner(self, *args, **kwargs):
        return 2 * function(self, *args, **kwargs)

    return inner


class Scaled:
    """A decorator that is an object."""

    def __init__(self, function):
        self.function = function

    def __get__(self, instance, owner):
        return functools.partial(self, instance)

    def __call__(self, instance, x):
        return self.function(instance, x) * 3


@own(1)
class Decorated(Base):
    @doubled
    def forward(self, x):
        return self.finish(F.relu(self.start(x)))


@own(1)
class DecoratedByObject(Base):
    @Scaled
    def forward(self, x):
        return self.finish(F.relu(self.start(x)))


@own(1)
class AppendsLikeDecorator(Base):
    """A method replaced in the class body."""

    def forward(self, x):
        return self.finish(F.relu(self.start(x)))

    forward = doubled(forward)


@own(2)
class Frozen(Base):
    """A stem without gradients."""

    def forward(self, x):
        with torch.no_grad():
            x = F.relu(self.start(x))
        return self.finish(F.relu(self.convs[0](x)))


@own(1)
class FrozenByDecorator(Base):
    @torch.no_grad()
    def features(self, x):
        return F.relu(self.start(x))

    def forward(self, x):
        return self.finish(self.features(x))


@own(1)
class Autocast(Base):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = F.relu(self.convs[0](self.start(x)))
        return self.finish(x.float())


class Heads(NamedTuple):
    main: Tensor
    extra: Tensor


@own(2)
class NamedOutputs(Base):
    def forward(self, x):
        x = F.relu(self.start(x))
        return Heads(self.finish(x), F.relu(self.convs[0](x)))


@dataclass
class Output:
    logits: Tensor
    maps: list[Tensor]


@own(2)
class DataclassOutput(Base):
    def forward(self, x):
        maps = [F.relu(self.start(x))]
        maps.append(F.relu(self.convs[0](maps[0])))
        return Output(self.finish(maps[1]), maps)


@own(3)
class ManyOutputs(Base):
    def forward(self, x) -> dict[str, Any]:
        x = self.relu(self.start(x))
        out = {"low": x, "pyramid": [self.relu(self.convs[0](x)), (self.relu(self.convs[1](x)),)]}
        out["logits"] = self.finish(out["pyramid"][1][0])
        return out


@own(2)
class Walrus(Base):
    def forward(self, x):
        if (y := F.relu(self.start(x))) is not None:
            y = F.relu(self.convs[0](y))
        return self.finish(y)


@own(4)
class OneLine(Base):
    def forward(self, x):
        return self.finish(
            self.relu(self.convs[1](self.relu(self.convs[0](self.relu(self.start(x))))))
            + F.relu(x.mean(1, True) + self.stem(x))
        )


@own(2)
class StarArguments(Base):
    def forward(self, x):
        x = F.relu(*[self.start(x)])
        return self.finish(F.relu(input=self.convs[0](x), inplace=False))


@own(2)
class Match(Base):
    def __init__(self, kind="relu"):
        super().__init__()
        self.kind = kind

    def act(self, x):
        match self.kind:
            case "relu":
                return F.relu(x)
            case "gelu":
                return F.gelu(x)
        raise ValueError(self.kind)

    def forward(self, x):
        x = self.act(self.start(x))
        return self.finish(self.act(self.convs[0](x)))


@own(1)
class TryFinally(Base):
    def forward(self, x):
        try:
            return self.finish(F.relu(self.start(x)))
        finally:
            self.seen = True


@own(1)
class DefaultArgument(Base):
    def forward(self, x, act=F.relu):
        return self.finish(act(self.start(x)))


@own(2)
class FeaturesAndHead(Base):
    """timm's two halves."""

    def forward_features(self, x):
        return self.relu(self.start(x))

    def forward_head(self, x, pre_logits=False):
        x = self.relu(self.convs[0](x))
        return x if pre_logits else self.finish(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@own(2)
class AnyArguments(Base):
    def forward(self, *args, **kwargs):
        (x,) = args
        return self.finish(F.relu(self.convs[0](F.relu(self.start(x), **kwargs))))


@own(2)
class InnerDef(Base):
    def forward(self, x):
        act = lambda t: F.relu(t)  # noqa: E731

        def block(t, layer):
            return act(layer(t))

        return self.finish(block(block(self.start(x), self.convs[0]), self.convs[1]))


@own(2)
class Ternary(Base):
    def __init__(self, smooth=True):
        super().__init__()
        self.smooth = smooth

    def forward(self, x):
        x = F.silu(self.start(x)) if self.smooth else F.relu(self.start(x))
        return self.finish((F.relu if not self.smooth else F.gelu)(self.convs[0](x)))


@own(1)
class ExitStack(Base):
    def forward(self, x):
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            return self.finish(F.relu(self.start(x)))


@own(2)
class SingleDispatch(Base):
    @functools.singledispatchmethod
    def act(self, x):
        raise TypeError(x)

    @act.register
    def _(self, x: torch.Tensor):
        return F.relu(x)

    def forward(self, x):
        x = self.act(self.start(x))
        return self.finish(self.act(self.convs[0](x)))


@own(2)
class Pipeline(Base):
    """Steps as bound methods in a list."""

    def __init__(self):
        super().__init__()
        self.steps = [self.first, self.second]

    def first(self, x):
        return F.relu(self.start(x))

    def second(self, x):
        return self.relu(self.convs[0](x))

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return self.finish(x)
