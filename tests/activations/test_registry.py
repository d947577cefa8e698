"""The registry: completing choices, refusing what is wrong, and finding what other distributions offer."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from reborn_nas.activations import (
    ActivationFamily,
    Option,
    base,
    build_activation,
    complete,
    family_names,
    get_family,
    register,
    registry_rows,
)
from reborn_nas.architecture import ORIGINAL, Choice
from reborn_nas.errors import ConfigError, SiteError, UnknownNameError


class Toy:
    """A family as a third party writes it, with nothing of ours."""

    def __init__(self, name: str = "toy", aliases: tuple[str, ...] = ()) -> None:
        self.name, self.aliases = name, aliases
        self.summary = "x·scale"
        self.options = {"scale": Option(2.0)}

    def channel_factor(self, **options: Any) -> int:
        return 1

    def layouts(self, **options: Any) -> frozenset[str]:
        return frozenset({"nchw"})

    def build(self, channels: int, **options: Any) -> nn.Module:
        module = nn.Identity()
        module.channels = module.out_channels = channels
        module.scale = options["scale"]
        return module


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    family_names()  # plugins, if any, are in
    monkeypatch.setattr(base, "_families", dict(base._families))
    monkeypatch.setattr(base, "_names", dict(base._names))
    monkeypatch.setattr(base, "_broken", {})


def test_completing_fills_every_default() -> None:
    assert complete(Choice("reborn")) == Choice(
        "reborn", kernel_size=3, compression="1x1", deconv="dense", positive="relu"
    )
    assert complete("reborn(kernel_size=5)").options["kernel_size"] == 5
    assert complete(Choice("leaky_relu")) == Choice("leaky_relu", negative_slope=0.01)
    assert complete(Choice("crelu")).label == "crelu(compression=1x1)"
    assert complete(Choice("relu")) == Choice("relu")
    assert complete(ORIGINAL) == ORIGINAL


def test_equal_meanings_become_equal_choices() -> None:
    assert complete(Choice("reborn", kernel_size=3.0)).label == complete(Choice("reborn")).label
    assert complete(Choice("leaky_relu", negative_slope=0)).label == "leaky_relu(negative_slope=0.0)"
    assert complete(Choice("swish")) == Choice("silu")
    assert get_family("swish") is get_family("silu")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("reborn(kernel_size=4)", ["reborn", "kernel_size", "1, 3, 5", "4"]),
        ("reborn(kernel_size=true)", ["kernel_size", "True"]),
        ('reborn(kernel_size="3")', ["kernel_size", "'3'"]),
        ("reborn(kernelsize=3)", ["kernelsize", "did you mean 'kernel_size'"]),
        ("reborn(kernel_size=2,compression=2x2)", ["kernel_size", "compression", "'2x2'", "1x1, 3x3, none"]),
        ("relu(slope=1)", ["relu", "slope", "known: none"]),
        ("leaky_relu(negative_slope=-1)", ["negative_slope", "[0, 1]"]),
        ("leaky_relu(negative_slope=NaN)", ["negative_slope", "finite"]),
        ("leaky_relu(negative_slope=much)", ["negative_slope", "finite"]),
        ("original(kernel_size=3)", ["original", "no options"]),
    ],
)
def test_a_wrong_option_is_refused_with_the_rule_and_the_way_out(label: str, words: list[str]) -> None:
    with pytest.raises(SiteError) as caught:
        complete(label)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_name_comes_with_close_matches() -> None:
    with pytest.raises(UnknownNameError, match="'rebron'; did you mean reborn"):
        complete(Choice("rebron"))
    with pytest.raises(KeyError):
        get_family("nothing_like_it")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"channels": 0}, "channels"),
        ({"channels": 2.0}, "channels"),
        ({"channels": True}, "channels"),
        ({"channels": 4, "layout": "nlc"}, "nc, ncdhw, nchw, ncl, ndhwc, nhwc"),
        ({"channels": 4, "init": "zeros"}, "xavier, preserve"),
        ({"channels": 4, "kernel_size": 2}, "kernel_size"),
    ],
)
def test_building_refuses_what_the_family_cannot_take(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(SiteError, match=word):
        build_activation("reborn", **arguments)


def test_building_takes_names_labels_and_choices() -> None:
    for name in ("reborn", "reborn(kernel_size=5)", Choice("reborn", kernel_size=5)):
        block = build_activation(name, 4, kernel_size=5)
        assert tuple(block.deconv.weight.shape) == (4, 4, 5, 5)
    with pytest.raises(SiteError, match="original"):
        build_activation("original", 4)


@pytest.mark.parametrize(
    "family", [Toy("relu"), Toy("toy", ("swish",)), Toy("original"), Toy("toy", ("toy",)), Toy("reborn")]
)
def test_taken_names_are_refused(family: Toy) -> None:
    names = family_names()
    with pytest.raises(ConfigError, match="taken"):
        register(family)
    assert family_names() == names


def test_what_is_no_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks name"):
        register(object())  # type: ignore[arg-type]
    broken = Toy("toy")
    broken.build = None  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="lacks build"):
        register(broken)
    with pytest.raises(SiteError, match="identifier"):
        register(Toy("no name"))


def test_a_registered_family_is_like_our_own() -> None:
    toy = Toy("toy", ("plaything",))
    assert isinstance(toy, ActivationFamily)
    register(toy)
    assert family_names()[-1] == "toy"
    assert complete("plaything(scale=3)") == Choice("toy", scale=3.0)
    assert build_activation("toy", 4).scale == 2.0
    assert [row["options"] for row in registry_rows() if row["name"] == "toy"] == ["scale: -inf … inf, 2.0*"]


def test_rows_tell_the_defaults() -> None:
    rows = {row["name"]: row for row in registry_rows()}
    assert list(rows) == list(family_names())
    assert "kernel_size: 1 3* 5" in rows["reborn"]["options"]
    assert rows["silu"]["aliases"] == "swish"
    assert all(row["summary"] and row["layouts"] for row in rows.values())


FAMILY = """
import torch
from torch import nn
from reborn_nas.activations import Option

