"""The table of operations: each rule that it names exists and is used, and no second table grows beside it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reborn_nas.backbone
from reborn_nas.backbone.trace import dims
from reborn_nas.backbone.trace.ops import OPERATIONS, module_class, operation
from reborn_nas.backbone.widen.walk import RULES

PACKAGE = Path(reborn_nas.backbone.__file__).parent


def test_every_rule_that_the_table_names_exists_and_is_used() -> None:
    assert {known.widen for known in OPERATIONS.values()} - {""} == RULES.keys()
    assert {known.moves for known in OPERATIONS.values()} - {""} == dims._RULES.keys()
    assert {known.axis for known in OPERATIONS.values()} - {""} == {"first", "last", "norm_last", "product"}
    assert not [name for name, known in OPERATIONS.items() if known.widen and known.blocks]


def test_every_name_is_an_operation_of_torch() -> None:
    homes = (torch, F, Tensor, nn.Module)
    operators = {"getitem", "setitem", "truediv", "floordiv", "invert", "rmatmul"}
    unknown = {name for name in OPERATIONS if not any(hasattr(home, name) for home in homes)} - operators
    assert unknown <= {"identity", "alias"}


def test_classes_are_named_after_their_functions() -> None:
    named = [name for name, known in OPERATIONS.items() if known.module or known.recognised]
    assert all(issubclass(getattr(nn, module_class(name)), nn.Module) for name in named)
    assert module_class("leaky_relu") == "LeakyReLU"


@pytest.mark.parametrize(
    ("name", "axis"), [("max_pool2d_with_indices", "first"), ("conv_tbc", "first"), ("mystery", "")]
)
def test_an_operation_that_is_not_in_the_table(name: str, axis: str) -> None:
    known = operation(name)
    assert (known.axis, known.widen, known.in_formula) == (axis, "", False)


def test_no_second_table() -> None:
    """A set, list or dict with five operations or more belongs into the table."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "ops.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict | ast.Set | ast.Tuple | ast.List):
                items = node.keys if isinstance(node, ast.Dict) else node.elts
                texts = {item.value for item in items if isinstance(item, ast.Constant)}
                if len(texts & OPERATIONS.keys()) >= 5 and path.name != "rules.py":
                    found.append(f"{path.name}:{node.lineno}")  # which maps names of rules
    assert not found
