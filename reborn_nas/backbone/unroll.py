"""The forward of one module written out by `torch.fx`, where its source cannot be edited.

That is so for classes without source (typed into a plain interpreter) and for one call that runs several times without
a loop around it. fx follows the forward once and writes straight-line code; in that code each activation is a call of
its own. The class stays a subclass of the original, but a branch that depended on the input is frozen, so a forward
that differs between train and eval mode is refused.
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


@dataclass(frozen=True)
class Unroll:
    """What changes in an unrolled forward.

    Args:
        swaps: (node of the graph, attribute that is called instead).
        digest: of the code that fx wrote before.
    """

    swaps: tuple[tuple[str, str], ...]
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Unroll:
        """The inverse of `to_dict`."""
        return cls(
            tuple((str(node), str(attribute)) for node, attribute in data["swaps"]), str(data["digest"])
        )


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
        unrolled(owner, Unroll((), _digest(_graph(owner))))
    except ConversionError as error:
        return str(error)
    return None


def unroll_of(owner: nn.Module, found: Discovery, attributes: Mapping[str, str]) -> Unroll:
    """The swaps that give each site of `attributes` (site → attribute) its own call.

    Raises:
        ConversionError: fx cannot follow the forward, or it differs between the modes.
    """
    graph = _graph(owner)
    sites = {site.name: site for site in found.sites}
    swaps = [(_node(graph, found, sites[name]).name, attribute) for name, attribute in attributes.items()]
    return Unroll(tuple(swaps), _digest(graph))


def unrolled(owner: nn.Module, unroll: Unroll) -> Unrolled:
    """The forward of `owner` with the swaps made.

    Raises:
        ConversionError: the forward is not the one that was planned with.
    """
    graph = _graph(owner)
    if _digest(graph) != unroll.digest:
        raise ConversionError(
            f"{type(owner).__name__}: its forward is not the one that the plan was made with; plan again"
        )
    nodes = {node.name: node for node in graph.nodes}
    for name, attribute in unroll.swaps:
        node = nodes[name]
        given = node.all_input_nodes[0]
        with graph.inserting_before(node):
            new = graph.call_module(attribute, (given,))
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    code = graph.python_code("self")
    text = code.src.strip() + "\n"
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    names = tuple((name, _name_of(value)) for name, value in sorted(code.globals.items()) if name in used)
    return Unrolled(text, names)


def _graph(owner: nn.Module) -> fx.Graph:
    mode = owner.training
    try:
        graphs = []
        for training in (True, False):
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
    if _digest(graphs[0]) != _digest(graphs[1]):
        raise ConversionError("its forward differs between train and eval mode, which torch.fx would freeze")
    return graphs[1]


def _digest(graph: fx.Graph) -> str:
    return hashlib.sha256(graph.python_code("self").src.encode()).hexdigest()[:16]


def _node(graph: fx.Graph, found: Discovery, site: Site) -> fx.Node:
    """The node of the graph that is this site: the k-th of its kind in one run of the owner."""
    run = found.eval_trace
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
    if len(nodes) != len(places) or site.iteration >= len(same):
        raise ConversionError(f"torch.fx sees {len(nodes)} calls where {len(places)} ran")
    return nodes[same[site.iteration]]


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
