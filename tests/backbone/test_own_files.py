"""Networks that span several files: what they need, under which names they run, what an export of them carries."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import reborn_nas as rn
from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.backbone import build, resolve
from reborn_nas.backbone.load.factory import PREFIX, files_of, load_factory
from reborn_nas.backbone.load.factory import load_file as load_source
from reborn_nas.errors import ConfigError, ExportError, RebornError
from reborn_nas.space import Rule

SIZE = (3, 12, 12)
LAYERS = """
from torch import nn
from .parts import act

class Block(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.conv = nn.Conv2d(into, out, 3, padding=1)

    def forward(self, x):
        return act.relu(self.conv(x)) * SCALE

SCALE = 1.0
"""
NET = """
import PACKAGE.parts.act
import torch.nn.functional as F
from torch import nn
from PACKAGE.layers import Block

class Net(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.one, self.two, self.head = Block(3, 4), Block(4, 4), nn.Linear(4, outputs)

    def forward(self, x):
        from .parts.act import relu
        return self.head(self.two(F.gelu(self.one(relu(x)))).mean((2, 3)))

def make():
    return Net(10)

def sized(num_classes=10):
    return Net(num_classes)

def headless():
    return nn.Sequential(Block(3, 4), nn.ReLU(), nn.Conv2d(4, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def by_name():
    import importlib
    importlib.import_module("PACKAGE.extra")
    return Net(10)

def reads():
    from pathlib import Path
    return Net(int((Path(__file__).parent / "outputs.txt").read_text()))
"""


def package(folder: Path, name: str, *, inits: bool = True) -> Path:
    """A package whose network needs three of its files, and not the fourth."""
    root = folder / name
    (root / "parts").mkdir(parents=True)
    (root / "layers.py").write_text(LAYERS)
    (root / "net.py").write_text(NET.replace("PACKAGE", name))
    (root / "parts" / "act.py").write_text(
        "import torch.nn.functional as F\ndef relu(x):\n    return F.relu(x)\n"
    )
    (root / "extra.py").write_text("UNUSED = 1\n")
    (root / "outputs.txt").write_text("10")
    for place in (root, root / "parts") if inits else ():
        (place / "__init__.py").write_text("")
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestNames:
    @pytest.mark.parametrize("inits", [True, False])
    def test_a_module_and_its_file_are_one_network(self, here: Path, inits: bool) -> None:
        package(here, "pack", inits=inits)
        by_module, by_file = (resolve(f"{s}:make", input_size=SIZE) for s in ("pack.net", "pack/net.py"))
        assert by_module.source_digest == by_file.source_digest
        assert set(files_of("pack.net").files) - {"pack/__init__.py", "pack/parts/__init__.py"} == {
            "pack/layers.py",
            "pack/net.py",
            "pack/parts/act.py",
        }
        model = build(by_module, seed=0)
        assert type(model).__module__ == f"{PREFIX}{by_module.source_digest[:16]}.pack.net"  # type: ignore[index]
        assert "pack" not in sys.modules
        assert [site.name for site in rn.find_sites(model, SIZE) if site.activation == "gelu"] == ["gelu@0"]

    def test_packages_of_one_name_do_not_clash(self, here: Path) -> None:
        for folder, scale in (("a", "1.0"), ("b", "3.0")):
            package(here / folder, "pack")
            (here / folder / "pack" / "layers.py").write_text(
                LAYERS.replace("SCALE = 1.0", f"SCALE = {scale}")
            )
        made = [load_factory(f"{here}/{folder}/pack/net.py:make") for folder in "ab"]
        scales = [sys.modules[f"{m.__module__.removesuffix('.net')}.layers"].SCALE for m in made]
        assert scales == [1.0, 3.0]

    def test_a_change_in_any_of_its_files_is_noticed(self, here: Path) -> None:
        root = package(here, "pack")
        spec = resolve("pack.net:make", input_size=SIZE)
        (root / "extra.py").write_text("UNUSED = 2\n")
        assert resolve("pack.net:make", input_size=SIZE).source_digest == spec.source_digest
        (root / "parts" / "act.py").write_text("import torch\nrelu = torch.relu\n")
        with pytest.raises(ConfigError, match=r"has changed.*restore pack/__init__.py, pack/layers.py"):
            build(spec)
        assert resolve("pack.net:make", input_size=SIZE).source_digest != spec.source_digest

    def test_a_digest_of_only_the_file_is_still_accepted(self, here: Path) -> None:
        (here / "neighbour.py").write_text("WIDTH = 4\n")
        (here / "net.py").write_text("import neighbour\ndef make():\n    return neighbour.WIDTH\n")
        alone = subprocess.run(["sha256sum", "net.py"], capture_output=True, text=True, check=True).stdout[
            :64
        ]
        assert load_source("net.py", digest=alone).__name__ == PREFIX + alone[:16]
        assert load_factory("net.py:make", digest=alone)() == 4

    def test_its_own_files_win_over_installed_ones_and_the_standard_library_over_both(
        self, here: Path
    ) -> None:
        (here / "yaml.py").write_text("MINE = True\n")
        (here / "json.py").write_text("MINE = True\n")
        (here / "net.py").write_text("import json, yaml\nmake = lambda: (hasattr(json, 'MINE'), yaml.MINE)\n")
        assert load_factory("net.py:make")() == (False, True)

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("no_such_package.net:make", "for the module 'no_such_package.net'"),
            ("pack.absent:make", "for the module 'pack.absent'"),
            ("pack.net:mke", "did you mean make"),
            ("torchvison:resnet18", "torchvision:NAME"),
            ("pack net:make", "package.module:factory"),
            ("_struct:make", "compiled|no Python file is found"),
        ],
    )
    def test_refusals_say_the_way_out(self, here: Path, source: str, words: str) -> None:
        package(here, "pack")
        with pytest.raises(RebornError, match=words):
            resolve(source, input_size=SIZE)


def export(source: str, out: Path) -> Path:
    """An export of a network with a reborn block at one site."""
    spec = resolve(source, input_size=SIZE, num_classes=10)
    sites = rn.find_sites(build(spec, device="meta"), SIZE)
    site = next(site for site in sites if site.admits("reborn"))  # not those inside of helper functions
    return Path(rn.export(Architecture(spec, {site.name: "reborn"}), out))


LOAD = """
import json, sys, torch, timm, reborn_nas
from safetensors.torch import load_file
folder, asked = sys.argv[1], json.loads(sys.argv[2])
model = timm.create_model(f"local-dir:{folder}", pretrained=True, trust_source=True, **asked).eval()
example = load_file(folder + "/example.safetensors")
with torch.no_grad():
    out = model(example["input"])
same = out.shape == example["logits"].shape and torch.allclose(out, example["logits"], atol=1e-5)
print(json.dumps({"shape": list(out.shape), "same": bool(same), "module": type(model.body).__module__}))
"""


def loaded(folder: Path, **asked: object) -> dict[str, object]:
    """What a fresh process, started elsewhere, finds in an export."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder.parent,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


class TestExport:
    @pytest.mark.slow
    @pytest.mark.parametrize("inits", [True, False])
    def test_carries_every_file_and_needs_no_other(self, here: Path, inits: bool) -> None:
        (here / "away").mkdir()
        package(here, "pack", inits=inits)
        folder = export("pack.net:make", here / "away" / "out")
        shutil.rmtree(here / "pack")
        assert not (folder / "pack" / "extra.py").exists()
        assert not list(folder.rglob("__pycache__"))
        found = loaded(folder)
        assert found["same"]
        assert str(found["module"]).endswith(".pack.net")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("factory", "words"), [("by_name", "No module named 'pack'"), ("reads", "outputs.txt")]
    )
    def test_refuses_where_the_files_are_not_enough(self, here: Path, factory: str, words: str) -> None:
        package(here, "pack")
        sys.path.insert(0, str(here))
        try:
            with pytest.raises(ExportError, match=f"(?s){words}.*one file"):
                export(f"pack.net:{factory}", here / "out")
        finally:
            sys.path.remove(str(here))
            for name in [name for name in sys.modules if name.split(".")[0] == "pack"]:
                del sys.modules[name]
        assert not (here / "out").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("factory", ["make", "sized"])
    def test_num_classes_is_kept_or_replaced(self, here: Path, factory: str) -> None:
        package(here, "pack")
        folder = export(f"pack.net:{factory}", here / "out")
        for pretrained in (False, True):
            model = timm.create_model(f"local-dir:{folder}", pretrained, num_classes=3, trust_source=True)
            assert model(torch.randn(2, *SIZE)).shape == (2, 3)
            assert (model.num_classes, model.get_classifier().out_features) == (3, 3)
        weights = load_file(folder / "model.safetensors")
        assert torch.equal(model.state_dict()["body.two.conv.weight"], weights["body.two.conv.weight"])

    @pytest.mark.slow
    def test_num_classes_is_refused_where_no_layer_can_be_replaced(self, here: Path) -> None:
        package(here, "pack")
        folder = export("pack.net:headless", here / "out")
        with pytest.raises(RebornError, match=r"10 outputs, for any num_classes.*reset_classifier\(3\)"):
            timm.create_model(f"local-dir:{folder}", num_classes=3, trust_source=True)
        model = timm.create_model(f"local-dir:{folder}", trust_source=True)
        model.reset_classifier(3)
        assert model(torch.randn(2, *SIZE)).shape == (2, 3)

    def test_a_stored_path_cannot_leave_the_folder(self, here: Path) -> None:
        from reborn_nas.backbone.load.factory import source_beside

        (here / "out").mkdir()
        (here / "secret.py").write_text("")
        for given in ("../secret.py:make", f"{here}/secret.py:make"):
            assert source_beside(here / "out", given) == f"{here}/out/secret.py:make"


BAD = """
import os
import random
import sys
import tempfile
import time
import numpy
import torch
from torch import nn
from torch.nn import functional as F

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def end(self, x):
        return self.head(F.relu(self.conv(x)).mean((2, 3)))

class Gpu(Base):
    def forward(self, x):
        return self.end(x + torch.zeros(1, device="cuda:77"))

class Exits(Base):
    def forward(self, x):
        sys.exit(7)

class Reads(Base):
    def forward(self, x):
        return self.end(x) / (1 + x.abs().max().item())

class Nothing(nn.Module):
    def forward(self, x):
        return F.relu(x).mean((2, 3))

class Noisy(Base):
    def forward(self, x):
        print("noise")
        return self.end(x)

class Meddles(Base):  # when it is made, and whenever it runs
    def __init__(self):
        super().__init__()
        self.meddle()

    def meddle(self):
        os.chdir("/")
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(2)
        torch.manual_seed(1)
        random.seed(1)
        numpy.random.seed(1)

    def forward(self, x):
        y = self.end(x)
        self.meddle()
        return y

class Writes(Base):
    def forward(self, x):
        with tempfile.TemporaryFile("w") as stream:
            stream.write(str(x.shape))
        return self.end(x)

class Late(Base):
    def forward(self, x):
        time.sleep(0.01)
        return self.end(x)

def raises():
    raise ValueError("no luck")

def exits():
    sys.exit(3)

def none():
    return None

def kind():
    return Base

def wants(width):
    return Base()
"""


def process() -> list[Any]:
    """What a network's code could change of the process."""
    torch_numbers = torch.get_rng_state().tolist()
    others = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    defaults = torch.get_default_dtype(), str(torch.get_default_device()), torch.is_grad_enabled()
    return [Path.cwd(), torch.get_num_threads(), torch_numbers, *others, *defaults]


class TestBadInput:
    @pytest.mark.parametrize(
        ("factory", "words"),
        [
            ("Gpu", "requires a GPU"),
            ("Exits", r"ends the program \(exit code 7\).*the network must run first"),
            ("Nothing", "no parameters"),
            ("Base", "forward.*the network must run first"),
            ("raises", "ValueError: no luck"),
            ("exits", r"ends the program \(exit code 3\)"),
            ("none", "returned NoneType, not a network"),
            ("kind", "returned the class Base"),
            ("wants", "width.*--model-arg"),
        ],
    )
    def test_is_refused_in_one_true_line(self, here: Path, factory: str, words: str) -> None:
        (here / "bad.py").write_text(BAD)
        with pytest.raises(ConfigError, match=words) as caught:
            resolve(f"bad.py:{factory}", input_size=SIZE)
        assert "\n" not in str(caught.value)
        assert sorted(path.name for path in here.iterdir()) == ["bad.py"]

    @pytest.mark.parametrize(
        ("size", "words"),
        [
            ((1, 12, 12), "channels.*give its factory an argument in_chans"),
            ((3, 2, 2), "Kernel size.*larger images"),
        ],
    )
    def test_images_that_do_not_fit(self, here: Path, size: tuple[int, int, int], words: str) -> None:
        (here / "bad.py").write_text(BAD)
        with pytest.raises(ConfigError, match=words):
            resolve("bad.py:Late", input_size=size)

    @pytest.mark.parametrize("factory", ["Meddles", "Writes", "Late"])
    def test_nothing_is_left_behind(self, here: Path, factory: str) -> None:
        (here / "bad.py").write_text(BAD)
        before = process()
        spec = resolve(f"bad.py:{factory}", input_size=SIZE)
        template = build(spec, device="meta")
        found = rn.backbone.discover(template, SIZE)
        assert [site.name for site in found.sites if site.admits("reborn")] == ["relu@0"]
        assert process() == before
        model = build(spec, seed=0)
        new = rn.convert(model, "reborn", SIZE, seed=0)
        assert process() == before
        assert sum(type(module).__name__ == "Reborn" for module in new.modules()) == 1

    def test_a_forward_that_reads_numbers_runs_on_the_cpu(self, here: Path) -> None:
        (here / "bad.py").write_text(BAD)
        assert resolve("bad.py:Reads", input_size=SIZE) == BackboneSpec(
            "bad.py:Reads", {}, SIZE, 5, "original", files_of("bad.py").digest
        )

    def test_sites_prints_what_it_should_and_nothing_else(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from reborn_nas.cli.main import main

        (here / "bad.py").write_text(BAD)
        assert main(["sites", "--backbone", "bad.py:Noisy", "--input-size", "3x12x12", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert [row["name"] for row in shown["sites"]] == ["relu@0"]
        assert shown["backbone"]["num_classes"] == 5
        assert main(["sites", "--backbone", "vit_tiny_patch16_224", "--input-size", "3x32x32"]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert "no feature maps" in line
        assert "choose a CNN" in line


class Odd(torch.nn.Module):
    """Names that only `add_module` and `ModuleDict` allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.add_module("generalized layers0", torch.nn.ReLU())
        self.acts = torch.nn.ModuleDict(
            {name: torch.nn.ReLU() for name in ("after stem", "[x]*", "a@b", "né")}
        )
        self.add_module("used twice", torch.nn.ReLU())
        self.add_module("used_twice", torch.nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._modules["generalized layers0"](self.conv(x))
        for act in self.acts.values():
            x = act(x - 0.1)
        spaced = self._modules["used twice"]
        x = spaced(spaced(x - 0.1) - 0.1)
        return self.used_twice(self.used_twice(x - 0.1) - 0.1)


def test_what_is_listed_can_be_named() -> None:
    model = Odd()
    sites = rn.find_sites(model, SIZE)
    names = [site.name for site in sites]
    assert names[:5] == ["generalized layers0", "acts.after stem", "acts.[x]*", "acts.a@b", "acts.né"]
    again = Architecture.from_json(Architecture("resnet18", dict.fromkeys(names, "gelu")).to_json())
    assert list(again.choices) == names
    for name in names[:5]:
        new = rn.convert(model, {name: "gelu"}, SIZE)
        assert isinstance(new.get_submodule(name), torch.nn.GELU)
    both = rn.convert(
        model, {name: f"leaky_relu(negative_slope=0.{1 + k})" for k, name in enumerate(names[5:])}, SIZE
    )
    assert sorted(m.negative_slope for m in both.modules() if isinstance(m, torch.nn.LeakyReLU)) == [
        0.1,
        0.2,
        0.3,
        0.4,
    ]
    space = rn.load_space("paper")
    for site in sites:
        rule = Rule(sites=(site.name,))
        assert [other.name for other in sites if rule.matches(other)] == [site.name]
        replace(space, rules=(rule,)).check(sites)
