"""Small networks written in the ways that people write them. Each takes (B, 3, 16, 16) and returns 5 logits.

`SITES` says how many activation sites each has, counted by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import relu as bare_relu


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def pool(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


class Functional(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.pool(x)


class OneRelu(Base):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(x)))
        return self.pool(self.relu(x + y))


class Aliased(Base):
    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.body = nn.Sequential(self.conv1, act, self.conv2, act)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.body(x))


class Containers(Base):
    def __init__(self) -> None:
        super().__init__()
        self.acts = nn.ModuleDict({"first": nn.ReLU(), "second": nn.SiLU()})
        self.more = nn.ModuleList([nn.ReLU(), nn.GELU()])
        self.plain = [self.more[0], self.more[1]]

    def forward(self, x: Tensor) -> Tensor:
        x = self.acts["first"](self.conv1(x))
        x = self.acts["second"](self.conv2(x))
        x = self.plain[0](self.conv2(x))
        return self.pool(self.more[1](self.conv2(x)))


class Residual(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        out = self.bn1(self.conv2(x))
        out += x
        return self.pool(F.relu(out, inplace=True))


class Loop(Base):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)])
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for conv in self.convs:
            x = x + self.act(conv(x))
        return self.pool(x)


class UnevenLoop(Loop):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number, conv in enumerate(self.convs):
            x = conv(x)
            if number != 1:
                x = self.act(x)
        return self.pool(x)


class Comprehension(Loop):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.pool(sum([F.relu(conv(x)) for conv in self.convs]))


class WhileLoop(Loop):
    def forward(self, x: Tensor) -> Tensor:
        x, number = self.conv1(x), 0
        while number < 3:
            x = self.act(self.convs[number](x))
            number += 1
        return self.pool(x)


class Training(Base):
    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv1(x))
        y = self.pool(F.relu(self.conv2(x)))
        if self.training:
            return y, self.aux(F.relu(self.bn1(x))).mean((2, 3))
        return y


class Helper(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self._features(x))

    def _features(self, x: Tensor) -> Tensor:
        """Both convolutions."""
        x = F.leaky_relu(self.conv1(x), 0.2)
        return F.elu(
            self.conv2(x),  # a call of several lines
            alpha=0.5,
        )


class Inherited(Helper):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Super(Base):
    def _features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv1(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self._features(x))


class Supers(Super):
    def _features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(super()._features(x)))


def logged(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    import functools

    @functools.wraps(function)
    def inner(self: nn.Module, x: Tensor) -> Tensor:
        return 2 * function(self, x)

    return inner


class Decorated(Base):
    @logged
    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.conv1(x)))


class Methods(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()
        x = (bare_relu(self.conv2(bare_relu(self.conv2(x)))) - 0.05).relu_()
        x = self.conv2(x)
        x.relu_()
        return self.pool(F.silu(input=x + 1))


class Nested(Base):
    def forward(self, x: Tensor) -> Tensor:
        def block(y: Tensor) -> Tensor:
            return F.relu(self.conv2(y))

        last = lambda y: F.relu(y)  # noqa: E731
        return self.pool(last(block(self.conv1(x))))


class Private(Base):
    def __init__(self) -> None:
        super().__init__()
        self.__act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.__act(self.conv1(x))
        return self.pool(self.__act(self.conv2(x)))


class Tuples(Base):
    """Two inputs, two outputs."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = F.relu(self.conv1(x)), F.relu(self.conv1(y))
        return self.pool(x + y), {"y": self.pool(F.gelu(self.conv2(y), approximate="tanh"))}


class Twice(Base):
    """One block that runs twice: its activation is one site."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(self.conv2, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.block(self.block(self.conv1(x))))


def make_local() -> nn.Module:
    """A class that only this function knows, with a free variable."""
    shift = 0.5

    class Local(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.pool(F.relu(self.conv1(x) + shift))

    return Local()


SITES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "functional": (Functional, 2),
    "one relu": (OneRelu, 3),
    "aliased": (Aliased, 2),
    "containers": (Containers, 4),
    "residual": (Residual, 2),
    "loop": (Loop, 3),
    "uneven loop": (UnevenLoop, 2),
    "comprehension": (Comprehension, 3),
    "while": (WhileLoop, 3),
    "training": (Training, 3),
    "helper": (Helper, 2),
    "inherited": (Inherited, 2),
    "supers": (Supers, 2),
    "decorated": (Decorated, 1),
    "methods": (Methods, 6),
    "nested": (Nested, 2),
    "private": (Private, 2),
    "twice": (Twice, 1),
    "local": (make_local, 1),
}
