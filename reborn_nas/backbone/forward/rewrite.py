"""Classes with a rewritten forward: `self.relu(x)` and `F.relu(x)` become `self.relu_at1(x)`.

A module that is called at several sites, and a functional call, have no separate attribute to set. The class of the
module that makes the call therefore gets a subclass whose method differs in exactly those calls. The text of the method
is edited, not regenerated: comments, line numbers and everything else are kept, and `inspect`, `torch.jit.script` and
tracebacks see the edited text, which is registered in `linecache`.

The subclass has the name of its base, so that `isinstance`, `repr` and state-dict keys are unchanged. It is made once
per base and set of edits. Its instances pickle as base + edits; the digest of the source is checked on loading.
"""

from __future__ import annotations
import __future__ as futures

import ast
import hashlib
import inspect
import linecache
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

from timm.models import get_notrace_modules, register_notrace_module
from torch import nn

from reborn_nas.backbone.forward.calls import (
    TextEdit,
    apply_edits,
    call_at,
    edit_call,
    expression_at,
    parse_method,
)
from reborn_nas.backbone.trace.graph import CallSpan, Expression
from reborn_nas.errors import ConversionError

_FUTURE = sum({getattr(futures, name).compiler_flag for name in futures.all_feature_names})


@dataclass(frozen=True)
class Edit:
    """A call in a method that is replaced by the call of a module of the owner.

    Args:
        holder: class that defines the method, `module:qualname`; the owner's class or one of its bases.
        method: the method's name.
        line: last line of the call, relative to the method's first.
        column: column after the call's last, in UTF-8 bytes, as `ast` counts.
        attribute: what is called instead: a module, or a `ModuleList` in a loop.
        loop: number of iterations of the loop around the call; 0 outside of loops.
        expression: for expressions other than calls: the start of the expression, and start and end of the part that is
            passed to the module; lines relative to the method's first.
        keeps: whether some iterations of the loop keep the expression.
    """

    holder: str
    method: str
    line: int
    column: int
    attribute: str
    loop: int = 0
    expression: tuple[int, ...] = ()
    keeps: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the inverse is `from_dict`."""
        data = asdict(self)
        return {key: value for key, value in data.items() if key not in ("expression", "keeps") or value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Edit:
        """The inverse of `to_dict`."""
        expression = tuple(data.get("expression", ()))
        if len(expression) not in (0, 6) or not all(type(number) is int for number in expression):
            raise ValueError(f"{expression!r} are not places in a source")
        return cls(**{**data, "expression": expression})

    def changes(self, method: ast.FunctionDef, place: str) -> list[TextEdit] | None:
        """The changes of the method's text; None if there is no such call."""
        call: ast.expr | None
        if not self.expression:
            call = call_at(method, self.line, self.column)
            return None if call is None else edit_call(method, call, self.attribute, self.loop, place=place)
        line, column, *hole = self.expression
        call = expression_at(method, (line, column, self.line, self.column))
        given = expression_at(method, tuple(hole))
        if call is None or given is None:
            return None
        return edit_call(method, call, self.attribute, self.loop, place=place, given=given, keeps=self.keeps)


@dataclass(frozen=True)
class Rewrite:
    """The rewrite of one class: the edits, and the digest of their source."""

    edits: tuple[Edit, ...]
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {"edits": [edit.to_dict() for edit in self.edits], "digest": self.digest}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rewrite:
        """The inverse of `to_dict`. Raises ValueError if an edit would insert anything but a name."""
        edits = tuple(Edit.from_dict(edit) for edit in data["edits"])
        for edit in edits:
            if not edit.attribute.isidentifier():
                raise ValueError(f"{edit.attribute!r} is not an attribute name")
        return cls(edits, data["digest"])


def locate(
    cls: type, span: CallSpan, attribute: str, *, loop: int = 0, expression: Expression | None = None
) -> Edit:
    """The edit that replaces the call or expression at `span`, which an instance of `cls` evaluates.

    Raises:
        ConversionError: the source of the class is missing, or the call cannot be rewritten.
    """
    return _locate(cls, span, attribute, loop, expression)


@lru_cache(maxsize=4096)
def _locate(cls: type, span: CallSpan, attribute: str, loop: int, expression: Expression | None) -> Edit:
    for holder, name, function in _functions(cls):
        code = function.__code__
        if code.co_filename != span.filename or not _holds(code, span):
            continue
        lines, first = _source(cls, function)
        if not first <= span.line < first + len(lines):
            continue
        method = parse_method(lines)
        parts: tuple[int, ...] = ()
        if expression is not None:
            line, column, end_line, end_column = expression.hole
            start = (expression.place[0] - first + 1, expression.place[1])
            parts = (*start, line - first + 1, column, end_line - first + 1, end_column)
        edit = Edit(
            _name_of(holder), name, span.end_line - first + 1, span.end_column, attribute, loop, parts
        )
        if edit.changes(method, f"{_name_of(cls)}, {span.place}") is None:
            break
        return edit
    written = span.filename.startswith("<")  # such as a forward by torch.fx
    raise ConversionError(
        f"{_name_of(cls)}, {span.place}: the call is in {span.function}, "
        + (
            "whose source is not in a file; convert the network before torch.fx or another tool rewrites it"
            if written
            else "which is not a method of this class (a hook, a decorator or an assigned function); call the "
            "activation in the forward of a class"
        )
    )


