"""Rewritten forwards: the text that comes out, what keeps working, what is refused."""

from __future__ import annotations

import inspect
import sys
import traceback
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from reborn_nas.architecture import Architecture
from reborn_nas.backbone import Plan, apply, convert, discover, plan
from reborn_nas.backbone.forward.rewrite import Rewrite
from reborn_nas.backbone.load.factory import load_file
from reborn_nas.backbone.replace.plan import OwnerRewrite
from reborn_nas.errors import ConversionError, SiteError
from tests.backbone import zoo

SIZE = (3, 16, 16)


def forward_of(model: nn.Module, method: str = "forward") -> str:
    return inspect.getsource(getattr(type(model), method))


class TestText:
    def test_only_the_calls_change(self) -> None:
        new = convert(zoo.Helper(), "relu", SIZE)
        expected = '''    def _features(self, x: Tensor) -> Tensor:
        """Both convolutions."""
        x = self.leaky_relu_at0(self.conv1(x))
        return self.elu_at0(
            self.conv2(x)

        )
'''
        found = forward_of(new, "_features")
        assert "".join(found.split()) == "".join(expected.split())
        assert found.count("\n") == inspect.getsource(zoo.Helper._features).count("\n")
        assert type(new).forward is zoo.Helper.forward

    def test_a_single_site(self) -> None:
        text = forward_of(convert(zoo.OneRelu(), {"relu@1": "gelu"}, SIZE))
        assert text.count("self.relu(") == 2
        assert "y = self.relu_at1(self.bn2(self.conv2(x)))" in text

    def test_loops_walk_a_list(self) -> None:
        text = forward_of(convert(zoo.Loop(), "gelu", SIZE))
        assert "for (conv), act_at0 in zip(self.convs, self.act_at0):" in text
        assert "x = x + act_at0(conv(x))" in text
        text = forward_of(convert(zoo.UnevenLoop(), "gelu", SIZE))
        assert "act_at0 = iter(self.act_at0)" in text
        assert "x = next(act_at0)(x)" in text

    def test_a_loop_keeps_the_original_in_its_other_turns(self) -> None:
        new = convert(zoo.Loop(), {"act@1": "gelu"}, SIZE)
        assert [type(m).__name__ for m in new.act_at0] == ["ReLU", "GELU", "ReLU"]

    def test_tracebacks_show_the_edited_line(self) -> None:
        new = convert(zoo.Functional(), "gelu", SIZE)
        try:
            new(torch.zeros(1, 4, 16, 16))
        except RuntimeError:
            text = traceback.format_exc()
        line = inspect.getsourcelines(zoo.Functional.forward)[1] + 1
        assert f"line {line}, in forward" in text
        assert "x = self.relu_at0(self.bn1(self.conv1(x)))" in text

    def test_classes_are_made_once(self) -> None:
        first, second = (convert(zoo.Functional(), "gelu", SIZE) for _ in range(2))
        assert type(first) is type(second)
        assert type(first) is not type(convert(zoo.Functional(), {"relu@0": "gelu"}, SIZE))
        assert isinstance(first, zoo.Functional)
        assert type(first).__name__ == "Functional"
        assert type(first).__module__ == zoo.__name__

    def test_globals_of_the_module_stay_live(self, monkeypatch: pytest.MonkeyPatch) -> None:
        new = convert(zoo.Methods(), {"silu@0": "gelu"}, SIZE)
        monkeypatch.setattr(zoo, "bare_relu", lambda x: x * 0)
        new.eval()
        assert torch.equal(new(torch.randn(1, *SIZE)), new(torch.randn(1, *SIZE)))

    def test_attributes_avoid_what_is_there(self) -> None:
        model = zoo.Functional()
        model.relu_at0 = nn.Identity()
        new = convert(model, "gelu", SIZE)
        assert isinstance(new.relu_at0, nn.Identity)
        assert isinstance(new.relu_at0_, nn.Module)


