"""Feature maps at the sites, against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reborn_nas.activations import build_activation
from reborn_nas.activations.reborn import Reborn
from reborn_nas.errors import SiteError, StudyError
from reborn_nas.records import TrialRecord
from reborn_nas.report import RunView, build_report
from reborn_nas.report.probe import At, paths, pictures, probed, see, watch
from tests.report import fabricate


class _Functional(nn.Module):
    """Adds a constant, then two functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.head = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(x))
        x = F.relu(x - 1)
        return self.head(x.mean((2, 3)))


def _parent() -> nn.Sequential:
    return nn.Sequential(nn.ReLU(inplace=True))


def test_shares_by_hand() -> None:
    images = torch.tensor([3.0, -4.0, -1.0, -1.0]).view(1, 2, 1, 2)
    (row,) = see(_parent(), None, images, [At("act", "0")])
    assert row.lost_energy == pytest.approx((16 + 1 + 1) / (9 + 16 + 1 + 1))
    assert row.dead_channels == 0.5
    assert math.isnan(row.negative_share)


def test_a_channel_that_fires_in_any_batch_is_alive() -> None:
    images = torch.full((3, 1, 2, 2), -1.0)
    images[1, 0, 0, 0] = 1.0
    (row,) = see(_parent(), None, images, [At("act", "0")], batch_size=1)
    assert row.dead_channels == 0.0
    assert len(row.panels) == 2


@pytest.mark.parametrize("compression", ["1x1", "3x3", "none"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_the_two_paths_add_up_to_the_block(compression: str, layout: str) -> None:
    block = build_activation("reborn", 4, layout=layout, compression=compression, kernel_size=3)
    assert isinstance(block, Reborn)
    torch.manual_seed(0)
    shape = (2, 4, 5, 5) if layout == "nchw" else (2, 5, 5, 4)
    x = torch.randn(shape)
    block(x)  # running statistics that are not those of a fresh norm
    block.eval()
    with torch.no_grad():
        first, second = paths(block, x)
        whole = block(x) if layout == "nchw" else block(x).permute(0, 3, 1, 2)
    torch.testing.assert_close(first + second, whole)


def test_a_preserving_start_owes_nothing_to_its_negative_path() -> None:
    block = build_activation("reborn", 3, init="preserve")
    images = torch.randn(4, 3, 6, 6)
    (row,) = see(
        _parent(),
        nn.Sequential(block),
        images,
        [At("act", "0")],
        [At("act", "0")],
        thumbnails=images.mul(50).clamp(0, 255).byte(),
    )
    assert row.negative_share == 0.0
    panel = row.panels[0]
    assert [len(maps) for maps in (panel.original, panel.discarded, panel.reborn, panel.negative)] == [
        3,
        3,
        3,
        3,
    ]
    assert panel.image[:4] == b"\x89PNG"


def test_models_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    see(model, None, torch.randn(4, 2, 3, 3), [At("act", "1")])
    assert [module.training for module in model.modules()] == [True, False, True]
    assert not model[1]._forward_pre_hooks
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_functional_sites_are_made_modules_to_be_watched() -> None:
    torch.manual_seed(0)
    model = _Functional()
    with torch.no_grad():
        model.conv.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
    watched, probes = probed(model, (2, 4, 4))
    assert [probe.site for probe in probes] == ["relu@0", "relu@1"]
    images = torch.full((1, 2, 4, 4), 0.5)
    images[0, 1] = 3.0
    first, second = see(watched, None, images, probes)
    assert first.lost_energy == 0.0
    assert second.lost_energy == pytest.approx(0.25 / (0.25 + 4.0))
    assert second.dead_channels == 0.5
    torch.testing.assert_close(watched(images), model(images))


def test_a_probe_that_misses_is_named() -> None:
    with pytest.raises(SiteError, match="no module at 7"):
        see(_parent(), None, torch.zeros(1, 1, 2, 2), [At("act", "7")])


def test_the_report_shows_them(tmp_path: Path) -> None:
    images = torch.randn(4, 3, 6, 6)
    block = nn.Sequential(build_activation("reborn", 3))
    features = see(_parent(), block, images, [At("act1", "0")], [At("act1", "0")])
    view = RunView("t", fabricate.records(5, search=0, confirm=False)[:30], sites=fabricate.sites(5))
    shown = RunView("t", view.records, sites=view.sites, features=features)
    text = build_report(shown, tmp_path).read_text(encoding="utf-8")
    assert "Feature maps at the sites" in text
    assert "data:image/png;base64," in text
    assert (
        (tmp_path / "features.csv")
        .read_text()
        .startswith("site,lost_energy,dead_channels,negative_share,images\nact1,")
    )
    assert (tmp_path / "figures" / "maps_0.png").is_file()


def test_a_run_s_kept_weights_are_enough(tmp_path: Path) -> None:
    """Parent and candidate of a real backbone, only from their files."""
    from safetensors.torch import save_file

    from reborn_nas.architecture import Architecture, BackboneSpec
    from reborn_nas.backbone import build, convert

    spec = BackboneSpec("timm:test_resnet", {}, (3, 32, 32), 10, "small")
    torch.manual_seed(0)
    parent = build(spec)
    images = torch.randn(4, 3, 32, 32)
    kept = {}
    for arm, choices in (("parent", {}), ("candidate", {"layer1.0.act1": "reborn(kernel_size=3)"})):
        arch = Architecture(spec, choices)
        model = convert(parent, arch, (3, 32, 32)) if choices else parent
        path = tmp_path / f"{arm}.safetensors"
        save_file(model.state_dict(), path)
        save_file({"input": images}, path.with_suffix(".example"))
        kept[arm] = (TrialRecord(arm, "candidate", arm, 0, "complete", arch.to_dict()), path)
    features = {row.site: row for row in watch(kept["parent"], kept["candidate"], [0.5] * 3, [0.2] * 3)}
    assert len(features) == 12
    seen = {}
    handle = parent.layer1[0].act1.register_forward_pre_hook(lambda m, x: seen.update(x=x[0].clone()))
    with torch.no_grad():
        parent.eval()(images)
    handle.remove()
    lost = float(seen["x"].clamp(max=0).square().sum() / seen["x"].square().sum())
    assert features["layer1.0.act1"].lost_energy == pytest.approx(lost, rel=1e-4)
    assert features["layer1.0.act1"].images == 4
    assert [site for site, row in features.items() if row.panels] == ["layer1.0.act1"]
    assert [site for site, row in features.items() if row.negative_share > 0] == ["layer1.0.act1"]
    (tmp_path / "candidate.safetensors").write_bytes(b"broken")
    with pytest.raises(StudyError, match="cannot be looked into"):
        watch(kept["parent"], kept["candidate"])


def test_images_become_pictures_again() -> None:
    images = torch.tensor([[[[-1.0, 1.0]]]])
    assert pictures(images, [0.5], [0.5]).flatten().tolist() == [0, 255]  # type: ignore[union-attr]
    assert pictures(images, [], []).flatten().tolist() == [0, 255]  # type: ignore[union-attr]
    assert pictures(torch.zeros(1, 5, 2, 2), [], []) is None
