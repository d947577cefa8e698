"""Activations that are expressions: x · σ(x) in one line, or the call of a plain function that is one.

Such a site is several operations of one forward. Its expression is found in the source, with the one part of it that
is the map which it acts on; conversion puts the call of a module with that part in its place.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from reborn_nas.backbone.trace.lexical import Position, function_tree
from reborn_nas.backbone.trace.spans import CallSpan
from reborn_nas.backbone.trace.trace import Op, Trace

Step = tuple[
    str, CallSpan
]  # the name of an operation, or "module " and the path of one, and where it is called
Key = TypeVar("Key")
MAKING = frozenset(
    f"{prefix}{what}{suffix}"
    for what in ("zeros", "ones", "full", "empty", "tensor", "scalar_tensor", "as_tensor")
    for prefix in ("", "new_")
    for suffix in ("", "_like")
)
"""Operations whose result holds none of their inputs' numbers."""


@dataclass(frozen=True)
class Expression:
    """The expression that a site is.

    Args:
        place: where it stands in its file.
        hole: where the part stands that is the map.
        steps: what it runs, in order.
        reader: which step reads the map first.
        operand: which tensor among that step's arguments the map is.
        function: the `torch.autograd.Function` that it applies, `module:qualname`, or "".
    """

    place: Position
    hole: Position
    steps: tuple[Step, ...]
    reader: int
    operand: int
    function: str = ""


class NotOne(Exception):
    """Why operations are not one expression of one map."""


class Progress(Generic[Key]):
    """Follows the steps of expressions while a network runs, or through the record of a run.

    Args:
        expressions: of the sites, by what tells them, the path of the owner first.
    """

    def __init__(self, expressions: Mapping[tuple[str, Key], Expression]) -> None:
        self._known = dict(expressions)
        self._of: dict[tuple[str, Step], list[tuple[str, Key]]] = {}
        for key, expression in self._known.items():
            for step in dict.fromkeys(expression.steps):
                self._of.setdefault((key[0], step), []).append(key)
        self._at: dict[tuple[int, tuple[str, Key]], int] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def step(self, call: int, owner: str, name: str, span: CallSpan | None) -> tuple[Key, int] | None:
        """The expression that an operation, or a module's call, is part of, and which of its steps it is.

        Args:
            call: number of the owner's call.
        """
        if span is None:
            return None
        for key in self._of.get((owner, (name, span)), ()):
            steps, at = self._known[key].steps, self._at.get((call, key), 0)
            if steps[at] != (name, span):
                at = 0
            if steps[at] == (name, span):
                self._at[call, key] = (at + 1) % len(steps)
                return key[1], at
            self._at[call, key] = 0
        return None


def executions(
    run: Trace, owner: str, expression: Expression
) -> Iterator[tuple[int, int, int, tuple[Op, ...]]]:
    """(number of the owner's call, id of the map, id of the result, operations) of each evaluation in a run."""
    progress = Progress({(owner, ""): expression})
    given, ops = 0, list[Op]()
    for call, name, span, inputs, outputs, inside in _stream(run, owner):
        found = progress.step(call, owner, name, span)
        if found is None:
            continue
        at = found[1]
        ops = [*(ops if at else ()), *inside]
        if at == expression.reader and expression.operand < len(inputs):
            given = inputs[expression.operand]
        if at == len(expression.steps) - 1:
            yield call, given, outputs[0], tuple(ops)


Moment = tuple[int, str, CallSpan | None, tuple[int, ...], tuple[int, ...], tuple[Op, ...]]


def _stream(run: Trace, owner: str) -> list[Moment]:
    """What the forward of `owner` itself runs, in order: operations and the calls of modules."""
    found: list[tuple[int, Moment]] = []
    for op in run.ops:
        if op.module == owner:
            found.append((op.index, (op.call, op.name, op.span, op.inputs, op.outputs, (op,))))
    for call in run.calls:
        if call.caller == owner and call.parent >= 0 and call.last_op >= call.first_op:
            ops = run.ops[call.first_op : call.last_op + 1]
            moment = (call.parent, module_step(call.path), call.span, call.inputs, call.outputs, ops)
            found.append((call.first_op, moment))
    return [moment for _, moment in sorted(found, key=lambda each: each[0])]


def module_step(path: str) -> str:
    """The name of a step that is the call of a module."""
    return f"module {path}"


