"""Activations written out in a forward, x · σ(x), y · (y > 0), where(y > 0, y, 0.1 · y), or called as plain functions.

Such an activation is several operations that together compute a pointwise function of one map; it is named by the
values of that function. If the operations are one expression of the source, it is a site; else it is listed as a
non-site.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reborn_nas.backbone.sites.units import Unit, activation_name
from reborn_nas.backbone.trace.expressions import (
    NotOne,
    NotPointwise,
    expression_of,
    has_own_derivative,
    parameters_of,
    probe,
)
from reborn_nas.backbone.trace.graph import Expression, Op, Trace
from reborn_nas.backbone.trace.ops import operation


@dataclass(frozen=True)
class Formula:
    """An activation that is written out or called as a plain function.

    Args:
        unit: execution.
        reason: why no module can replace it, or None if one can.
    """

    unit: Unit
    reason: str | None


@dataclass(frozen=True)
class _Derived:
    source: int
    ops: tuple[Op, ...]


def find_formulas(run: Trace, live: Collection[int], units: Sequence[Unit]) -> list[Formula]:
    """The formulas of a run, in execution order.

    Args:
        live: values that depend on the network's inputs.
        units: the activations that are a single operation or module.
    """
    return _Search(run, live, units).found()


class _Search:
    def __init__(self, run: Trace, live: Collection[int], units: Sequence[Unit]) -> None:
        self.run = run
        fresh = {value for op in run.ops if operation(op.name).makes for value in op.outputs}
        self.live = {value for value in live if value not in fresh}
        self.closed: set[int] = set()  # operations that belong to an activation of another kind
        self.inside: set[int] = set()  # operations of modules that are an activation
        self.open: set[int] = set()  # calls of modules that may be a part of a formula
        for unit in units:
            ops = range(unit.first_op, unit.last_op + 1)
            part = operation(unit.activation).squashes or unit.activation in ("relu6", "softplus")
            if unit.call is not None:
                self.inside.update(ops)
                if part and not self._weights(run.ops[unit.first_op : unit.last_op + 1]):
                    self.open.add(run.calls.index(unit.call))
                    continue
            elif part or operation(unit.name).in_hard_swish:
                continue
            self.closed.update(ops)
        self.opaque: set[int] = set()  # results of formulas that were found
        self.formulas: dict[int, Formula] = {}  # index of the last operation -> formula

    def _weights(self, ops: Sequence[Op]) -> bool:
        return any(self.run.values[value].param is not None for op in ops for value in op.inputs)

    def found(self) -> list[Formula]:
        """Find calls of plain functions, then known activations, then all others, until nothing new is found."""
        self._functions()
        while True:
            rest = self._named()
            largest = sorted(rest, key=lambda made: -len(made.ops))
            joined = [
                made for made in largest if len(made.ops) > 1
            ]  # a bound alone, such as min(y, 6), is not a formula
            if not [made for made in joined if self._new(made) and self._accept(made, named=False)]:
                break
        for made in self._largest(rest):
            if self._new(made):
                self._list(made)
        return [self.formulas[index] for index in sorted(self.formulas)]

    def _new(self, made: _Derived) -> bool:
        known = {op.index for formula in self.formulas.values() for op in formula.unit.ops}
        return known.isdisjoint(op.index for op in made.ops)

    def _functions(self) -> None:
        """Find plain functions that are an activation, including `torch.autograd.Function`s."""
        turns: dict[tuple[int, int], list[Op]] = {}
        for op in self.run.ops:
            if op.turn and op.index not in self.inside:
                turns.setdefault((op.call, op.turn), []).append(op)
        for ops in turns.values():
            reading = [op for op in ops if operation(op.name).makes or not self.live.isdisjoint(op.inputs)]
            reading = [op for op in reading if not operation(op.name).makes]
            made = {value for op in reading for value in op.outputs}
            sources = {
                value for op in reading for value in op.inputs if value in self.live and value not in made
            }
            if len(sources) != 1 or any(len(op.outputs) != 1 for op in reading):
                continue
            (source,) = sources
            self._accept(_Derived(source, tuple(reading)), named=True, plain_function=True)

    def _named(self) -> list[_Derived]:
        """Accept known activations; returns the other formulas."""
        derived: dict[int, _Derived] = {}
        bent: set[int] = set()
        rest: list[_Derived] = []
        for op in self.run.ops:
            inputs = [value for value in op.inputs if value in self.live]
            if (
                not inputs
                or op.index in self.closed
                or not operation(op.name).in_formula
                or len(op.outputs) != 1
            ):
                continue
            if op.outputs[0] in self.opaque:
                continue
            made = self._joined(op, inputs, derived)
            if made is None:
                continue
            value = op.outputs[0]
            derived[value] = made
            core = self._is_formula(made)
            if core or any(given in bent for given in op.inputs):
                bent.add(value)
                if self._accept(made, named=True):
                    del derived[value]
                elif core:
                    rest.append(made)
        return rest

    def _joined(self, op: Op, inputs: Sequence[int], derived: Mapping[int, _Derived]) -> _Derived | None:
        """The result of `op` as a function of one earlier value of the same module call, or None."""
        sources = []
        for value in inputs:
            known = derived.get(value)
            here = known is not None and self._home(known.ops[-1].call) == self._home(op.call)
            sources.append({value, known.source} if known is not None and here else {value})
        common = set.intersection(*sources)
        if not common or self.run.values[op.outputs[0]].shape != self.run.values[inputs[0]].shape:
            return None
        source = min(common)
        ops: dict[int, Op] = {}
        for value in inputs:
            known = derived.get(value)
            if value != source and known is not None:
                ops.update({each.index: each for each in known.ops})
        return _Derived(source, (*(ops[index] for index in sorted(ops)), op))

    def _home(self, call: int) -> int:
        """The call that contains a formula with an operation of this call, since modules may be parts of a formula."""
        while call in self.open:
            call = self.run.calls[call].parent
        return call

    def _is_formula(self, made: _Derived) -> bool:
        last = made.ops[-1]
        operands = len(last.args) + len(last.kwargs)  # where(condition) and max(map) do not join
        if not operation(last.name).joins or last.call in self.open or operands < 2:
            return False
        if not self.run.values[last.outputs[0]].floating:
            return False
        several = sum(value in self.live for value in last.inputs) > 1
        bends = any(operation(op.name).bends for op in made.ops)
        alone = operation(last.name).chooses and len(made.ops) == 1
        return bends and (several or alone or last.name in ("masked_fill", "setitem"))

    def _accept(self, made: _Derived, *, named: bool, plain_function: bool = False) -> bool:
        """Keep it if it is a site. `named` requires a known activation, `plain_function` marks plain functions."""
        last = made.ops[-1]
        single = activation_name(last) if len(made.ops) == 1 else None
        try:
            known = (single, None) if single is not None else probe(self.run, made.ops, made.source)
        except NotPointwise:
            return False
        if known is None or operation(known[0]).squashes:
            return False
        activation, label = known
        loose = activation.startswith("other:")
        if loose and ((named and not plain_function) or any(activation_name(op) for op in made.ops)):
            return False
        if any(op.inplace and op.inputs[0] == made.source for op in made.ops) and single is None:
            return False
        if parameters_of(self.run, made.ops, made.source) or self._detaches(made):
            return False
        try:
            expression = expression_of(self.run, made.ops, made.source, self.live)
        except NotOne:
            return False
        function = next((op.function for op in made.ops if op.function is not None), None)
        reason = None
        if function is not None and not has_own_derivative(*function, made.source):
            reason = (
                f"backward of {function[0].__name__} is not the derivative of its forward (a straight-through "
                "estimator), and training would lose it"
            )
        self._keep(made, activation, label, expression, reason, single is not None)
        self.opaque.add(last.outputs[0])
        return True

    def _detaches(self, made: _Derived) -> bool:
        """Whether a part of it that computes numbers, not booleans, is detached from the gradient."""
        return any(
            op.name in ("detach", "data")
            and any(self._numbers(user) for user in self.run.consumers(op.outputs[0]))
            for op in made.ops
        )

    def _numbers(self, op: Op) -> bool:
        return any(self.run.values[value].floating for value in op.outputs)

    def _keep(
        self,
        made: _Derived,
        activation: str,
        label: str | None,
        expression: Expression | None,
        reason: str | None,
        single: bool,
    ) -> None:
        last = made.ops[-1]
        unit = Unit(
            activation=activation,
            path=None,
            name=last.name if single else "formula",
            owner=last.module,
            parent=last.call,
            first_op=last.index,
            last_op=last.index,
            input=made.source,
            output=last.outputs[0],
            inplace=single and last.inplace,
            call=None,
            op=last,
            ops=made.ops,
            expression=expression,
            label=label,
        )
        self.formulas[last.index] = Formula(unit, reason)

    def _list(self, made: _Derived) -> None:
        """Keep it as a non-site, with the reason."""
        if any(op.name != "softplus" and activation_name(op) for op in made.ops):
            return  # a separate site
        activation, label = "other:formula", None
        names = parameters_of(self.run, made.ops, made.source)
        why = ""
        try:
            found = probe(self.run, made.ops, made.source)
            if found is None:
                return
            if len(made.ops) == 1:
                return
            activation, label = found
        except NotPointwise as error:
            why = str(error)
        if names:
            own = " and ".join(repr(name) for name in names[:2])
            why = f"it reads {own}, which nothing would read any more"
        elif any(op.inplace and op.inputs[0] == made.source for op in made.ops):
            why = "it writes over the map"
        elif self._detaches(made):
            why = "it detaches a part of itself, so that its gradient is not its derivative"
        elif not why:
            try:
                expression_of(self.run, made.ops, made.source, self.live)
                why = "a part of it is itself an activation"
            except NotOne as error:
                why = str(error)
        self._keep(made, activation, label, None, why, single=False)

    def _largest(self, candidates: Sequence[_Derived]) -> Iterator[_Derived]:
        """The candidates that are read and not part of another one."""
        indices = [{op.index for op in made.ops} for made in candidates]
        for made, mine in zip(candidates, indices):
            value = made.ops[-1].outputs[0]
            read = value in self.run.outputs or any(op.index not in mine for op in self.run.consumers(value))
            if read and not any(mine < other for other in indices):
                yield made
