"""Search spaces: what YAML says is what the sites get, and every fault is listed at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reborn_nas.architecture import BackboneSpec, Choice
from reborn_nas.backbone import Site, find_sites
from reborn_nas.errors import ConfigError, RebornError, UnknownNameError
from reborn_nas.space import list_spaces, load_space


@pytest.fixture(scope="module")
def sites() -> tuple[Site, ...]:
    return find_sites(timm.create_model("resnet18", num_classes=10), (3, 32, 32))


def write(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


class Scripted:
    """A trial that takes the n-th choice of every parameter and remembers what it was asked."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.asked: dict[str, tuple[Any, ...]] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked[name] = tuple(choices)
        return choices[self.index % len(choices)]


def test_the_shipped_spaces_fit_a_residual_network(sites: tuple[Site, ...]) -> None:
    assert {"two_level", "paper", "full", "channel_doubling", "tiny", "width"} <= set(list_spaces())
    for name in list_spaces():
        space = load_space(name)
        space.check(sites)
        assert space.description


def test_paper_space_is_table_2(sites: tuple[Site, ...]) -> None:
    labels = load_space("paper").parameters(sites)["layer1.0.act1"]
    names = {Choice.parse(label).name for label in labels}
    assert names == {"relu", "crelu", "leaky_relu", "prelu", "rrelu", "celu", "selu", "elu", "reborn"}
    kernels = {Choice.parse(label).options["kernel_size"] for label in labels if label.startswith("reborn")}
    assert kernels == {1, 3, 5}


def test_suggest_asks_once_a_site_by_its_name(sites: tuple[Site, ...]) -> None:
    trial = Scripted(1)
    architecture = load_space("two_level").suggest(trial, sites)
    assert list(trial.asked) == [site.name for site in sites]
    assert all(choice.name == "reborn" for _, choice in architecture)
    assert len(architecture.choices) == len(sites)
    assert not load_space("two_level").suggest(Scripted(0), sites).choices


def test_groups_share_one_parameter(sites: tuple[Site, ...], tmp_path: Path) -> None:
    body = "choices: [original, reborn]\n"
    counts = {}
    for granularity in ("site", "block", "stage", "model"):
        space = load_space(write(tmp_path, f"granularity: {granularity}\n{body}"))
        counts[granularity] = len(space.parameters(sites))
        architecture = space.suggest(Scripted(1), sites)
        assert len(architecture.choices) == 17, "every site is in one group"
    assert counts["site"] == 17
    assert counts["model"] == 1
    assert counts["stage"] == len({site.stage for site in sites})
    assert counts["block"] == 9, "the stem and eight basic blocks"


def test_arguments_of_the_backbone_are_choices_too(sites: tuple[Site, ...], tmp_path: Path) -> None:
    space = load_space(
        write(
            tmp_path, "granularity: model\nbackbone: {width: [1.0, 0.5], norm: true}\nchoices: [relu, silu]"
        )
    )
    trial = Scripted(1)
    architecture = space.suggest(trial, sites, BackboneSpec("convnet8", {"norm": True}))
    assert trial.asked == {"backbone.width": ("1.0", "0.5"), "model": ("relu", "silu")}
    assert dict(architecture.backbone.arguments) == {"norm": True, "width": 0.5}
    assert {choice.label for _, choice in architecture} == {"silu"}
    assert space.site_parameters(sites) == {"model": ("relu", "silu")}
    assert not space.architecture({}, sites).backbone.arguments
    with pytest.raises(ConfigError, match=r"'backbone\.width' is one of 1\.0, 0\.5, not '2\.0'"):
        space.architecture({"backbone.width": "2.0"}, sites)
    alone = load_space(write(tmp_path, "backbone: {width: [1, 2]}\nchoices: [relu]"))
    alone.check(sites)  # the width is something to choose


def test_faults_of_backbone_arguments(tmp_path: Path) -> None:
    text = "backbone: {width: [], norm: {a: 1}, depth: [2, 2], kind: [null]}\nchoices: [relu, silu]"
    with pytest.raises(ConfigError) as caught:
        load_space(write(tmp_path, text))
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "backbone.width", "backbone.norm", "backbone.depth", "backbone.kind",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="backbone: a mapping"):
        load_space(write(tmp_path, "backbone: [width]\nchoices: [relu, silu]"))


