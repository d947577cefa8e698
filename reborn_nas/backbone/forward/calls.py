"""Edits of a method's source: a call is replaced by another call, and nothing else changes.

Positions are those of `ast`: lines from 1, columns in UTF-8 bytes. Edits never overlap, so that nested calls can be
replaced together.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reborn_nas.backbone.trace.ops import operation
from reborn_nas.errors import ConversionError

_Loop = ast.For | ast.AsyncFor | ast.comprehension


@dataclass(frozen=True)
class TextEdit:
    """The bytes from `start` to `end` become `text`. At one place the edit with the larger `length` comes first."""

    start: tuple[int, int]
    end: tuple[int, int]
    text: str
    length: int = 0


def parse_method(lines: Sequence[str]) -> ast.FunctionDef:
    """The syntax tree of a method from its source lines; positions are relative to the first line."""
    text = "".join(lines)
    indented = text[:1] in (" ", "\t")
    tree = ast.parse("if 1:\n" + text if indented else text)
    if indented:
        ast.increment_lineno(tree, -1)
    body = tree.body[0].body if isinstance(tree.body[0], ast.If) else tree.body
    if not isinstance(body[0], ast.FunctionDef):
        raise ConversionError(f"a forward must be a plain function, not {type(body[0]).__name__}")
    return body[0]


def call_at(method: ast.FunctionDef, line: int, column: int) -> ast.Call | None:
    """The call expression that ends there, which is unique."""
    for node in ast.walk(method):
        if isinstance(node, ast.Call) and (node.end_lineno, node.end_col_offset) == (line, column):
            return node
    return None


def expression_at(method: ast.FunctionDef, place: tuple[int, ...]) -> ast.expr | None:
    """The expression at a place: line and column of its start and of its end."""
    for node in ast.walk(method):
        if isinstance(node, ast.expr) and (*_start(node), *_end(node)) == place:
            return node
    return None


def edit_call(
    method: ast.FunctionDef,
    call: ast.expr,
    attribute: str,
    loop: int,
    *,
    place: str,
    given: ast.expr | None = None,
    keeps: bool = False,
) -> list[TextEdit]:
    """The edits that turn `call` into `self.<attribute>(<its tensor>)`.

    A loop that runs it more than once also iterates over `self.<attribute>`, a `ModuleList`.

    Args:
        given: the part of `call` that is the tensor, if `call` is not the call of an activation but another expression.
        keeps: whether the expression is kept in iterations whose module has a true attribute `kept`.

    Raises:
        ConversionError: the tensor, or the target of the result, cannot be determined from the source.
    """
    if not method.args.posonlyargs + method.args.args:
        raise ConversionError(f"{place}: the method has no self")
    owner = (method.args.posonlyargs + method.args.args)[0].arg
    tensor = given if given is not None or not isinstance(call, ast.Call) else _tensor(call, owner, place)
    if tensor is None:
        raise ConversionError(f"{place}: it is not a call; call an activation")
    parents = {child: node for node in ast.walk(method) for child in ast.iter_child_nodes(node)}
    callee = f"{owner}.{attribute}"
    edits: list[TextEdit] = []
    if loop > 1:
        callee, edits = _loop_edits(method, parents, call, owner, attribute, place)
    prefix, suffix = f"{callee}(", ")"
    if keeps:
        own = f"{_of_map(call, tensor)} if getattr(_act, 'kept', False) else _act(_map)"
        prefix, suffix = f"(lambda _map, _act: {own})(", f", {callee})"
    if isinstance(parents.get(call), ast.Expr) and isinstance(tensor, ast.Name):
        prefix = f"{tensor.id} = {prefix}"  # an in-place call whose result is not used
    start, end = _start(call), _end(call)
    length = (end[0] - start[0]) * 10000 + end[1] - start[1]
    before = "\n" * (_start(tensor)[0] - start[0])
    after = "\n" * (end[0] - _end(tensor)[0])
    return [
        *edits,
        TextEdit(start, _start(tensor), prefix + before, length),
        TextEdit(_end(tensor), end, f"{after}{suffix}"),
    ]


def _of_map(call: ast.expr, tensor: ast.expr) -> str:
    """The expression on one line, with `_map` in place of the tensor."""

    class Named(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return ast.Name("_map", ast.Load()) if node is tensor else self.generic_visit(node)

    return ast.unparse(Named().visit(copy.deepcopy(call, {id(tensor): tensor})))


def apply_edits(lines: Sequence[str], edits: Sequence[TextEdit]) -> list[str]:
    """The lines with all edits applied."""
    raw = [line.encode() for line in lines]
    starts = [0]
    for line in raw:
        starts.append(starts[-1] + len(line))
    text, out, done = b"".join(raw), [], 0
    for edit in sorted(edits, key=lambda e: (e.start, e.end, -e.length)):
        start = starts[edit.start[0] - 1] + edit.start[1]
        end = starts[edit.end[0] - 1] + edit.end[1]
        if start < done:
            raise ConversionError("two calls to replace overlap in the source; write them on separate lines")
        out += [text[done:start], edit.text.encode()]
        done = end
    out.append(text[done:])
    return b"".join(out).decode().splitlines(keepends=True)


def _tensor(call: ast.Call, owner: str, place: str) -> ast.expr:
    """The expression of the activation's input tensor."""
    if call.args:
        first = call.args[0]
        if isinstance(first, ast.Starred):
            raise ConversionError(
                f"{place}: the activation's arguments are starred; pass the tensor explicitly"
            )
        if isinstance(call.func, ast.Attribute) and _is_tensor_method(call.func, owner):
            return call.func.value
        return first
    for keyword in call.keywords:
        if keyword.arg in ("input", "x"):
            return keyword.value
    if isinstance(call.func, ast.Attribute):
        return call.func.value  # x.relu()
    raise ConversionError(f"{place}: cannot see which tensor the activation takes; write activation(x)")


