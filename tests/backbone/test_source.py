"""Backbone specs: where networks come from, the small-image stem, seeds."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from reborn_nas.architecture import BackboneSpec
from reborn_nas.backbone import build, load_factory, notes, resolve
from reborn_nas.errors import ConfigError, UnknownNameError

FILE = """
import torch.nn.functional as F
from torch import nn
from neighbour import WIDTH

class Net(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, WIDTH, 3)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, x):
        return self.head(F.relu(self.conv(x)).mean((2, 3)))

def make(num_classes=4, in_chans=3):
    return Net(num_classes, in_chans)

def fixed():
    return Net(9, 3)

def broken():
    return 3

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 6\n")
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


class TestResolve:
    def test_bare_names_are_timms(self) -> None:
        spec = resolve("resnet18")
        assert (spec.source, spec.input_size, spec.num_classes, spec.stem) == (
            "timm:resnet18",
            (3, 224, 224),
            1000,
            "original",
        )
        assert resolve(spec) == spec
        assert notes(spec) == ()

    def test_unknown_names_get_close_matches(self) -> None:
        with pytest.raises(UnknownNameError, match=r"did you mean.*resnet18"):
            resolve("resnet1")
        with pytest.raises(UnknownNameError, match=r"did you mean.*densenet121"):
            resolve("torchvision:densenet12")
        with pytest.raises(UnknownNameError, match="torchvision:googlenet"):
            resolve("googlenet")

    def test_refuses_what_does_not_run_or_build(self) -> None:
        with pytest.raises(ConfigError, match=r"does not run on images of 3×8×8.*larger"):
            resolve("torchvision:vgg11", input_size=(3, 8, 8))
        with pytest.raises(ConfigError, match="no_such_argument"):
            resolve("resnet18", arguments={"no_such_argument": 1})
        with pytest.raises(ConfigError, match="not strided"):
            resolve("torchvision:vgg11", input_size=(3, 32, 32), stem="small")

    def test_adds_the_arguments_that_a_size_needs(self) -> None:
        spec = resolve("levit_128s", input_size=(3, 64, 64), num_classes=3)
        assert spec.arguments["img_size"] == [64, 64]
        small = resolve("torchvision:inception_v3", input_size=(3, 32, 32), num_classes=3)
        assert small.arguments["aux_logits"] is False


# stem convolution, its kernel and stride, and whether the pool is gone, by hand from the papers' stems
STEMS = {
    "resnet18": ("conv1", 3, 1, "maxpool"),
    "torchvision:resnet34": ("conv1", 3, 1, "maxpool"),
    "densenet121": ("features.conv0", 3, 1, "features.pool0"),
    "torchvision:googlenet": ("conv1.conv", 3, 1, "maxpool1"),
    "torchvision:squeezenet1_1": ("features.0", 3, 1, "features.2"),
    "convnext_atto": ("stem.0", 2, 2, None),
}


class TestStem:
    @pytest.mark.parametrize("name", sorted(STEMS))
    def test_small_images_get_the_small_stem(self, name: str) -> None:
        conv, kernel, stride, pool = STEMS[name]
        spec = resolve(name, input_size=(3, 32, 32), num_classes=5)
        assert spec.stem == "small"
        (note,) = notes(spec)
        assert "stem='original'" in note
        assert "32×32" in note
        model = build(spec, seed=0)
        layer = model.get_submodule(conv)
        assert layer.kernel_size == (kernel, kernel)
        assert layer.stride == (stride, stride)
        assert pool is None or isinstance(model.get_submodule(pool), nn.Identity)
        model.eval()(torch.randn(2, 3, 32, 32)).sum().backward()

    @pytest.mark.parametrize(
        "name", ["vgg11_bn", "mobilenetv2_050", "mobilenetv3_small_050", "efficientnet_b0", "regnetx_002"]
    )
    def test_others_keep_theirs(self, name: str) -> None:
        spec = resolve(name, input_size=(3, 32, 32), num_classes=5)
        assert spec.stem == "original"
        with torch.device("meta"):
            output = build(spec, device="meta")(torch.empty(2, 3, 32, 32))
        assert output.shape == (2, 5)

    def test_a_stem_that_branches_keeps_its_own(self) -> None:
        # a pool whose output is joined with that of a strided convolution cannot go; at 96×96 the network runs
        spec = resolve("inception_v4", input_size=(3, 96, 96), num_classes=5)
        assert spec.stem == "original"
        with pytest.raises(ConfigError, match="must match"):
            resolve("inception_v4", input_size=(3, 96, 96), num_classes=5, stem="small")

    def test_the_user_decides(self) -> None:
        original = resolve("resnet18", input_size=(3, 32, 32), stem="original")
        assert build(original).conv1.kernel_size == (7, 7)
        large = resolve("resnet18", input_size=(3, 96, 96))
        assert large.stem == "original"
        assert build(resolve("resnet18", input_size=(3, 96, 96), stem="small")).conv1.kernel_size == (3, 3)

    def test_first_map_keeps_its_size_and_variance(self) -> None:
        x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        small = build(resolve("resnet18", input_size=(3, 32, 32)), seed=0).conv1(x)
        old = build(resolve("resnet18", input_size=(3, 32, 32), stem="original"), seed=0).conv1(x)
        assert small.shape[-2:] == (32, 32)
        assert float(small.detach()[..., 1:-1, 1:-1].var()) == pytest.approx(
            float(old.detach()[..., 2:-2, 2:-2].var()), rel=0.15
        )

    def test_timms_table_of_features_follows(self) -> None:
        model = build(resolve("resnet18", input_size=(3, 32, 32)))
        assert [row["reduction"] for row in model.feature_info] == [1, 1, 2, 4, 8]