def expression_of(run: Trace, ops: Sequence[Op], source: int, live: Collection[int]) -> Expression:
    """The expression that the last of `ops` gives.

    Args:
        ops: those that make an activation of the value `source`, in order; they may lie in modules that one forward
            calls.
        live: values that descend from the network's inputs.

    Raises:
        NotOne: with the reason.
    """
    last = ops[-1]
    if last.span is None:
        raise NotOne("its place in the source is unknown")
    tree = function_tree(last.span.filename, last.span.first_line)
    if tree is None:
        raise NotOne("its source cannot be read")
    whole = _node(tree, last.span)
    if whole is None:
        raise NotOne("it is a statement that writes over a value, not an expression")
    wanted = {op.index for op in ops}
    moments = _evaluation(run, last, tree, whole)
    if not wanted <= {op.index for moment in moments for op in moment[5]}:
        raise NotOne("it is spread over several statements")
    hole = _hole(run, ops, source, tree, whole, moments)
    steps = [moment for moment in moments if not _stands_within(tree, moment[2], hole)]
    for _, name, _, inputs, _, inside in steps:
        joins = name not in MAKING and any(value in live for value in inputs)
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
        position(whole),
        position(hole),
        taken,
        reader,
        steps[reader][3].index(source),
        "" if function is None else f"{function.__module__}:{function.__qualname__}",
    )


def _evaluation(run: Trace, last: Op, tree: ast.AST, whole: ast.expr) -> list[Moment]:
    """What the last evaluation of `whole` ran, its arguments included."""
    steps = [
        moment
        for moment in _stream(run, last.module)
        if moment[0] == last.call
        and _same_text(moment[2], last.span)
        and moment[5][0].index <= last.index
        and _stands_within(tree, moment[2], whole)
    ]
    ends = []
    for at, moment in enumerate(steps[:-1]):
        op = moment[5][-1]
        same = (moment[1], moment[2]) == (last.name, last.span) and op.module == last.module
        if same and not (last.turn and op.turn == last.turn):
            ends.append(at)
    return steps[ends[-1] + 1 :] if ends else steps


def _same_text(span: CallSpan | None, other: CallSpan | None) -> bool:
    """Whether two calls stand in one function."""
    return (
        span is not None
        and other is not None
        and span.filename == other.filename
        and (span.first_line == other.first_line)
    )


def _stands_within(tree: ast.AST, span: CallSpan | None, whole: ast.expr) -> bool:
    node = None if span is None else _node(tree, span)
    return node is not None and _within(node, whole)


def _hole(
    run: Trace, ops: Sequence[Op], source: int, tree: ast.AST, whole: ast.expr, moments: Sequence[Moment]
) -> ast.expr:
    """The part of `whole` whose value is the map."""
    wanted, call = {op.index for op in ops}, ops[-1].call
    inner = [
        moment
        for moment in moments
        if moment[1] in MAKING or not wanted.isdisjoint(op.index for op in moment[5])
    ]
    nodes = {id(_node(tree, moment[2])) for moment in inner if moment[2] is not None}
    leaves = list(_leaves(whole, nodes))
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
    """The calls, made by one module call, whose result a value is."""
    spans = [op.span for op in (run.producer(value),) if op is not None and op.call == call and op.span]
    spans += [each.span for each in run.calls if each.parent == call and value in each.outputs and each.span]
    return spans


def _leaves(node: ast.expr, inner: set[int]) -> Iterator[ast.expr]:
    """The parts of an expression that none of its steps makes."""
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
    """Whether it is a name, or one behind names such as `torch.float32`; what an object holds may be a map."""
    if isinstance(node, ast.Name):
        return True
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id != "self"


def _node(tree: ast.AST, span: CallSpan) -> ast.expr | None:
    """The expression at a span; where a chain of methods spans lines, Python counts from the last name."""
    end, start = (span.end_line, span.end_column), (span.line, span.column)
    there = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.expr) and (node.end_lineno, node.end_col_offset) == end
    ]
    exact = [node for node in there if (node.lineno, node.col_offset) == start]
    calls = [node for node in there if isinstance(node, ast.Call)]
    return next(iter([*exact, *calls]), None)


def _within(node: ast.expr, whole: ast.expr) -> bool:
    line, column, end_line, end_column = position(node)
    outer = position(whole)
    return outer[:2] <= (line, column) and (end_line, end_column) <= outer[2:]


def position(node: ast.expr) -> Position:
    """Where it stands."""
    return node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0