def rewrite_of(cls: type, edits: Iterable[Edit]) -> Rewrite:
    """`edits` in canonical order, with the digest of the changed methods."""
    return _rewrite_of(cls, frozenset(edits))


@lru_cache(maxsize=4096)
def _rewrite_of(cls: type, edits: frozenset[Edit]) -> Rewrite:
    ordered = tuple(
        sorted(
            edits,
            key=lambda e: (e.holder, e.method, e.line, e.column, e.attribute, e.loop, e.expression, e.keeps),
        )
    )
    text = []
    for holder, method in sorted({(edit.holder, edit.method) for edit in ordered}):
        lines, _ = _source(cls, _method(cls, holder, method)[1])
        text += [holder, method, *(line.rstrip() for line in lines)]
    return Rewrite(ordered, hashlib.sha256("\n".join(text).encode()).hexdigest()[:16])


class Change(Protocol):
    """An alternative to `Rewrite`: hashable, picklable, returns the new methods by name."""

    def methods(self, base: type) -> dict[str, Any]:
        """The methods of the subclass of `base`."""
        ...


Chain = tuple[Rewrite | Change, ...]


def rewritten(cls: type, rewrite: Rewrite | Change) -> type:
    """The subclass of `cls` with the calls of `rewrite` replaced; the same one for the same arguments.

    Raises:
        ConversionError: the source is not the one for which the rewrite was made.
    """
    root, chain = _recipe(cls)
    return _made(root, (*chain, rewrite))


def _made(root: type, chain: Chain) -> type:
    found = _CLASSES.get((root, chain))
    if found is None:
        base = root if len(chain) == 1 else _made(root, chain[:-1])
        found = _CLASSES[root, chain] = _subclass(base, chain[-1], root, chain)
    return found


_CLASSES: dict[tuple[type, Chain], type] = {}


def _subclass(base: type, change: Rewrite | Change, root: type, chain: Chain) -> type:
    patched = _patches(base, change) if isinstance(change, Rewrite) else {base: change.methods(base)}
    # inserted between a base and its users, so that `super().forward(x)` also finds the edited method
    between = (
        _class(holder, (holder,), patched[holder])
        for holder in base.__mro__
        if holder in patched and holder is not base
    )
    space = {**patched.get(base, {}), "__reduce_ex__": _reduce, "_reborn_recipe": (root, chain)}
    made = _class(base, (base, *between), space)
    _keep_untraced(base, made)
    return made


def _patches(base: type, rewrite: Rewrite) -> dict[type, dict[str, Any]]:
    """Class → its edited methods."""
    now = rewrite_of(base, rewrite.edits).digest
    if now != rewrite.digest:
        raise ConversionError(
            f"{_name_of(base)}: its source has changed (digest {now}, planned with {rewrite.digest}); "
            "install the version that the plan was made with, or plan again"
        )
    patched: dict[type, dict[str, Any]] = {}
    for holder_name, method in dict.fromkeys((edit.holder, edit.method) for edit in rewrite.edits):
        holder, function = _method(base, holder_name, method)
        edits = [edit for edit in rewrite.edits if (edit.holder, edit.method) == (holder_name, method)]
        patched.setdefault(holder, {})[method] = _edited(base, holder, method, function, edits)
    return patched


def _class(like: type, bases: tuple[type, ...], space: Mapping[str, Any]) -> type:
    names = {"__module__": like.__module__, "__qualname__": like.__qualname__, "__doc__": like.__doc__}
    return types.new_class(like.__name__, bases, {}, lambda body: body.update({**names, **space}))


