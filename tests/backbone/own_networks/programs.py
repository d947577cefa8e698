"""Random programs: forwards written line by line over convolutions, norms, activations, views, in-place arithmetic,
loops, dicts, branches, helpers and shared modules. The oracle is substitution in flight.

`python -m tests.backbone.own_networks.programs 0 200` judges the programs of these seeds and prints the smallest form of
each that comes out wrong.
"""
# ruff: noqa: E501 a statement of a program is easier to read on one line

from __future__ import annotations

import argparse
import importlib.util
import itertools
import random
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from reborn_nas.backbone.sites.site import Site
from tests.backbone.own_networks.oracle import Result, Verdict, fresh, judge
from tests.backbone.own_networks.register import Own, images

FOLDER = tempfile.TemporaryDirectory()
CHOICES = ("reborn", "relu", "crelu(compression=none)", "prelu")

HEAD = """\
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

ACTS = {"relu": F.relu, "silu": F.silu}


def activate(x):
    return F.relu(x)


def conv_act(layer, x, act=F.relu):
    return act(layer(x))


def same(x):
    return x


def swish(x):
    return x / (1 + torch.exp(-x))


def sharp(x, slope=0.1):
    low = slope * x
    return torch.where(x > 0, x, low)


class Bent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 0, x, 0.2 * x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grad, 0.2 * grad)


class Block(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 4, 1), nn.ReLU(inplace)

    def forward(self, x):
        return self.act(self.conv(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.relu, self.quick, self.gelu = nn.ReLU(), nn.ReLU(inplace=True), nn.GELU()
        self.acts = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Tanh(), "c": nn.SiLU()})
        self.plain = [nn.ReLU(), nn.ELU()]
        self.sigma = nn.Sigmoid()
"""
MIDDLE = """\
        self.head = nn.Linear(4, 5)

    def act(self, x):
        return self.relu(x)

    def free(self, x):
        return F.leaky_relu(x, 0.2)

    def forward(self, x):
        v0 = self.stem(x)
"""
ACT = (
    "F.relu({})",
    "torch.relu({})",
    "{}.relu()",
    "self.relu({})",
    "self.quick({})",
    "self.gelu({})",
    "self.acts['a']({})",
    "self.plain[0]({})",
    "self.plain[1]({})",
    "F.relu({}, inplace=True)",
    "{}.clamp(min=0)",
    "F.silu(input={})",
    "activate({})",
    "self.act({})",
    "self.free({})",
    "ACTS['relu']({})",
    "(lambda t: F.relu(t))({})",
    "getattr(self, 'relu')({})",
    "nn.ReLU()({})",
    "F.elu({})",
    "F.hardswish({})",
    "torch.relu_({})",
    "{}.relu_()",
    "F.relu6({})",
)
FORMULAS = (
    "{} * {}.sigmoid()",
    "torch.where({} > 0, {}, 0.1 * {})",
    "{} * ({} > 0)",
    "torch.maximum({}, 0.2 * {})",
    "{}.masked_fill({} < 0, 0)",
    "{} * F.relu6({} + 3) / 6",
    "{} * torch.tanh(F.softplus({}))",
    "{} * self.sigma({})",
    "{} * torch.sigmoid(3 * {})",
    "swish({})",
    "sharp({}, slope=0.3)",
    "Bent.apply({})",
)
"""Activations written out; each is one function of one variable."""
PLACES = (
    "{}",
    "{}",
    "{}",
    "{}",
    "{}[:, :2]",
    "{}[:, 1:]",
    "{}.view({}.shape[0], -1)",
    "{}.permute(0, 2, 3, 1)",
)