class TestRefusals:
    def changed(self, steps: Plan, **changes: Any) -> Plan:
        (entry,) = steps.rewrites
        change = entry.change
        assert isinstance(change, Rewrite)
        return replace(steps, rewrites=(OwnerRewrite(entry.owner, entry.cls, replace(change, **changes)),))

    def test_a_source_that_changed(self) -> None:
        steps = plan(zoo.Functional(), Architecture("x", {"relu@0": "gelu"}), SIZE)
        with pytest.raises(ConversionError, match="source has changed"):
            apply(zoo.Functional(), self.changed(steps, digest="0" * 16))

    def test_another_class(self) -> None:
        steps = plan(zoo.Functional(), Architecture("x", {"relu@0": "gelu"}), SIZE)
        with pytest.raises(ConversionError, match=r"Functional.*Residual"):
            apply(zoo.Residual(), steps)

    def test_a_file_that_changed_between_plan_and_apply(self, tmp_path: Path) -> None:
        text = (
            "import torch.nn.functional as F\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.conv = nn.Conv2d(3, 4, 1)\n\n"
            "    def forward(self, x):\n        return F.relu(self.conv(x))\n"
        )
        path = tmp_path / "net.py"
        path.write_text(text)
        steps = plan(load_file(path).Net(), Architecture("x", {"relu@0": "gelu"}), SIZE)
        moved = tmp_path / "moved.py"
        moved.write_text("# a line that moves the class\n" + text)
        other = load_file(moved).Net()
        entry = steps.rewrites[0]
        name = f"{type(other).__module__}:Net"
        assert isinstance(entry.change, Rewrite)
        edits = tuple(replace(edit, holder=name) for edit in entry.change.edits)
        with pytest.raises(ConversionError, match="source has changed"):  # the digest holds the class's home
            apply(other, self.changed(replace(steps, rewrites=(replace(entry, cls=name),)), edits=edits))

    def test_a_forward_of_the_instance(self) -> None:
        model = zoo.Functional()
        model.forward = types.MethodType(zoo.Functional.forward, model)  # type: ignore[method-assign]
        with pytest.raises((ConversionError, SiteError)):
            convert(model, {"relu@0": "gelu"}, SIZE)


SOURCE = """
import torch.nn.functional as F
from tests.backbone.zoo import Base

class Straight(Base):
    def forward(self, x):
        return self.pool(F.relu(self.conv1(x), inplace=True))
"""


class Stepwise(zoo.Base):
    """One line that runs twice after different layers, without a loop around it."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU()

    def step(self, x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
        return self.act(conv(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.step(self.step(x, self.conv1), self.conv2))


class TestNoSource:
    @pytest.fixture
    def typed(self) -> Iterator[types.ModuleType]:
        """Classes without a source, as typed into a plain interpreter."""
        module = types.ModuleType("typed_in")
        sys.modules["typed_in"] = module
        exec(compile(SOURCE, "<stdin>", "exec"), module.__dict__)
        yield module
        del sys.modules["typed_in"]

    def test_a_class_without_source(self, typed: types.ModuleType) -> None:
        with pytest.raises(SiteError, match=r"typed_in:Straight.*define the class in a file"):
            convert(typed.Straight(), {"relu@0": "gelu"}, SIZE)

    def test_a_module_without_its_file_elsewhere_does_not_hide_a_source(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As where a package had an `__init__.py` once and is a namespace now."""
        gone = types.ModuleType("gone")
        gone.__file__ = __file__
        monkeypatch.setitem(sys.modules, "gone", gone)
        inspect.getmodule(compile("", "nowhere.py", "exec"))  # reads the modules' files
        gone.__file__ = None
        (tmp_path / "net.py").write_text(
            "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x.relu()\n"
        )
        converted = convert(load_file(tmp_path / "net.py").Net(), "silu", input_size=SIZE)
        assert converted(torch.full((1, *SIZE), -1.0)).max() < 0

    def test_a_line_that_runs_twice(self) -> None:
        with pytest.raises(SiteError, match=r"Stepwise.*several times.*its own activation"):
            convert(Stepwise(), {"act@0": "gelu"}, SIZE)

    def test_a_damaged_plan(self) -> None:
        text = plan(zoo.Functional(), Architecture("x", {"relu@0": "gelu"}), SIZE).to_json()
        good, bad = '"relu_at0"', '"relu(x); import os; self.relu"'
        assert good in text
        with pytest.raises(ConversionError, match="not a conversion plan"):
            Plan.from_json(text.replace(good, bad))

    def test_a_plan_of_an_older_version_that_followed_forwards(self) -> None:
        steps = plan(zoo.Functional(), Architecture("x", {"relu@0": "gelu"}), SIZE).to_dict()
        (entry,) = steps["rewrites"]
        del entry["rewrite"]
        entry["unroll"] = {"swaps": [["relu", "relu_at0"]], "digest": "0" * 16}
        with pytest.raises(ConversionError, match=r"Functional.*torch\.fx.*make a new plan"):
            Plan.from_dict(steps)