def _edited(base: type, holder: type, name: str, function: types.FunctionType, edits: Sequence[Edit]) -> Any:
    """The method with its calls replaced, decorated as it was."""
    lines, first = _source(base, function)
    method = parse_method(lines)
    changes: list[TextEdit] = []
    for edit in edits:
        found = edit.changes(method, f"{_name_of(base)}.{name}, line {first + edit.line - 1}")
        if found is None:
            raise ConversionError(
                f"{_name_of(base)}.{name}: no call ends at line {edit.line} of the method; plan again"
            )
        changes += found
    text = apply_edits(lines, changes)
    digest = hashlib.sha256("".join(text).encode()).hexdigest()[:12]
    filename = f"<reborn_nas {_name_of(holder)}.{name} {digest}>"
    padded = ["\n"] * (first - 1) + text
    linecache.cache[filename] = (sum(map(len, padded)), None, padded, filename)
    code = _compile(text, first, filename, holder, function)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    missing = [free for free in code.co_freevars if free not in cells]
    if missing:
        raise ConversionError(
            f"{_name_of(base)}.{name}: cannot bind {', '.join(missing)} in the rewritten method"
        )
    closure = tuple(cells[free] for free in code.co_freevars)
    made = types.FunctionType(code, function.__globals__, name, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    made.__doc__, made.__qualname__, made.__module__ = (
        function.__doc__,
        function.__qualname__,
        function.__module__,
    )
    made.__annotations__ = dict(function.__annotations__)
    return made if vars(holder)[name] is function else _decorated(made, method, function, cells)


def _compile(
    text: Sequence[str], first: int, filename: str, holder: type, function: types.FunctionType
) -> types.CodeType:
    """The code object of the edited method, with the names, lines and flags of the original."""
    old = function.__code__
    node = parse_method(text)
    ast.increment_lineno(node, first - 1)
    free = [name for name in old.co_freevars if name != "__class__"]
    scope = ast.parse(f"def scope({', '.join(free)}):\n class {holder.__name__}:\n  pass")
    body: Any = scope.body[0]
    body.body[0].body = [node]  # inside a class, for private names and zero-argument super()
    module = compile(scope, filename, "exec", flags=old.co_flags & _FUTURE, dont_inherit=True)
    found = next(
        code for code in _nested(module) if code.co_name == old.co_name and code.co_filename == filename
    )
    return found.replace(co_qualname=old.co_qualname)


def _decorated(
    made: types.FunctionType, method: ast.FunctionDef, function: types.FunctionType, cells: Mapping[str, Any]
) -> Any:
    result: Any = made
    names = {name: cell.cell_contents for name, cell in cells.items() if name != "__class__"}
    for decorator in reversed(method.decorator_list):
        code = compile(ast.Expression(decorator), "<decorator>", "eval")
        result = eval(code, function.__globals__, names)(result)
    return result


def _nested(code: types.CodeType) -> Iterable[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _nested(constant)


def _holds(code: types.CodeType, span: CallSpan) -> bool:
    return any(inner.co_qualname == span.function for inner in (code, *_nested(code)))


def _functions(cls: type) -> Iterable[tuple[type, str, types.FunctionType]]:
    """The methods of a class and its bases, in method resolution order, unwrapped."""
    for holder in cls.__mro__:
        if holder in (nn.Module, object):
            continue
        for name, value in vars(holder).items():
            if isinstance(value, property) and value.fset is None and value.fdel is None:
                value = value.fget
            function = inspect.unwrap(value) if callable(value) else None
            if isinstance(function, types.FunctionType):
                yield holder, name, function


def _method(cls: type, holder: str, method: str) -> tuple[type, types.FunctionType]:
    for klass, name, function in _functions(cls):
        if name == method and _name_of(klass) == holder:
            return klass, function
    raise ConversionError(
        f"{_name_of(cls)} has no method {method} from {holder}; the plan is for another version"
    )


def _source(cls: type, function: types.FunctionType) -> tuple[list[str], int]:
    """The lines of the function and the number of the first.

    `inspect.getsourcelines` searches all imported modules for that of the file, and fails if the file of any of them
    has been deleted since it was imported.
    """
    code = function.__code__
    linecache.checkcache(code.co_filename)  # the file may have changed meanwhile
    lines = linecache.getlines(code.co_filename, function.__globals__)
    block = inspect.getblock(lines[code.co_firstlineno - 1 :])
    if not block:
        raise ConversionError(
            f"{_name_of(cls)}.{function.__name__}: its source cannot be read from {code.co_filename}:"
            f"{code.co_firstlineno}; "
            "define the class in a file"
        )
    return block, code.co_firstlineno


def _name_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _recipe(cls: type) -> tuple[type, Chain]:
    recipe = vars(cls).get("_reborn_recipe")
    return recipe if recipe is not None else (cls, ())


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    root, chain = _recipe(type(self))
    return _blank, (root, chain), object.__getattribute__(self, "__getstate__")()


def _blank(root: type, chain: Chain) -> Any:
    cls = _made(root, chain)
    return object.__new__(cls)


def _keep_untraced(base: type, made: type) -> None:
    """Add the class to timm's list of classes that fx must not trace, if its base is in it."""
    if base in get_notrace_modules():  # type: ignore[no-untyped-call]
        register_notrace_module(made)
