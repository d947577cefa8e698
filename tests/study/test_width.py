"""A search over the backbone's width beside the activations: channel compensation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from reborn_nas.architecture import Architecture
from reborn_nas.backbone import build, convert
from reborn_nas.errors import ConfigError
from reborn_nas.records import TrialRecord
from reborn_nas.study import StudyConfig, load_run, plan_search, run_search
from reborn_nas.study.result.networks import pareto_records, recommend_info

SPACE = """
granularity: model
backbone: {width: [0.25, 0.125]}
choices: [original, silu, reborn]
"""


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / "widths.yaml"
    path.write_text(changes.pop("text", SPACE))
    phases = dict.fromkeys(("baseline", "screen", "candidate", "confirm", "control"), 0)
    return {
        "backbone": "convnet5", "space": str(path), "epochs": 1, "trials": 12, "threads": 1, "fraction": 0.3,
        "run": folder / "run", "sampler": "random", **phases, **changes,
    }  # fmt: skip


def test_widths_and_activations_are_searched_together(tmp_path: Path) -> None:
    result = run_search(StudyConfig(**settings(tmp_path, objectives=("accuracy", "params"))))
    assert result.complete
    info = load_run(tmp_path / "run")
    found = set()
    for record in info.records:
        assert record.state == "complete", record.reason
        architecture = Architecture.from_dict(record.architecture)
        width = architecture.backbone.arguments["width"]
        assert record.parameters["backbone.width"] == str(width)
        network = convert(build(architecture.backbone), architecture, architecture.backbone.input_size)
        assert record.params == sum(weight.numel() for weight in network.parameters())
        found.add(width)
    assert found == {0.25, 0.125}
    leanest = min(record.params for record in info.records)
    assert leanest in {record.params for record in pareto_records(info.records, ("accuracy", "params"))}
    recommended = recommend_info(info).architecture
    assert recommended.backbone.arguments["width"] in found


def test_a_training_is_drawn_with_its_own_shapes(tmp_path: Path) -> None:
    drawn: list[tuple[str, int]] = []

    def draw(record: TrialRecord, sites: Sequence[Mapping[str, Any]], _: Any) -> dict[str, str]:
        drawn.append((record.parameters["backbone.width"], sites[0]["shape"][0]))
        return {}

    run_search(StudyConfig(**settings(tmp_path, trials=6)), illustrate=draw)
    assert set(drawn) == {("0.25", 8), ("0.125", 4)}


def test_limits_hold_at_every_width(tmp_path: Path) -> None:
    """Half of the parent's parameters: all of the narrow networks have fewer, none of the wide ones."""
    run_search(StudyConfig(**settings(tmp_path, max_params="0.5x", sampler="additive")))
    info = load_run(tmp_path / "run")
    trained = [record for record in info.records if record.state == "complete"]
    assert len(trained) >= 10
    assert {record.parameters["backbone.width"] for record in trained} == {"0.125"}
    assert recommend_info(info).architecture.backbone.arguments["width"] == 0.125


def test_the_screen_is_of_the_parents_width_and_teaches_the_search(tmp_path: Path) -> None:
    text = SPACE.replace("model", "site").replace("silu, ", "")
    config = StudyConfig(**settings(tmp_path, text=text, trials=18, screen=16))
    context = plan_search(config, measure=False).context
    assert context.spec.arguments["width"] == 0.25
    assert all(not name.startswith("backbone.") for name in context.contrast.factors)
    run_search(config)
    info = load_run(tmp_path / "run")
    assert [record.phase for record in info.records].count("search") == 2
    assert len(recommend_info(info).architecture.backbone.arguments) == 1
    from reborn_nas.study.store.storage import find_store

    store = find_store(config)
    assert store is not None
    copies = [trial for trial in store.study("search").get_trials() if "copy_of" in trial.user_attrs]
    assert len(copies) == 16
    assert {trial.params["backbone.width"] for trial in copies} == {"0.25"}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"backbone_arguments": {"width": 0.5}}, r"the parent has 0\.5, which is not one of 0\.25, 0\.125"),
        ({"init": "parent"}, "one parent's weights do not fit"),
        ({"text": SPACE.replace("0.125", "-1.0")}, "width"),
        ({"text": SPACE.replace("width: [0.25, 0.125]", "wide: [1, 2]")}, "wide"),
        (
            {"backbone": "resnet18", "text": SPACE.replace("width: [0.25, 0.125]", "block_args: [a, b]")},
            "block_args",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_before_training(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        plan_search(StudyConfig(**settings(tmp_path, **changes)))


NET = """
from torch import nn

def make(num_classes=10, in_chans=1, depth=1):
    layers = []
    for index in range(depth):
        layers += [nn.Conv2d(in_chans if index == 0 else 8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, num_classes))
"""


def test_an_argument_that_changes_the_sites_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    backbone = f"{tmp_path / 'net.py'}:make"
    text = "granularity: model\nbackbone: {depth: [1, 2]}\nchoices: [original, silu]"
    with pytest.raises(ConfigError, match=r"with depth=2 the backbone 'make' has other sites"):
        plan_search(StudyConfig(**settings(tmp_path, text=text, backbone=backbone)))
    many = text.replace("[1, 2]", str(list(range(1, 66))))
    with pytest.raises(ConfigError, match=r"makes 65 backbones of one; at most 64"):
        plan_search(StudyConfig(**settings(tmp_path, text=many, backbone=backbone)))


def test_a_list_is_no_value_of_an_argument(tmp_path: Path) -> None:
    text = "backbone: {layers: [[2, 2, 2, 2]]}\nchoices: [original, reborn]"
    with pytest.raises(ConfigError, match=r"backbone\.layers"):
        plan_search(StudyConfig(**settings(tmp_path, text=text)))