class Sine(nn.Module):
    def __init__(self, channels, omega):
        super().__init__()
        self.channels = self.out_channels = channels
        self.omega = omega
    def forward(self, x):
        return torch.sin(self.omega * x)

class SineFamily:
    name, summary, aliases = "sine", "sin(omega x)", ("sin",)
    options = {"omega": Option(1.0, low=0.0)}
    def channel_factor(self, **options): return 1
    def layouts(self, **options): return frozenset({"nchw", "nhwc", "nc", "nlc"})
    def build(self, channels, *, layout="nchw", original=None, init="xavier", omega=1.0):
        return Sine(channels, omega)

FAMILY = SineFamily()
def make(): return SineFamily()
"""


def distribution(folder: Path, name: str, entry_points: str, source: str) -> None:
    """What pip leaves behind for a distribution `name` with one module."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[reborn_nas.activations]\n{entry_points}\n")


def test_other_distributions_add_activations_and_a_broken_one_is_skipped(tmp_path: Path) -> None:
    """A class, an instance and a factory, in a fresh interpreter that finds them as it would installed ones."""
    for name, target in (("sine", "SineFamily"), ("wave", "FAMILY"), ("swing", "make")):
        source = FAMILY.replace('"sine"', repr(name)).replace('"sin"', f'"{name}_alias"')
        distribution(tmp_path, f"toy{name}", f"{name} = toy{name}:{target}", source)
    distribution(tmp_path, "toybroken", "bad = toybroken:FAMILY", "raise RuntimeError('out of order')")
    code = """
        import math, torch
        from reborn_nas.activations import build_activation, complete, extra_cost, family_names, get_family
        assert not any(name.startswith("toy") for name in sys.modules)
        assert complete("sine_alias(omega=2)").label == "sine(omega=2.0)"
        assert family_names()[-3:] == ("sine", "swing", "wave")
        assert len(set(family_names())) == len(family_names())
        for name in ("sine", "swing", "wave"):
            y = build_activation(name, 3, omega=2.0)(torch.full((1, 3, 2, 2), math.pi / 4))
            assert torch.allclose(y, torch.ones_like(y)) and extra_cost(name, 3, (3, 2, 2)) == (0, 0)
        try:
            get_family("bad")
        except KeyError as error:
            print(error)
    """
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=1800)
    assert "toybroken:FAMILY could not be loaded: RuntimeError: out of order" in done.stdout, done.stderr
    assert done.stderr.count("activation entry point 'bad'") == 1


def test_a_distribution_that_takes_a_name_is_refused_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", f"{__name__}:Toy.impostor", base.GROUP)
    monkeypatch.setattr(Toy, "impostor", staticmethod(lambda: Toy("reborn")), raising=False)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Toy.impostor)
    monkeypatch.setattr(base, "entry_points", lambda group: [point])
    monkeypatch.setattr(base, "_plugins_loaded", False)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"Toy: the name 'reborn' is taken by reborn_nas.*Family"):
            family_names()


def test_only_listing_or_an_unknown_name_reads_the_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(base, "entry_points", lambda group: reads.append(group) or [])
    monkeypatch.setattr(base, "_plugins_loaded", False)
    complete("reborn")
    build_activation("crelu", 2)
    assert reads == []
    for _ in range(2):
        family_names()
        with pytest.raises(UnknownNameError):
            get_family("nothing")
    assert reads == ["reborn_nas.activations"]
