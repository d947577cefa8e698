"""Activations that are expressions: x · σ(x) in one line, or calls of a plain function.

Such a site is several operations of one forward. `expression_of` finds its expression in the source, and the part of it
that is the input map; conversion replaces the expression by the call of a module with that part. `probe` determines
numerically whether the operations are a function of one number, and which one.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reborn_nas.architecture import Choice
from reborn_nas.backbone.trace.call_site import function_tree
from reborn_nas.backbone.trace.graph import (
    CallSpan,
    Expression,
    Moment,
    Op,
    Position,
    Trace,
    ValueRef,
    moments,
)
from reborn_nas.backbone.trace.ops import OPERATIONS, module_class, operation


class NotOne(Exception):
    """The operations are not one expression of one map; the message is the reason."""


def expression_of(run: Trace, ops: Sequence[Op], source: int, live: Collection[int]) -> Expression:
    """The expression whose value is the result of the last of `ops`.

    Args:
        ops: the operations that compute an activation of the value `source`, in order; they may be in modules that one
            forward calls.
        live: values that depend on the network's inputs.

    Raises:
        NotOne: with the reason.
    """
    last = ops[-1]
    if last.span is None:
        raise NotOne("its place in the source is unknown")
    tree = function_tree(last.span.filename, last.span.first_line)
    if tree is None:
        raise NotOne("its source cannot be read")
    outer_expr = _node(tree, last.span)
    if outer_expr is None:
        raise NotOne("it is a statement that writes over a value, not an expression")
    wanted = {op.index for op in ops}
    moments = _evaluation(run, last, tree, outer_expr)
    if not wanted <= {op.index for moment in moments for op in moment[5]}:
        raise NotOne("it is spread over several statements")
    hole = _hole(run, ops, source, tree, outer_expr, moments)
    steps = [moment for moment in moments if not _is_within(tree, moment[2], hole)]
    for _, name, _, inputs, _, inside in steps:
        joins = not operation(name).makes and any(value in live for value in inputs)
        if wanted.isdisjoint(op.index for op in inside) and joins:
            raise NotOne("it joins more than one map")
    users = {op.index for step in steps for op in step[5]}
    parts = {value for step in steps for op in step[5] for value in op.outputs} - {last.outputs[0]}
    if any(
        value in run.outputs or any(op.index not in users for op in run.consumers(value)) for value in parts
    ):
        raise NotOne("a part of it is used elsewhere")
    reader = next((at for at, step in enumerate(steps) if source in step[3]), None)
    if reader is None:
        raise NotOne("no part of it reads the map")
    taken = tuple((step[1], step[2]) for step in steps if step[2] is not None)
    function = next((op.function[0] for op in ops if op.function is not None), None)
    return Expression(
        position(outer_expr),
        position(hole),
        taken,
        reader,
        steps[reader][3].index(source),
        "" if function is None else f"{function.__module__}:{function.__qualname__}",
    )


def _evaluation(run: Trace, last: Op, tree: ast.AST, outer_expr: ast.expr) -> list[Moment]:
    """The steps of the last evaluation of `outer_expr`, including its arguments."""
    steps = [
        moment
        for moment in moments(run, last.module)
        if moment[0] == last.call
        and _same_text(moment[2], last.span)
        and moment[5][0].index <= last.index
        and _is_within(tree, moment[2], outer_expr)
    ]
    ends = []
    for at, moment in enumerate(steps[:-1]):
        op = moment[5][-1]
        same = (moment[1], moment[2]) == (last.name, last.span) and op.module == last.module
        if same and not (last.turn and op.turn == last.turn):
            ends.append(at)
    return steps[ends[-1] + 1 :] if ends else steps


def _same_text(span: CallSpan | None, other: CallSpan | None) -> bool:
    """Whether two calls are in one function."""
    return (
        span is not None
        and other is not None
        and span.filename == other.filename
        and (span.first_line == other.first_line)
    )


def _is_within(tree: ast.AST, span: CallSpan | None, outer_expr: ast.expr) -> bool:
    node = None if span is None else _node(tree, span)
    return node is not None and _within(node, outer_expr)


def _hole(
    run: Trace, ops: Sequence[Op], source: int, tree: ast.AST, outer_expr: ast.expr, moments: Sequence[Moment]
) -> ast.expr:
    """The part of `outer_expr` whose value is the map."""
    wanted, call = {op.index for op in ops}, ops[-1].call
    inner = [
        moment
        for moment in moments
        if operation(moment[1]).makes or not wanted.isdisjoint(op.index for op in moment[5])
    ]
    nodes = {id(_node(tree, moment[2])) for moment in inner if moment[2] is not None}
    leaves = list(_leaves(outer_expr, nodes))
    names = {
        name
        for moment in moments
        for op in moment[5]
        for name, value in op.names
        if op.call == call and value == source
    }
    for leaf in leaves:
        target = leaf.target if isinstance(leaf, ast.NamedExpr) else leaf
        if isinstance(target, ast.Name) and target.id in names:
            return leaf
    made = [_node(tree, span) for span in _makers(run, source, call) if _same_text(span, ops[-1].span)]
    for leaf in leaves:
        if any(leaf is node for node in made):
            return leaf
    rest = [leaf for leaf in leaves if not _is_plain(leaf)]
    stored = all(isinstance(leaf, ast.Subscript | ast.Attribute) for leaf in rest)
    if len(rest) == 1 or (rest and stored and len({ast.dump(leaf) for leaf in rest}) == 1):
        return rest[0]
    raise NotOne("which part of it is the map cannot be read off the text")


def _makers(run: Trace, value: int, call: int) -> list[CallSpan]:
    """The calls in one module call that return a value."""
    spans = [op.span for op in (run.producer(value),) if op is not None and op.call == call and op.span]
    spans += [each.span for each in run.calls if each.parent == call and value in each.outputs and each.span]
    return spans


def _leaves(node: ast.expr, inner: set[int]) -> Iterator[ast.expr]:
    """The parts of an expression that are not results of its steps."""
    if id(node) in inner:
        for child in _parts(node):
            yield from _leaves(child, inner)
    elif isinstance(node, ast.Tuple | ast.List):
        for child in node.elts:
            yield from _leaves(child, inner)
    elif not isinstance(node, ast.Constant):
        yield node


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.keyword):
            yield child.value
        elif isinstance(node, ast.Call) and child is node.func:
            if isinstance(child, ast.Attribute):
                yield child.value  # x.sigmoid()
        elif isinstance(child, ast.expr):
            yield child


def _is_plain(node: ast.expr) -> bool:
    """Whether it is a name, or a name of a module such as `torch.float32`; an object's attribute may be a map."""
    if isinstance(node, ast.Name):
        return True
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id != "self"


