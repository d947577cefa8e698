"""Which cells are wanted, what stands at each site, which images are used, which trainings are the same."""

from __future__ import annotations

import pytest
import timm
import torch

import reborn_nas as rn
from reborn_nas.data import load_dataset
from reborn_nas.errors import ConfigError
from reborn_nas.replicate import Settings, load_replication, select
from reborn_nas.replicate.cells import architecture_of, groups_of, runs_of, thinned
from reborn_nas.replicate.published import Row


def test_words_of_one_kind_add_and_kinds_restrict() -> None:
    study = load_replication("table3")
    assert len(select(study)) == 3 * 6 * 5
    cells = select(study, "convnet8, mnist,svhn,relu,half_reborn")
    assert [(cell.network, cell.dataset, cell.row, cell.published) for cell in cells] == [
        ("convnet8", "svhn", "relu", 93.96),
        ("convnet8", "svhn", "half_reborn", 93.90),
        ("convnet8", "mnist", "relu", 99.50),
        ("convnet8", "mnist", "half_reborn", 99.53),
    ]


@pytest.mark.parametrize("only", ["convnet9", "convnet8,mnits", "", " , "])
def test_only_that_matches_nothing(only: str) -> None:
    with pytest.raises(ConfigError, match="matches nothing in table2"):
        select(load_replication("table2"), only)


@pytest.mark.parametrize(
    ("settings", "part"),
    [({"seeds": 0}, "--seeds"), ({"scale": 0.0}, "--scale"), ({"scale": 1.5}, "--scale")],
)
def test_bad_settings(settings: dict[str, float], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        Settings(**settings)  # type: ignore[arg-type]


def test_a_study_a_network_width_and_data_set() -> None:
    study = load_replication("table3")
    groups = groups_of(study, select(study, "convnet8,mnist,cifar10"), Settings(seeds=2, scale=0.1))
    assert [(g.dataset, g.width, g.rows) for g in groups] == [
        ("cifar10", 1.0, ("relu", "crelu")),
        ("cifar10", 0.5, ("half_relu", "half_crelu", "half_reborn")),
        ("mnist", 1.0, ("relu", "crelu")),
        ("mnist", 0.5, ("half_relu", "half_crelu", "half_reborn")),
    ]
    configs = [group.config for group in groups]
    assert [config.epochs for config in configs] == [16, 16, 8, 8]
    assert [config.backbone_arguments for config in configs] == [{}, {"width": 0.5}] * 2
    assert len({config.folder for config in configs}) == 4
    assert all("scale0.1" in str(config.folder) for config in configs)
    faster = groups_of(study, select(study), Settings(training={"learning_rate": 0.01}))
    assert not {group.config.folder for group in faster} & {group.config.folder for group in groups}


def test_the_same_training_of_two_tables_has_one_key() -> None:
    keys = {}
    model = timm.create_model("convnet8", in_chans=1)
    sites = rn.find_sites(model, (1, 28, 28))
    spec = rn.BackboneSpec("convnet8", input_size=(1, 28, 28), num_classes=10, stem="original")
    for name in ("table2", "table4"):
        rows = load_replication(name).rows
        runs = runs_of({row: architecture_of(rows[row], sites, spec) for row in rows}, 2)
        keys[name] = {run.key for run in runs}
        assert len(keys[name]) == 2 * len(rows)
        assert {run.part for run in runs} == {"test"}
        assert len({run.seed for run in runs}) == 2  # rows are compared on the same seeds
    assert len(keys["table2"] & keys["table4"]) == 2 * 2  # ReLU and reborn


def test_each_site_takes_the_first_activation_that_it_admits() -> None:
    model = timm.create_model("paper_resnet34", num_classes=10)
    sites = rn.find_sites(model, (3, 32, 32))
    row = load_replication("table2").rows["crelu"]
    chosen = dict(architecture_of(row, sites, rn.BackboneSpec("paper_resnet34")))
    assert len(chosen) == 33
    # an identity shortcut reads the sum too, so that its channels cannot double
    assert chosen["layer1.0.act1"].options["compression"] == "none"
    assert chosen["layer1.0.act2"].options["compression"] == "1x1"


def test_rows_on_maps_do_not_change_fully_connected_layers() -> None:
    model = timm.create_model("convnet8")
    sites = rn.find_sites(model, (3, 32, 32))
    spec = rn.BackboneSpec("convnet8")
    rows = load_replication("table2").rows
    assert dict(architecture_of(rows["relu"], sites, spec)) == {}
    assert len(dict(architecture_of(rows["elu"], sites, spec))) == 10
    reborn = dict(architecture_of(rows["reborn"], sites, spec))
    assert list(reborn) == [f"features.conv{n}.act" for n in range(1, 9)]
    skipped = Row(title="", activation=("elu",), skip=("head.*", "features.conv1.*"))
    assert len(dict(architecture_of(skipped, sites, spec))) == 7


def test_the_papers_use_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_dataset("digits")
    whole = thinned(images, scale=1, validation=0.01)
    assert len(whole.reserve) == 0
    assert sorted(whole.pool.tolist()) == sorted(torch.cat([images.pool, images.reserve]).tolist())
    assert whole.validation_size == 14  # of 1,437
    half = thinned(images, scale=0.5, validation=0.01)
    assert len(half.pool) == round(0.5 * len(whole.pool))
    assert half.test.equal(images.test)
    assert not set(half.pool.tolist()) & set(half.test.tolist())
    monkeypatch.setattr("reborn_nas.replicate.cells.LEAST_TEST", 100)
    assert [len(thinned(images, scale=s, validation=0.01).test) for s in (1, 0.5, 0.1)] == [360, 180, 100]
    assert set(half.labels[half.pool].tolist()) == set(range(10))
    again = thinned(images, scale=0.5, validation=0.01)
    assert again.pool.equal(half.pool)
    assert again.fingerprint == half.fingerprint != whole.fingerprint
    shown = images.images[half.pool].float() / 255
    assert half.mean[0] == pytest.approx(float(shown.mean()), abs=1e-6)