class Writer:
    """Writes one program; `steps` holds its statements, each a block of lines."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.parts: list[str] = []
        self.steps: list[str] = []
        self.names = ["v0"]
        self.number = 0
        for _ in range(self.random.randint(3, 8)):
            self.step()

    def act(self, name: str) -> str:
        if name.isidentifier() and self.random.random() < 0.2:
            return f"({self.random.choice(FORMULAS).replace('{}', name)})"
        return self.random.choice(ACT).replace("{}", name)

    def old(self) -> str:
        """A variable, a recent one more often than not."""
        return self.random.choice([*self.names, *self.names[-2:], self.names[-1]])

    def new(self) -> str:
        self.names.append(f"v{len(self.names)}")
        return self.names[-1]

    def layer(self, make: str = "nn.Conv2d(4, 4, 3, padding=1)") -> str:
        self.number += 1
        self.parts.append(f"self.m{self.number} = {make}")
        return f"self.m{self.number}"

    def step(self) -> None:
        kinds = [
            *(
                self.plain,
                self.plain,
                self.plain,
                self.norm,
                self.norm,
                self.into,
                self.part,
                self.halves,
                self.add,
            ),
            *(
                self.loop,
                self.loop,
                self.kinds,
                self.branch,
                self.table,
                self.block,
                self.gate,
                self.pool,
                self.scope,
            ),
            *(self.write, self.helper, self.images),
        ]
        self.steps.append(self.random.choice(kinds)())

    def plain(self) -> str:
        old = self.old()
        made = self.act(f"{self.layer()}({old})") if self.random.random() < 0.6 else self.act(old)
        return f"{self.new()} = {made}"

    def norm(self) -> str:
        conv, norm, old = self.layer(), self.layer("nn.BatchNorm2d(4)"), self.old()
        return f"{self.new()} = {self.act(f'{norm}({conv}({old}))')}"

    def into(self) -> str:
        """An activation in place whose result is dropped, often of a part."""
        old = self.old()
        place = self.random.choice(PLACES).replace("{}", old)
        style = self.random.choice(
            ("F.relu_({})", "{}.relu_()", "self.quick({})", "F.relu({}, inplace=True)")
        )
        return style.replace("{}", place)

    def part(self) -> str:
        old, new = self.old(), self.new()
        return self.random.choice(
            (
                f"{new} = {old}.clone()\n{new}[:, :2] = F.relu({new}[:, :2])",
                f"{old}[:, :2] = F.relu({old}[:, 2:])\n{new} = {old} * 0.7",
                f"{new} = F.relu({old}.flatten(2)).view_as({old})",
                f"{new} = F.relu({old}.view(-1, *{old}.shape[1:]))",
                f"{new} = self.relu({old}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)",
                f"{new} = torch.zeros_like({old})\n{new}[:, :3] = F.relu({old}[:, :3])",
                f"{new} = {old}.data.relu() + {old}",
            )
        )

    def halves(self) -> str:
        old, new = self.old(), self.new()
        split = self.random.choice(
            (f"{old}.chunk(2, 1)", f"torch.split({old}, 2, 1)", f"({old}[:, :2], {old}[:, 2:])")
        )
        left = self.random.choice(
            ("a = F.relu(a)", "a.relu_()", "b = self.relu(b)", "b = self.quick(b)", "a = a + F.gelu(b)")
        )
        join = self.random.choice(
            ("torch.cat([a, b], 1)", "torch.cat([b, a], 1)", f"{old} + torch.cat([a, a], 1)")
        )
        return f"a, b = {split}\n{left}\n{new} = {join}"

    def add(self) -> str:
        one, two = self.old(), self.old()
        return self.random.choice(
            (
                f"{self.new()} = {one} + {two}",
                f"{one} += {two}.tanh()" if one != two else f"{one} += 0.1",
                f"{one}.mul_(0.9)",
                f"{self.new()} = {self.act(f'({one} + {two})')}",
                f"{self.new()} = {one} - 0.5 * {self.act(two)}",
                f"{one} = {one} * 1.1",
            )
        )

    def loop(self) -> str:
        count = self.random.randint(2, 3)
        layers = self.layer(f"nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range({count}))")
        old, new = self.old(), self.new()
        act = self.act("t")
        return self.random.choice(
            (
                f"t = {old}\nfor layer in {layers}:\n    t = layer(t)\n    t = {act}\n{new} = t",
                f"t = {old}\nfor i, layer in enumerate({layers}):\n    t = layer(t)\n    if i != 1:\n        t = {act}\n{new} = t",
                f"{new} = {old}\nfor layer in {layers}:\n    {new} = {new} + F.relu(layer({new}))",
                f"{new} = sum(self.relu(layer({old})) for layer in {layers})",
                f"kept = [{old}]\nfor layer in {layers}:\n    kept.append(F.relu(layer(kept[-1])))\n{new} = kept[-1] + kept[0]",
                f"t, i = {old}, 0\nwhile i < {count}:\n    t = self.act({layers}[i](t))\n    i += 1\n{new} = t",
                f"t = {old}\nfor layer in {layers}:\n    for part in (layer, self.relu):\n        t = part(t)\n{new} = t",
                f"t = {old}\nfor layer in {layers}:\n    t = conv_act(layer, t)\n{new} = t",
                f"{new} = {old}\nfor _ in range({count}):\n    {new} = F.relu({layers}[0]({new}))",
            )
        )

    def kinds(self) -> str:
        """A loop over activations of several kinds."""
        layers = self.layer("nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))")
        old, new = self.old(), self.new()
        acts = [
            self.random.choice(
                ("F.relu", "torch.tanh", "same", "self.relu", "self.gelu", "self.acts['c']", "torch.sigmoid")
            )
            for _ in range(3)
        ]
        names = [self.random.choice("abc") for _ in range(3)]
        return self.random.choice(
            (
                f"t = {old}\nfor layer, act in zip({layers}, [{', '.join(acts)}]):\n    t = act(layer(t))\n{new} = t",
                f"t = {old}\nfor layer, name in zip({layers}, {names}):\n    t = self.acts[name](layer(t))\n{new} = t",
                f"t = {old}\nfor i, layer in enumerate({layers}):\n    act = self.relu if i else {acts[0]}\n    t = act(layer(t))\n{new} = t",
                f"t = {old}\nfor i, layer in enumerate({layers}):\n    t = (F.relu if i < 2 else {acts[1]})(layer(t))\n{new} = t",
                f"t = {old}\nfor layer, name in zip({layers}, ('relu', 'gelu', 'relu')):\n    t = getattr(self, name)(layer(t))\n{new} = t",
            )
        )

    def branch(self) -> str:
        test = self.random.choice(
            (
                "self.training",
                "x.shape[0] > 2",
                "x.shape[-1] > 12",
                "x.sum() > 0",
                "not self.training",
                "len(self.plain) > 1",
                "torch.rand(()) < 0.5",
            )
        )
        old, new = self.old(), self.new()
        one, two = self.act(old), self.random.choice((old, self.act(f"{self.layer()}({old})")))
        return f"if {test}:\n    {new} = {one}\nelse:\n    {new} = {two}"

    def table(self) -> str:
        one, two, new = self.old(), self.old(), self.new()
        return f"d = {{'p': {self.act(one)}, 'q': {two}}}\nd['q'] = {self.act('d[%r]' % 'q')}\n{new} = d['p'] + d['q']"  # noqa: UP031

    def block(self) -> str:
        block, old = self.layer(f"Block({self.random.random() < 0.3})"), self.old()
        call = self.random.choice(
            (
                f"{block}({old})",
                f"{block}({block}({old}))",
                f"{block}({old}) + {block}({old}.flip(-1))",
                f"torch.utils.checkpoint.checkpoint({block}, {old}, use_reentrant=False)",
            )
        )
        return f"{self.new()} = {call}"

    def gate(self) -> str:
        old, layer = self.old(), self.layer("nn.Conv2d(4, 4, 1)")
        return f"g = {layer}(F.relu({old}.mean((2, 3), keepdim=True)))\n{self.new()} = {old} * g.sigmoid()"

    def pool(self) -> str:
        old = self.old()
        return f"{self.new()} = F.interpolate({self.act(f'F.max_pool2d({old}, 2)')}, size=x.shape[2:])"

    def scope(self) -> str:
        old, new = self.old(), self.new()
        return self.random.choice(
            (
                f"with torch.no_grad():\n    {new} = F.relu({self.layer()}({old}))",
                f"{new} = F.relu({old}.detach()) + {old}",
                f"{new} = F.dropout({self.act(old)}, 0.2, self.training)",
                f"{new} = F.dropout({self.act(old)}, 0.2, self.training, True)",
                f"try:\n    {new} = {self.act(old)}\nfinally:\n    pass",
            )
        )

    def write(self) -> str:
        """A read, then a write over what was read or made."""
        old, new = self.old(), self.new()
        return self.random.choice(
            (
                f"{new} = {self.layer()}({self.act(old)})\n{old} += {new}",
                f"{new} = {self.act(old)}\n{new} *= 2",
                f"{new} = {self.act(old)}\n{new}[:, 0] = 0",
                f"{new} = {self.act(old)}\n{old}.add_(1)",
                f"r = {old}\n{new} = self.quick({old}) + r",
                f"{new} = {old}.relu_().add_(0.1)",
            )
        )

    def helper(self) -> str:
        old, new, layer = self.old(), self.new(), self.layer()
        return self.random.choice(
            (
                f"{new} = conv_act({layer}, {old})",
                f"{new} = conv_act({layer}, {old}, F.gelu)",
                f"{new} = conv_act({layer}, {old}, self.relu)",
                f"{new} = activate(activate({layer}({old})) - 0.1)",
                f"step = lambda t: self.relu({layer}(t))\n{new} = step(step({old}))",
                f"def inner(t):\n    return F.relu({layer}(t))\n{new} = inner({old})",
                f"{new} = list(map(F.relu, [{old}, {layer}({old})]))[1]",
            )
        )

    def images(self) -> str:
        """Loops over the batch or as the size says; rare."""
        old, new = self.old(), self.new()
        if self.random.random() < 0.7:
            return self.plain()
        return self.random.choice(
            (
                f"{new} = torch.stack([F.relu(image) for image in {old}])",
                f"{new} = {old}\nfor _ in range(x.shape[-1] // 8):\n    {new} = F.relu({new} - 0.1)",
                f"for image in {old}:\n    image.relu_()",
            )
        )


def source_of(parts: Sequence[str], steps: Sequence[str], names: Sequence[str]) -> str:
    """The text of a program; the last variables that its statements define come out."""
    made = "".join(f"        {part}\n" for part in parts)
    body = "".join(f"        {line}\n" for step in steps for line in step.splitlines())
    last = [name for name in names if f"{name} = " in body or name == "v0"][-2:]
    total = " + ".join(last)
    return (
        f"{HEAD}{made}{MIDDLE}{body}        out = {total}\n        return self.head(out.mean((2, 3))), out\n"
    )


def load(source: str, name: str) -> ModuleType:
    """The program as a module with a file."""
    path = Path(FOLDER.name) / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def with_calls(source: str, sites: Sequence[Site]) -> str:
    """The program with `F.silu(v)` in place of each formula that is among `sites`: one call, for the oracle to answer."""
    lines = source.splitlines(keepends=True)
    taken = {(s.span.line, s.span.column, s.span.end_column) for s in sites if s.span is not None}
    for number, line in enumerate(lines, 1):
        found = []
        for formula in FORMULAS:
            first, *others = re.escape(formula).split(re.escape("{}"))
            pattern = first + r"(?P<name>\b[a-z]\w*\b)" + r"(?P=name)".join(others)
            found += [(*match.span(), match["name"]) for match in re.finditer(pattern, line)]
        for start, end, name in sorted(found, reverse=True):
            if (number, start, end) in taken:
                line = f"{line[:start]}F.silu({name}){line[end:]}"
        lines[number - 1] = line
    return "".join(lines)


class Invalid(Exception):
    """A program that does not run as it is written."""


def verdict_of(source: str, name: str, choices: Sequence[str]) -> Verdict:
    """Judge a program. Raises Invalid where the untouched one does not run."""
    make: type[nn.Module] = load(source, name).Net

    def twin(sites: Sequence[Site]) -> type[nn.Module]:
        made: type[nn.Module] = load(with_calls(source, sites), f"{name}_twin").Net
        return made

    own = Own(name, make, None, images, sizes=(8, 16), batches=(2, 3), twin_of=twin)
    try:
        for training in (False, True):
            for batch, size in ((2, 8), (3, 16)):
                Result(fresh(make).train(training), own, batch, size, 0, grad=False)
    except Exception as error:
        raise Invalid(str(error)) from error
    return judge(own, choices)


def programs(first: int, count: int) -> Iterator[tuple[int, Writer, Verdict]]:
    """The verdicts of `count` programs; seeds whose program does not run are passed over."""
    left = count
    for seed in itertools.count(first):
        if not left:
            return
        writer = Writer(seed)
        text = source_of(writer.parts, writer.steps, writer.names)
        try:
            verdict = verdict_of(text, f"program_{seed}", (CHOICES[seed % len(CHOICES)],))
        except Invalid:
            continue
        left -= 1
        yield seed, writer, verdict


def smallest(seed: int, writer: Writer, why: str) -> str:
    """The program without the statements that the fault does not need."""
    steps, number = list(writer.steps), 0
    start = why[:14]
    for index in reversed(range(len(steps))):
        fewer = steps[:index] + steps[index + 1 :]
        number += 1
        try:
            found = verdict_of(
                source_of(writer.parts, fewer, writer.names),
                f"small_{seed}_{number}",
                (CHOICES[seed % len(CHOICES)],),
            )
        except Invalid:
            continue
        if found.outcome == "wrong" and found.reasons[0][:14] == start:
            steps = fewer
    return source_of(writer.parts, steps, writer.names)[len(HEAD) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument(
        "--show", type=int, default=0, help="print the smallest form of so many wrong programs"
    )
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start, outcomes, shown = time.process_time(), Counter[str](), 0
    for seed, writer, verdict in programs(args.first, args.count):
        outcomes[verdict.outcome] += 1
        if verdict.outcome == "wrong":
            print(f"--- {seed}: {verdict.reasons[0][:300]}", flush=True)
            if shown < args.show:
                shown += 1
                print(smallest(seed, writer, verdict.reasons[0]))
    print(dict(outcomes), f"{time.process_time() - start:.0f} s CPU")


if __name__ == "__main__":
    main()