def test_rules_the_last_that_matches_wins(sites: tuple[Site, ...], tmp_path: Path) -> None:
    text = """
choices: [original, reborn]
rules:
  - sites: "layer4.*"
    choices: [relu, {reborn: {kernel_size: [1, 3]}}]
  - sites: ["layer4.1.*", act1]
    fixed: leaky_relu(negative_slope=0.2)
  - sites: layer3.0.act2
    exclude: true
"""
    space = load_space(write(tmp_path, text))
    space.check(sites)
    parameters = space.parameters(sites)
    assert "act1" not in parameters
    assert "layer3.0.act2" not in parameters
    assert len(parameters["layer4.0.act1"]) == 3
    architecture = space.suggest(Scripted(0), sites)
    assert architecture.choice("layer4.1.act2") == Choice("leaky_relu", negative_slope=0.2)
    assert architecture.choice("layer3.0.act2") == Choice("original")


def test_inadmissible_is_refused_with_site_and_reason_or_skipped(
    sites: tuple[Site, ...], tmp_path: Path
) -> None:
    body = "choices: [original, reborn, {crelu: {compression: none}}]\n"
    with pytest.raises(ConfigError, match=r"layer1\.0\.act2") as caught:
        load_space(write(tmp_path, body)).check(sites)
    assert "a sum with a value" in str(caught.value), "the reason names the residual sum"
    skipping = load_space(write(tmp_path, "inadmissible: skip\n" + body))
    skipping.check(sites)
    parameters = skipping.parameters(sites)
    assert any("none" in label for label in parameters["layer1.0.act1"])
    assert not any("none" in label for label in parameters["layer1.0.act2"])


def test_all_faults_at_once(tmp_path: Path) -> None:
    text = """
choises: [relu]
choices:
  - reborn: {kernel_size: 4}
  - rebron
  - relu
  - relu
granularity: layer
rules:
  - sites: 3
    choices: [relu]
  - fixed: relu
    exclude: true
"""
    with pytest.raises(ConfigError) as caught:
        load_space(write(tmp_path, text))
    text = "\n".join(caught.value.faults)
    for part in ("choises", "kernel_size", "rebron", "twice", "granularity", "rules[1].sites", "rules[2]"):
        assert part in text, part


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "choices: []", "choices: relu", "choices: [relu", "choices: [!!python/object:os.system x]",
     "choices:\n - reborn: {kernel_size: [1,3,5], " + ", ".join(f"o{i}: [1,2,3,4,5]" for i in range(9)) + "}",
     "choices: [original]\nrules: {}", "choices: [1, null]", "\0"],
)  # fmt: skip
def test_broken_files(text: str, tmp_path: Path, sites: tuple[Site, ...]) -> None:
    with pytest.raises(ConfigError):
        load_space(write(tmp_path, text))


def test_nothing_to_choose_is_refused(sites: tuple[Site, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to choose"):
        load_space(write(tmp_path, "choices: [reborn]")).check(sites)


def test_a_rule_that_matches_nothing_is_refused(sites: tuple[Site, ...], tmp_path: Path) -> None:
    space = load_space(
        write(tmp_path, "choices: [original, reborn]\nrules: [{sites: layer9.*, exclude: true}]")
    )
    with pytest.raises(ConfigError, match=r"layer9\.\*"):
        space.check(sites)


def test_unknown_space_names_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="two_level"):
        load_space("two_levels")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_space("/nowhere/space.yaml")


def test_unknown_parameter_is_refused(sites: tuple[Site, ...]) -> None:
    space = load_space("two_level")
    with pytest.raises(UnknownNameError, match=r"layer1\.0\.act1"):
        space.architecture({"layer1.0.act9": "relu"}, sites)
    with pytest.raises(ConfigError, match="relu6"):
        space.architecture({"layer1.0.act1": "relu6"}, sites)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["relu", "reborn", "original", "layer4.*", "x(", "1x1"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["choices", "rules", "sites", "stages", "fixed", "exclude", "reborn", "kernel_size"]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["choices", "rules", "granularity", "inadmissible", "description"]), VALUES
    )
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_yaml_gives_a_space_or_a_typed_error(tmp_path: Path, data: dict[str, Any]) -> None:
    import contextlib

    import yaml

    with contextlib.suppress(RebornError):
        load_space(write(tmp_path, yaml.safe_dump(data)))