class TestBuild:
    def test_a_seed_decides_and_does_not_change_the_global_generator(self) -> None:
        spec = resolve("resnet18", input_size=(3, 32, 32), num_classes=5)
        torch.manual_seed(11)
        state = torch.get_rng_state()
        one, two, three = build(spec, seed=1), build(spec, seed=1), build(spec, seed=2)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(one.conv1.weight, two.conv1.weight)
        assert not torch.equal(one.conv1.weight, three.conv1.weight)
        torch.manual_seed(1)
        assert torch.equal(build(spec).conv1.weight, one.conv1.weight)

    def test_meta_has_no_data(self) -> None:
        assert all(p.is_meta for p in build("torchvision:regnet_y_400mf", device="meta").parameters())

    @pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18"])
    def test_takes_other_channels(self, name: str) -> None:
        spec = resolve(name, input_size=(1, 28, 28), num_classes=5)
        model = build(spec, seed=0)
        assert model.conv1.in_channels == 1
        assert model.conv1.weight.std() > 0
        assert model(torch.randn(2, 1, 28, 28)).shape == (2, 5)


class TestFile:
    def test_passes_what_the_factory_takes(self, file: Path) -> None:
        spec = resolve(f"{file}:make", input_size=(1, 16, 16), num_classes=7)
        assert spec.library == "file"
        assert spec.source_digest is not None
        assert len(spec.source_digest) == 64
        assert build(spec)(torch.randn(2, 1, 16, 16)).shape == (2, 7)
        assert resolve(f"{file}:fixed", input_size=(3, 16, 16)).num_classes == 9

    def test_checks_what_it_does_not_take(self, file: Path) -> None:
        with pytest.raises(ConfigError, match="returns 9 outputs where num_classes is 7"):
            resolve(f"{file}:fixed", input_size=(3, 16, 16), num_classes=7)
        with pytest.raises(ConfigError, match="does not run on images of 1×16×16"):
            resolve(f"{file}:fixed", input_size=(1, 16, 16))
        with pytest.raises(ConfigError, match="returned int"):
            resolve(f"{file}:broken", input_size=(3, 16, 16))

    def test_refuses_with_the_way_out(self, file: Path, tmp_path: Path) -> None:
        for source, words in [
            (f"{tmp_path}/absent.py:make", "does not exist"),
            (f"{file}:number", "not a function"),
            (f"{file}", "path/to/file.py:factory"),
            (f"{file}:", "path/to/file.py:factory"),
        ]:
            with pytest.raises(ConfigError, match=words):
                resolve(source, input_size=(3, 16, 16))
        with pytest.raises(UnknownNameError, match=r"did you mean make"):
            resolve(f"{file}:mke", input_size=(3, 16, 16))
        (tmp_path / "bad.py").write_text("1/0")
        with pytest.raises(ConfigError, match="ZeroDivisionError"):
            load_factory(f"{tmp_path}/bad.py:make")

    def test_a_changed_file_is_refused(self, file: Path) -> None:
        spec = resolve(f"{file}:make", input_size=(3, 16, 16))
        file.write_text(FILE + "\n# changed\n")
        with pytest.raises(ConfigError, match="has changed"):
            build(spec)
        with pytest.raises(ConfigError, match="has changed"):
            resolve(spec)

    def test_files_of_one_name_do_not_clash(self, file: Path, tmp_path: Path) -> None:
        other = tmp_path / "other" / "net.py"
        other.parent.mkdir()
        other.write_text(FILE.replace("Net(9, 3)", "Net(8, 3)"))
        (other.parent / "neighbour.py").write_text("WIDTH = 6\n")
        sizes = [resolve(f"{f}:fixed", input_size=(3, 16, 16)).num_classes for f in (file, other, file)]
        assert sizes == [9, 8, 9]

    def test_its_networks_pickle_into_a_child_process(self, file: Path, tmp_path: Path) -> None:
        model = build(resolve(f"{file}:make", input_size=(3, 16, 16)), seed=0)
        (tmp_path / "net.pickle").write_bytes(pickle.dumps(model))
        code = (
            "import pickle, sys, reborn_nas.backbone; "
            "print(type(pickle.load(open(sys.argv[1], 'rb'))).__name__)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "net.pickle")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == "Net", done.stderr


def test_specs_are_plain_data() -> None:
    spec = resolve("resnet18", input_size=(3, 32, 32), num_classes=5)
    assert BackboneSpec.from_dict(spec.to_dict()) == spec
