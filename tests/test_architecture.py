"""Choice, BackboneSpec, Architecture: what is written can be read back, and nothing else."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn_nas.architecture import ORIGINAL, Architecture, BackboneSpec, Choice
from reborn_nas.errors import ConfigError, RebornError, SiteError

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True)
VALUES = (
    st.integers(-(10**9), 10**9)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
)


def test_label_is_the_one_the_documentation_shows() -> None:
    choice = Choice("reborn", kernel_size=3, compression="1x1")
    assert choice.label == "reborn(compression=1x1,kernel_size=3)"
    assert Choice.parse("reborn( kernel_size=3 , compression=1x1 )") == choice
    assert Choice.parse("relu") == Choice("relu")
    assert Choice.parse("a(b=true,c=none,d=0.5)").options == {"b": True, "c": "none", "d": 0.5}


@given(NAMES, st.dictionaries(NAMES, VALUES, max_size=4))
def test_label_round_trip(name: str, options: dict[str, object]) -> None:
    choice = Choice(name, **options)  # type: ignore[arg-type]
    again = Choice.parse(choice.label)
    assert again == choice
    assert [type(v) for v in again.options.values()] == [type(v) for v in choice.options.values()]


@pytest.mark.parametrize(
    "label", ["", "1relu", "relu(", "relu)", "relu(3)", "relu(=3)", "re lu", "relu(a=1)x"]
)
def test_no_choice(label: str) -> None:
    with pytest.raises(SiteError):
        Choice.parse(label)


def test_original_is_not_stored_and_order_does_not_change_the_digest() -> None:
    one = Architecture("resnet18", {"a": "relu", "b": ORIGINAL, "c": "gelu"})
    two = Architecture("timm:resnet18", {"c": "gelu", "a": "relu"})
    assert "b" not in one.choices
    assert one.choice("b") == ORIGINAL
    assert one.digest == two.digest
    assert one.digest != Architecture("resnet34", one.choices).digest
    assert one.digest != one.with_choices({"a": "silu"}).digest


def test_copies_are_equal() -> None:
    spec = BackboneSpec("file.py:make", {"width": 0.5}, (1, 28, 28), 10, "small", "ab")
    architecture = Architecture(spec, {"layer1.0.relu@1": "reborn(kernel_size=3)"})
    for again in (
        Architecture.from_json(architecture.to_json()),
        pickle.loads(pickle.dumps(architecture)),
        copy.deepcopy(architecture),
    ):
        assert again == architecture
        assert again.backbone.arguments == {"width": 0.5}
    assert spec.library == "file"
    assert spec.name == "make"


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "null", "{}", '{"version": 2, "backbone": {"source": "a"}, "choices": {}}',
        '{"version": true, "backbone": {"source": "a"}, "choices": {}}',
        '{"version": 1, "backbone": "a", "choices": {}}',
        '{"version": 1, "backbone": {"source": 3}, "choices": {}}',
        '{"version": 1, "backbone": {"source": "a", "x": 1}, "choices": {}}',
        '{"version": 1, "backbone": {"source": "a"}, "choices": []}',
        '{"version": 1, "backbone": {"source": "a"}, "choices": {"../x": "relu"}}',
        '{"version": 1, "backbone": {"source": "a"}, "choices": {"/etc/x": "relu"}}',
        '{"version": 1, "backbone": {"source": "a"}, "choices": {"a": 3}}',
        '{"version": 1, "backbone": {"source": "a", "input_size": [3, 0, 1]}, "choices": {}}',
        '{"version": 1, "backbone": {"source": "a", "input_size": "big"}, "choices": {}}',
        '{"version": 1, "backbone": {"source": "a", "stem": "huge"}, "choices": {}}',
        '{"version": 1, "backbone": {"source": "a", "arguments": 3}, "choices": {}}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_hostile_json_gives_a_typed_error(text: str) -> None:
    with pytest.raises(RebornError):
        Architecture.from_json(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["version", "backbone", "choices", "source", "arguments", "a"]), x)))  # fmt: skip
def test_any_json_gives_an_architecture_or_a_typed_error(data: object) -> None:
    with contextlib.suppress(RebornError):
        Architecture.from_json(json.dumps(data))


def test_newer_version_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="upgrade reborn-nas"):
        Architecture.from_json('{"version": 99, "backbone": {"source": "a"}, "choices": {}}')
