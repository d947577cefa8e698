"""Arguments of a backbone as choices: labels and values, the parent's own, and what is refused."""

from __future__ import annotations

import pytest

from reborn_nas.architecture import BackboneSpec
from reborn_nas.backbone.load.variants import Variants, is_argument, with_arguments
from reborn_nas.errors import ConfigError

VARIANTS = Variants({"width": (1.0, 0.5), "norm": (False, True), "kind": ("plain",)})


def test_parameters_are_those_with_a_choice() -> None:
    assert VARIANTS.parameters == {"backbone.width": ("1.0", "0.5"), "backbone.norm": ("false", "true")}
    assert not Variants()
    assert is_argument("backbone.width")
    assert not is_argument("layer1.0.act1")


def test_the_parent_has_the_first_value_of_unset_arguments() -> None:
    assert VARIANTS.settle({"width": 0.5, "other": 3}) == {
        "width": 0.5, "norm": False, "kind": "plain", "other": 3,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"0\.25, which is not one of 1\.0, 0\.5.*--model-arg width=1\.0"):
        VARIANTS.settle({"width": 0.25})


def test_labels_stand_for_values() -> None:
    parent = BackboneSpec("timm:convnet8", {"width": 1.0, "norm": False, "kind": "plain"})
    assert VARIANTS.labels_of(parent) == {"backbone.width": "1.0", "backbone.norm": "false"}
    half = with_arguments(parent, {"backbone.width": "0.5", "layer1.0.act1": "reborn"})
    assert dict(half.arguments) == {"width": 0.5, "norm": False, "kind": "plain"}
    assert with_arguments(parent, {"layer1.0.act1": "reborn"}) is parent
    specs = list(VARIANTS.specs(parent))
    assert [(spec.arguments["width"], spec.arguments["norm"]) for spec in specs] == [
        (1.0, False), (1.0, True), (0.5, False), (0.5, True),
    ]  # fmt: skip
    assert half in specs
    assert len(set(specs)) == 4
