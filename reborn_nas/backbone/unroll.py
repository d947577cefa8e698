"""The forward of one module written out by `torch.fx`, where its source cannot be edited.

That is so for classes without source (typed into a plain interpreter) and for one call that runs several times without
a loop around it. fx follows the forward once in each mode and writes straight-line code; in that code each activation
is a call of its own. Where the modes differ (`if self.training`), both are written, under that condition. The class
stays a subclass of the original; a forward that branches on its input is refused.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from reborn_nas.errors import ConversionError

if TYPE_CHECKING:
    from reborn_nas.backbone.sites import Discovery, Site
    from reborn_nas.backbone.trace import Trace


Swaps = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Unroll:
    """What changes in an unrolled forward.

    Args:
        swaps: (node of the graph, attribute that is called instead).
        digest: of the code that fx wrote before, of both modes.
        train_swaps: those of train mode, where its forward differs; None where one serves both.
    """

    swaps: Swaps
    digest: str
    train_swaps: Swaps | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Unroll:
        """The inverse of `to_dict`."""
        train = data.get("train_swaps")
        return cls(_swaps(data["swaps"]), str(data["digest"]), None if train is None else _swaps(train))


def _swaps(items: Sequence[Sequence[str]]) -> Swaps:
    for _, attribute in items:
        if not str(attribute).isidentifier():
            raise ValueError(f"{attribute!r} is no attribute")
    return tuple((str(node), str(attribute)) for node, attribute in items)


@dataclass(frozen=True)
class Unrolled:
    """A forward as text, with the objects that its names mean (`module:qualname`). Pickled with its instances."""

    code: str
    names: tuple[tuple[str, str], ...]

    def methods(self, base: type) -> dict[str, Any]:
        """The forward as a function."""
        digest = hashlib.sha256(self.code.encode()).hexdigest()[:12]
        filename = f"<reborn_nas {base.__module__}:{base.__qualname__}.forward unrolled {digest}>"
        lines = self.code.splitlines(keepends=True)
        linecache.cache[filename] = (len(self.code), None, lines, filename)
        space: dict[str, Any] = {name: _import(target) for name, target in self.names}
        exec(compile(self.code, filename, "exec"), space)
        return {"forward": space["forward"]}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def unroll_fault(owner: nn.Module) -> str | None:
    """Why the forward of `owner` cannot be unrolled, or None where it can."""
    try:
        graphs = _graphs(owner)
        unrolled(owner, Unroll((), _digest(graphs), None if len(graphs) == 1 else ()))
    except ConversionError as error:
        return str(error)
    return None


def unroll_of(owner: nn.Module, found: Discovery, attributes: Mapping[str, str]) -> Unroll:
    """The swaps that give each site of `attributes` (site → attribute) its own call.

    Raises:
        ConversionError: fx cannot follow the forward.
    """
    graphs = _graphs(owner)
    sites = {site.name: site for site in found.sites}
    runs = [found.eval_trace, found.train_trace]
    if len(graphs) == 1:
        places = {name: _anywhere(graphs[0], runs, sites[name]) for name in attributes}
        return Unroll(_of(places, attributes), _digest(graphs))
    swaps = [
        _of({name: _node(graph, run, sites[name]) for name in attributes}, attributes)
        for graph, run in zip(graphs, runs)
    ]
    return Unroll(swaps[0], _digest(graphs), swaps[1])


def _of(nodes: Mapping[str, fx.Node | None], attributes: Mapping[str, str]) -> Swaps:
    return tuple((node.name, attributes[site]) for site, node in nodes.items() if node is not None)


def unrolled(owner: nn.Module, unroll: Unroll) -> Unrolled:
    """The forward of `owner` with the swaps made.

    Raises:
        ConversionError: the forward is not the one that was planned with.
    """
    graphs = _graphs(owner)
    modes = 1 if unroll.train_swaps is None else 2
    if len(graphs) != modes or _digest(graphs) != unroll.digest:
        raise ConversionError(
            f"{type(owner).__name__}: its forward is not the one that the plan was made with; plan again"
        )
    written = [
        _written(graph, swaps) for graph, swaps in zip(graphs, (unroll.swaps, unroll.train_swaps or ()))
    ]
    texts, names = [text for text, _ in written], dict[str, str]()
    for _, meanings in written:
        for name, target in meanings.items():
            if names.setdefault(name, target) != target:
                raise ConversionError(f"torch.fx gave the name {name} to two things, one in each mode")
    text = texts[0] if modes == 1 else _branched(texts[1], texts[0])
    return Unrolled(text, tuple(sorted(names.items())))


def _written(graph: fx.Graph, swaps: Swaps) -> tuple[str, dict[str, str]]:
    """The code of a graph with the swaps made, and what its names mean."""
    nodes = {node.name: node for node in graph.nodes}
    for name, attribute in swaps:
        node = nodes[name]
        given = node.all_input_nodes[0]
        with graph.inserting_before(node):
            new = graph.call_module(attribute, (given,))
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    code = graph.python_code("self")
    text = code.src.strip() + "\n"
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    return text, {name: _name_of(value) for name, value in sorted(code.globals.items()) if name in used}


def _branched(train: str, evaluation: str) -> str:
    """One forward that does what the first text says in train mode, else what the second does."""
    first, second = (_only_function(text) for text in (train, evaluation))
    if ast.dump(first.args) != ast.dump(second.args):
        raise ConversionError("its forward takes other arguments in train mode than in eval mode")
    training = ast.parse("self.training", mode="eval").body
    second.body = [ast.If(training, first.body, []), *second.body]
    return ast.unparse(ast.fix_missing_locations(second)) + "\n"


def _only_function(text: str) -> ast.FunctionDef:
    (function,) = ast.parse(text).body
    if not isinstance(function, ast.FunctionDef):
        raise ConversionError("torch.fx wrote something else than one function")
    return function


def _graphs(owner: nn.Module) -> tuple[fx.Graph, ...]:
    """The forward in eval mode and in train mode; one graph where they are alike."""
    mode = owner.training
    try:
        graphs = []
        for training in (False, True):
            owner.training = training  # its children are leaves, their modes do not matter
            graph = _Tracer().trace(owner)
            for node in graph.nodes:
                node.type = None  # annotations may name what cannot be imported
            graphs.append(graph)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(f"torch.fx cannot follow its forward either: {reason}") from error
    finally:
        owner.training = mode
    same = _source(graphs[0]) == _source(graphs[1])
    return (graphs[0],) if same else tuple(graphs)


def _source(graph: fx.Graph) -> str:
    return graph.python_code("self").src


def _digest(graphs: Sequence[fx.Graph]) -> str:
    return hashlib.sha256("".join(map(_source, graphs)).encode()).hexdigest()[:16]


def _anywhere(graph: fx.Graph, runs: Sequence[Trace | None], site: Site) -> fx.Node | None:
    """The node of a graph that serves both modes; the module may run in train mode alone."""
    return next((node for run in runs if (node := _node(graph, run, site)) is not None), None)


def _node(graph: fx.Graph, run: Trace | None, site: Site) -> fx.Node | None:
    """The node of the graph that is this site: the k-th of its kind in one run of the owner. None where it never runs.

    Raises:
        ConversionError: fx sees other calls than ran.
    """
    if run is None:
        return None
    nodes: Sequence[fx.Node]
    if site.path is not None:
        target = site.path[len(site.owner) + 1 :] if site.owner else site.path
        nodes = [node for node in graph.nodes if node.op == "call_module" and node.target == target]
        calls = [call for call in run.calls if call.path == site.path and call.caller == site.owner]
        places = [(call.span, call.parent) for call in calls]
    else:
        name = site.name.rpartition("@")[0].rpartition(".")[2] or site.name
        nodes = [node for node in graph.nodes if _function(node) == name]
        ops = [op for op in run.ops if op.module == site.owner and op.name == name]
        places = [(op.span, op.call) for op in ops]
    places = [place for place in places if place[1] == places[0][1]]
    same = [index for index, (span, _) in enumerate(places) if span == site.span]
    if not same:
        return None
    if len(nodes) != len(places):
        raise ConversionError(f"torch.fx sees {len(nodes)} calls where {len(places)} ran")
    return nodes[same[site.iteration]] if site.iteration < len(same) else None


def _function(node: fx.Node) -> str | None:
    if node.op == "call_method":
        return str(node.target).strip("_")
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", "")).strip("_")
    return None


def _name_of(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return f"{value.__name__}:"
    if value is None or isinstance(value, float):
        return f"={value!r}"
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None:  # functions of torch's C part do not say where they are
        for home in ("torch", "torch._C._nn", "torch.nn.functional"):
            if getattr(import_module(home), str(name), None) is value:
                return f"{home}:{name}"
    if module is None or name is None or _import(f"{module}:{name}") is not value:
        raise ConversionError(f"torch.fx wrote a name that cannot be imported again: {value!r}")
    return f"{module}:{name}"


def _import(target: str) -> Any:
    if target.startswith("="):
        return None if target == "=None" else float(target[1:])
    module, _, name = target.partition(":")
    value: Any = import_module(module)
    for part in name.split(".") if name else ():
        value = getattr(value, part)
    return value
