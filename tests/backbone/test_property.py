"""Random architectures over random small CNNs, written out as source by the test itself."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from reborn_nas.architecture import Architecture, Choice
from reborn_nas.backbone import Plan, apply, convert, count, discover, plan, predict
from reborn_nas.backbone.load.factory import load_file
from reborn_nas.errors import SiteError
from tests.backbone.substitution import slopes_of, substituted

SIZE = (3, 12, 10)
FOLDER = (
    tempfile.TemporaryDirectory()
)  # removed when the tests are over; the classes need their source until then
BLOCKS = ("plain", "residual", "concat", "gate", "grouped", "loop", "pool", "twice")
STYLES = (
    "F.relu({})",
    "torch.relu({})",
    "({}).relu()",
    "self.relu({})",
    "self.act{n}({})",
    "F.relu({}, inplace=True)",
)
CHOICES = (
    "reborn",
    "reborn(kernel_size=1,deconv=depthwise)",
    "reborn(compression=none)",
    "crelu",
    "crelu(compression=none)",
    "extended_conv",
    "positive_twin",
)


class Writer:
    """Writes the source of one network, a block at a time."""

    def __init__(self, styles: Sequence[str]) -> None:
        self.styles, self.number = styles, 0
        self.parts = ["self.relu = nn.ReLU(inplace=True)"]
        self.steps: list[str] = []
        self.channels = 3

    def act(self, expression: str) -> str:
        style = self.styles[self.number % len(self.styles)]
        self.number += 1
        if "{n}" in style:
            self.parts.append(f"self.act{self.number} = nn.ReLU()")
        return style.format(expression, n=self.number)

    def conv(self, out: int, into: int | None = None, groups: int = 1, stride: int = 1) -> str:
        self.number += 1
        name = f"self.conv{self.number}"
        into = self.channels if into is None else into
        self.parts.append(
            f"{name} = nn.Sequential(nn.Conv2d({into}, {out}, 3, {stride}, 1, groups={groups}, bias=False), "
            f"nn.BatchNorm2d({out}))"
        )
        return name

    def block(self, kind: str, width: int) -> None:
        line = self.steps.append
        if kind == "pool":
            line("x = F.max_pool2d(x, 3, 2, 1)")
        elif kind == "residual":
            line(f"y = {self.act(f'{self.conv(width)}(x)')}")
            line(f"x = {self.act(f'{self.conv(self.channels, width)}(y) + x')}")
        elif kind == "concat":
            line(f"y = {self.act(f'{self.conv(width)}(x)')}")
            line(f"z = {self.act(f'{self.conv(4)}(x)')}")
            line("x = torch.cat([y, z], 1)")
            self.channels = width + 4
        elif kind == "gate":
            line(f"x = {self.act(f'{self.conv(width)}(x)')}")
            self.number += 1
            gate = f"self.gate{self.number}"
            self.parts.append(
                f"{gate} = nn.Sequential(nn.Conv2d({width}, 4, 1), nn.ReLU(), nn.Conv2d(4, {width}, 1))"
            )
            line(f"x = x * {gate}(x.mean((2, 3), keepdim=True)).sigmoid()")
            self.channels = width
        elif kind == "grouped":
            line(f"x = {self.act(f'{self.conv(width)}(x)')}")
            line(f"x = {self.act(f'{self.conv(width, width, groups=4)}(x)')}")
            line(f"x = {self.act(f'{self.conv(width, width, groups=width)}(x)')}")
            self.channels = width
        elif kind == "loop":
            first = self.conv(width)
            self.number += 1
            loop = f"self.loop{self.number}"
            self.parts.append(f"{loop} = nn.ModuleList(nn.Conv2d({width}, {width}, 1) for _ in range(3))")
            line(f"x = {first}(x)")
            line(f"for layer in {loop}:\n            x = {self.act('layer(x)')}")
            self.channels = width
        elif kind == "twice":
            line(f"x = {self.act(f'{self.conv(width)}(x)')}")
            self.number += 1
            block = f"self.block{self.number}"
            self.parts.append(f"{block} = nn.Sequential(nn.Conv2d({width}, {width}, 1), nn.ReLU(True))")
            line(f"x = {block}({block}(x))")
            self.channels = width
        else:
            line(f"x = {self.act(f'{self.conv(width)}(x)')}")
            self.channels = width

    def source(self) -> str:
        parts = "\n        ".join([*self.parts, f"self.head = nn.Linear({self.channels}, 5)"])
        steps = "\n        ".join(self.steps)
        return (
            "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
            f"    def __init__(self):\n        super().__init__()\n        {parts}\n\n"
            f"    def forward(self, x):\n        {steps}\n        return self.head(x.mean((2, 3)))\n"
        )


@st.composite
def networks(draw: Any) -> nn.Module:
    writer = Writer(draw(st.lists(st.sampled_from(STYLES), min_size=1, max_size=4)))
    for kind in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4)):
        writer.block(kind, draw(st.sampled_from((8, 12))))
    writer.block("plain", 8)
    source = writer.source()
    path = Path(FOLDER.name) / f"net_{hashlib.sha256(source.encode()).hexdigest()[:16]}.py"
    path.write_text(source)
    torch.manual_seed(draw(st.integers(0, 99)))
    model: nn.Module = load_file(path).Net()
    return model


def run(model: nn.Module) -> Any:
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))
    return model.eval()(x)


quick = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@quick
@given(networks())
def test_substitution_in_flight_and_own_originals(model: nn.Module) -> None:
    found = discover(model, SIZE)
    x = torch.randn(2, *SIZE)
    for training in (True, False):
        expected = substituted(copy.deepcopy(model).train(training), found, (x,))
        choices = {name: f"leaky_relu(negative_slope={slope})" for name, slope in slopes_of(found).items()}
        assert torch.equal(convert(model, choices, SIZE).train(training)(x), expected)
    assert torch.equal(run(convert(model, "relu", SIZE)), run(model))


@quick
@given(networks(), st.data())
def test_any_architecture_keeps_the_function_and_costs_what_was_predicted(
    model: nn.Module, data: Any
) -> None:
    found = discover(model, SIZE)
    choices: dict[str, Choice] = {}
    for site in found.sites:
        label = data.draw(st.sampled_from(("original", *CHOICES)))
        if label != "original" and site.admits(label):
            choices[site.name] = Choice.parse(label)
    architecture = Architecture("x", choices)
    try:
        steps = plan(model, architecture, SIZE, init="preserve", discovery=found)
    except SiteError as error:
        assert "together" in str(error)  # noqa: PT017 each site admits its choice, only their union may not
        return
    new = apply(model, Plan.from_json(steps.to_json()), seed=1)
    torch.testing.assert_close(run(new), run(model), rtol=1e-4, atol=1e-5)
    assert predict(model, architecture, SIZE, discovery=found) == count(new, SIZE)
    other = apply(model, steps, seed=2)
    other.load_state_dict(new.state_dict())
    assert torch.equal(run(other), run(new))
    new.train()(torch.randn(4, *SIZE)).square().sum().backward()
    original = {name for name, _ in model.named_parameters()}
    for name, parameter in new.named_parameters():
        assert parameter.grad is not None or name in original, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