def _node(tree: ast.AST, span: CallSpan) -> ast.expr | None:
    """The expression at a span; in a chain of methods over several lines, Python counts from the last name."""
    end, start = (span.end_line, span.end_column), (span.line, span.column)
    there = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.expr) and (node.end_lineno, node.end_col_offset) == end
    ]
    exact = [node for node in there if (node.lineno, node.col_offset) == start]
    calls = [node for node in there if isinstance(node, ast.Call)]
    return next(iter([*exact, *calls]), None)


def _within(node: ast.expr, outer_expr: ast.expr) -> bool:
    line, column, end_line, end_column = position(node)
    outer = position(outer_expr)
    return outer[:2] <= (line, column) and (end_line, end_column) <= outer[2:]


def position(node: ast.expr) -> Position:
    """The position of an expression in its file."""
    return node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0


_CLOSE = 1e-4


_RECOGNISED: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    name: (module_class(name), getattr(F, name, None) or getattr(torch, name))
    for name, known in OPERATIONS.items()
    if known.recognised
} | {"gelu tanh": ("GELU(approximate=tanh)", lambda x: F.gelu(x, approximate="tanh"))}


class NotPointwise(Exception):
    """The operations are not a pointwise function of one map; the message is the reason."""


def probe(run: Trace, ops: Sequence[Op], source: int) -> tuple[str, str | None] | None:
    """Identify the function of the value `source` that `ops` compute: its name, and its `torch.nn` class as a label.

    The name of an unknown function is "other:formula"; returns None for a straight line.

    Raises:
        NotPointwise: with the reason.
    """
    x = torch.linspace(-8, 8, 129, dtype=torch.float64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    y = _computed(run, ops, source, x)
    for part in (order, order[:40]):
        if not torch.allclose(_computed(run, ops, source, x[part]), y[part], equal_nan=True):
            raise NotPointwise("what it makes of one number depends on the others")
    for name, (label, function) in _RECOGNISED.items():
        if torch.allclose(y, function(x), rtol=_CLOSE, atol=_CLOSE):
            return name.split()[0], label
    slope = round(float(y[0] / x[0]), 4)
    if 0 < slope < 1 and torch.allclose(y, F.leaky_relu(x, slope), rtol=_CLOSE, atol=_CLOSE):
        return "leaky_relu", Choice("LeakyReLU", negative_slope=slope).label
    line = y[0] + (y[-1] - y[0]) * (x - x[0]) / (x[-1] - x[0])
    return None if torch.allclose(y, line) else ("other:formula", None)


def has_own_derivative(function: Any, given: Sequence[Any], source: int) -> bool:
    """Whether backward of a `torch.autograd.Function` is the derivative of its forward.

    Args:
        given: its arguments; a reference to the value `source` is the map.
    """
    x = torch.linspace(-8.03, 8.01, 129, dtype=torch.float64)
    step = 1e-4

    def at(points: Tensor) -> Tensor:
        arguments = [points if each == ValueRef(source) else each for each in given]
        made: Tensor = function.apply(*arguments)
        return made

    try:
        with torch.enable_grad():
            points = x.clone().requires_grad_()
            (mine,) = torch.autograd.grad(at(points).sum(), points)
        with torch.no_grad():
            rise, fall = (at(x + step) - at(x)) / step, (at(x) - at(x - step)) / step
    except Exception:
        return False
    smooth = (rise - fall).abs() < 0.05
    return bool(smooth.sum() > len(x) * 3 // 4 and ((mine - (rise + fall) / 2).abs()[smooth] < 0.02).all())


def parameters_of(run: Trace, ops: Sequence[Op], source: int) -> list[str]:
    """Names of the parameters and buffers that `ops` read, directly or not, in addition to the value `source`."""
    made = {source, *(value for op in ops for value in op.outputs)}
    names: dict[str, None] = {}
    todo = [value for op in ops for value in op.inputs if value not in made]
    seen = set(todo)
    while todo:
        value = todo.pop()
        param, op = run.values[value].param, run.producer(value)
        if param is not None:
            names[param] = None
        for given in () if op is None else op.inputs:
            if given not in seen and given not in made:
                seen.add(given)
                todo.append(given)
    return list(names)


def _computed(run: Trace, ops: Sequence[Op], source: int, x: Tensor) -> Tensor:
    values: dict[int, Any] = {source: x.clone()}
    with torch.no_grad():
        try:
            for op in ops:
                values[op.outputs[0]] = _replayed(run, op, values)
            y = values[ops[-1].outputs[0]]
        except NotPointwise:
            raise
        except Exception as error:
            raise NotPointwise(
                f"what it computes cannot be found by probing ({type(error).__name__})"
            ) from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        raise NotPointwise("its result has another shape than the map")
    return y.double()


def _replayed(run: Trace, op: Op, values: dict[int, Any]) -> Any:
    def given(argument: Any) -> Any:
        if isinstance(argument, ValueRef):
            if argument.id not in values:
                values[argument.id] = _constant(run, argument.id, values)
            return values[argument.id]
        if isinstance(argument, tuple | list):
            return type(argument)(given(item) for item in argument)
        return argument

    if op.name == "setitem":
        written: Tensor = given(op.args[0]).clone()
        written[given(op.args[1])] = given(op.args[2])
        return written
    raw = op.raw or op.name
    owners = (torch, F, Tensor) if operation(raw).chooses else (Tensor, torch, F)
    function = next((found for owner in owners if (found := getattr(owner, raw, None)) is not None), None)
    if function is None:
        raise NotPointwise(f"{op.name} cannot be probed")
    kwargs = {
        key: given(value)
        for key, value in op.kwargs.items()
        if key not in ("device", "out", "layout", "pin_memory")
    }
    return function(*(given(argument) for argument in op.args), **kwargs)


def _constant(run: Trace, value: int, values: dict[int, Any]) -> Any:
    """Recompute a tensor that does not depend on the map."""
    op = run.producer(value)
    if op is None:
        raise NotPointwise("it reads a tensor that is neither made in the forward nor the map")
    made = _replayed(run, op, values)
    return made if isinstance(made, Tensor) else made[op.outputs.index(value)]