class TestFeatures:
    """timm's networks that show features behind an activation written beside the forward."""

    @pytest.mark.parametrize(
        "name",
        [
            "legacy_xception",
            pytest.param("nasnetalarge", marks=pytest.mark.slow),
            pytest.param("pnasnet5large", marks=pytest.mark.slow),
        ],
    )
    def test_features_are_those_of_the_forward(self, name: str) -> None:
        model = timm.create_model(name, num_classes=3).eval()
        paths = [entry["module"] for entry in model.feature_info]
        choices = {path: f"leaky_relu(negative_slope={0.1 + i / 10})" for i, path in enumerate(paths[1:])}
        steps = plan(model, Architecture("x", choices), (3, 96, 96))
        new = apply(model, Plan.from_json(steps.to_json()))
        x, seen = torch.randn(1, 3, 96, 96), {}
        for path in paths:
            module = new.get_submodule(path)
            module.register_forward_hook(lambda m, given, made, path=path: seen.__setitem__(path, made))
        with torch.no_grad():
            new(x)
            expected = [seen[path].clone() for path in paths]
            found = new.forward_intermediates(x, intermediates_only=True)
            last, _ = new.forward_intermediates(x, indices=[2], stop_early=True)
            before = model.forward_intermediates(x, intermediates_only=True)
        assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * 5
        assert torch.equal(last, expected[2])
        assert bool((found[2] < 0).any())
        assert not bool((before[2] < 0).any())
        assert isinstance(new, type(model))

    def test_others_keep_theirs(self) -> None:
        model = timm.create_model("legacy_xception", num_classes=3)
        assert plan(model, Architecture("x", {"act1": "gelu"}), (3, 96, 96)).rewrites == ()


class Dropped(zoo.Base):
    """An in-place module whose result is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.other = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        self.act(x)
        return self.pool(self.other(self.conv2(x)))


class Renamed(zoo.Base):
    """The input of an in-place activation is read again under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(x)
        kept = y
        y = self.conv2(self.act(y))
        return self.pool(y + kept)


class TestInPlace:
    @pytest.mark.parametrize("make", [Dropped, Renamed])
    def test_what_the_network_reads_elsewhere_is_written_there(self, make: Any) -> None:
        model = make()
        x = torch.randn(2, *SIZE)
        y = F.leaky_relu(model.conv1(x), 0.3)
        want = model.pool(model.other(model.conv2(y)) if make is Dropped else model.conv2(y) + y)
        new = convert(model, {"act": "leaky_relu(negative_slope=0.3)"}, SIZE)
        torch.testing.assert_close(new(x), want)
        new.train()(x).sum().backward()
        assert new.conv1.weight.grad is not None

    def test_what_is_written_back_keeps_its_channels(self) -> None:
        site = next(site for site in discover(Dropped(), SIZE).sites if site.name == "act")
        assert site.admits("reborn")
        assert "under another name" in (site.refusal("crelu(compression=none)") or "")

    def test_sound_networks_lose_nothing(self) -> None:
        for make, _ in zoo.SITES.values():
            found = discover(make(), SIZE)
            assert dict(found.proof.faults) == {}
            assert len(found.proof.proved) == sum(site.admits("relu") for site in found.sites)