def _is_tensor_method(func: ast.Attribute, owner: str) -> bool:
    """`x.clamp(0)` against `F.relu(x)` and `self.act(x)`: it is a method of tensors that takes numbers."""
    if not operation(func.attr.rstrip("_")).method:
        return False
    root: ast.expr = func.value
    while isinstance(root, ast.Attribute):
        root = root.value
    return not (isinstance(root, ast.Name) and root.id in (owner, "torch", "F", "nn"))


def _loop_edits(
    method: ast.FunctionDef,
    parents: dict[ast.AST, ast.AST],
    call: ast.expr,
    owner: str,
    attribute: str,
    place: str,
) -> tuple[str, list[TextEdit]]:
    """The call to write in a loop, and the edits of the loop."""
    loop, straight = _enclosing_loop(parents, call)
    if loop is None:
        raise ConversionError(
            f"{place}: the call runs several times in one forward without a loop around it; "
            "give each use its own activation"
        )
    if straight and not isinstance(loop, ast.While):
        target, source = loop.target, loop.iter
        edits = [
            TextEdit(_start(target), _start(target), "("),
            TextEdit(_end(target), _end(target), f"), {attribute}"),
            TextEdit(_start(source), _start(source), "zip(", 10**9),
            TextEdit(_end(source), _end(source), f", {owner}.{attribute})"),
        ]
        return attribute, edits
    first = next((s for s in method.body if not _is_docstring(s)), method.body[0])
    indent = " " * first.col_offset
    walk = f"{attribute} = iter({owner}.{attribute})\n{indent}"
    return f"next({attribute})", [TextEdit(_start(first), _start(first), walk, 10**9)]


def _enclosing_loop(parents: dict[ast.AST, ast.AST], call: ast.expr) -> tuple[_Loop | ast.While | None, bool]:
    """The innermost loop around a call, and whether each iteration runs the call exactly once."""
    straight = True
    inner: ast.AST = call
    node = parents.get(call)
    while node is not None:
        if isinstance(node, ast.For | ast.AsyncFor | ast.While):
            if inner in node.body and not _jumps(node):
                return node, straight and not _in_loop(parents, node)
            return node, False
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
            plain = len(node.generators) == 1 and not node.generators[0].ifs and inner is node.elt
            return node.generators[0], straight and plain and not _in_loop(parents, node)
        if isinstance(node, ast.If | ast.IfExp | ast.Try | ast.BoolOp | ast.FunctionDef | ast.Lambda):
            straight = False
        inner, node = node, parents.get(node)
    return None, False


def _in_loop(parents: dict[ast.AST, ast.AST], node: ast.AST) -> bool:
    up = parents.get(node)
    while up is not None:
        if isinstance(up, ast.For | ast.AsyncFor | ast.While | ast.ListComp | ast.GeneratorExp | ast.SetComp):
            return True
        up = parents.get(up)
    return False


def _jumps(loop: ast.For | ast.AsyncFor | ast.While) -> bool:
    return any(isinstance(node, ast.Break | ast.Continue | ast.Return) for node in ast.walk(loop))


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _start(node: ast.expr | ast.stmt) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: ast.expr | ast.stmt) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
