"""The walk from doubled activations to the layers that read them: which tensors must grow, or why they cannot.

Only what a rule or a layer proves is allowed. All doubled sites of a network are walked together, because their
channels may meet in one concatenation and one consumer.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from reborn_nas.activations import CHANNELS_LAST
from reborn_nas.backbone.layers.registry import Blocked, Outcome, Scene, Wide
from reborn_nas.backbone.layers.steps import ACTIONS, ChannelMap, Refusal, Widening, WidenStep
from reborn_nas.backbone.sites.site import Site, site_values
from reborn_nas.backbone.trace.graph import Op, Trace
from reborn_nas.backbone.trace.ops import operation
from reborn_nas.backbone.widen import reshaping, rules
from reborn_nas.backbone.widen.reshaping import takes_size
from reborn_nas.backbone.widen.rules import spatial_rank
from reborn_nas.errors import SiteError

RULES = {**rules.RULES, **reshaping.RULES}


def widening(
    traces: Trace | Sequence[Trace], sites: Site | Sequence[Site], *, among: Sequence[Site] = ()
) -> Widening | Refusal:
    """Find the tensors that must grow if `sites` double their channels, or the reason why they cannot.

    Args:
        traces: one run of the network, or one in train and one in eval mode.
        sites: all sites that one architecture doubles. Their output is cat([a(x), b(x)]) along the channels.
        among: other sites, whose activations may be between a doubled site and its consumers; `Widening.channels`
            holds their number of channels then.

    Raises:
        SiteError: no trace runs a site.
    """
    runs = (traces,) if isinstance(traces, Trace) else tuple(traces)
    doubled = tuple(sites) if isinstance(sites, Sequence) else (sites,)
    steps: dict[tuple[str, str, int], WidenStep] = {}
    widths: dict[str, int] = {}
    found: set[str] = set()
    walked: list[tuple[Trace, set[tuple[str, str, int]]]] = []
    for run in runs:
        seeds: dict[int, int] = {}
        for site in doubled:
            for _, made in site_values(run, site):
                found.add(site.name)
                last = len(run.values[made].shape) - 1
                seeds[made] = last if site.layout in CHANNELS_LAST else min(1, last)
        walk = Walk(run, seeds)
        refusal = walk.run() or walk.collect(steps)
        if refusal is not None:
            return refusal
        walked.append((run, {key for made in walk.steps.values() for step in made for key in step.keys}))
        for site in (*doubled, *among):
            for given, _ in site_values(run, site):
                if given in walk.wide:
                    widths[site.name] = walk.wide[given].channels.width
    missing = [site.name for site in doubled if site.name not in found]
    if missing:
        raise SiteError(
            f"site {missing[0]!r} does not run in this network; `reborn-nas sites` lists those that do"
        )
    for run, keys in walked:
        for key, step in steps.items():
            if key not in keys and _reads(run, key):
                mode = "train" if run.training else "eval"
                what = f"which in {mode} mode read channels that are not doubled"
                reason = f"they meet the weights of {step.module!r}, {what}"
                return Refusal(reason, step.action, step.module)
    return Widening(tuple(dict.fromkeys(steps.values())), widths)


def _reads(run: Trace, key: tuple[str, str, int]) -> bool:
    """Whether an operation of the run reads a tensor."""
    name = f"{key[0]}.{key[1]}".lstrip(".")
    return any(run.consumers(value.id) for value in run.values if value.param == name)


class Walk:
    """Carries widened channels through one trace, in execution order, until all are consumed.

    Args:
        trace: the run.
        doubled: id → channel dimension, of the doubled values.
    """

    def __init__(self, trace: Trace, doubled: Mapping[int, int]) -> None:
        self.trace = trace
        self.doubled = dict(doubled)
        self.wide: dict[int, Wide] = {}
        self.steps: dict[int, tuple[WidenStep, ...]] = {}
        self._cuts: dict[int, Refusal] = {}  # norm of an identity branch -> the refusal of its sum
        self._copied: set[int] = set()  # depthwise convolutions in the computation of a factor
        self._queue: list[int] = []
        self._queued: set[int] = set()

    def run(self) -> Refusal | None:
        """Walk to the end; returns a refusal if something blocks."""
        for value in self.doubled:
            self._set(value, None)
        while self._queue:
            index = heapq.heappop(self._queue)
            self._queued.discard(index)
            op = self.trace.ops[index]
            try:
                self._pass(op)
            except Blocked as block:
                refusal = _refusal(op, str(block))
                if not self._cut(op, refusal):
                    return refusal
        for value in self.trace.outputs:
            if value in self.wide:
                return Refusal("they are an output of the network", "output", "")
        return self._unread() or self._counted()

    def _cut(self, total: Op, refusal: Refusal) -> bool:
        """Let the norms of identity branches that meet in the sum `total` keep their channels, if there are any."""
        found = False
        for value in dict.fromkeys(total.inputs):
            norm = rules.identity_branch(self.trace, total, value) if value in self.wide else None
            if norm is not None and value not in self.doubled:
                del self.wide[value]  # only the sum reads it, so nothing else must be undone
                self._cuts[norm.index] = refusal
                self._push(norm.index)
                self._push(total.index)
                found = True
        return found

    def _unread(self) -> Refusal | None:
        """Refuse if extra channels end only in cut branches, so that nothing would read them."""
        if self._cuts and not all(map(self._is_read, self.doubled)):
            return next(iter(self._cuts.values()))
        return None

    def _is_read(self, value: int) -> bool:
        pending, seen = [value], {value}
        while pending:
            for op in self.trace.consumers(pending.pop()):
                if any(ACTIONS[step.action].reads for step in self.steps.get(op.index, ())):
                    return True
                behind = [made for made in op.outputs if made in self.wide and made not in seen]
                seen.update(behind)
                pending += behind
        return False

    def _counted(self) -> Refusal | None:
        """Refuse a reshape to a number of channels that the forward reads from the shape of a widened value."""
        for value, call in sorted(self.trace.shape_reads):
            wide = self.wide.get(value)
            if wide is None:
                continue
            size = self.trace.values[value].shape[wide.dim]
            for op in self.trace.reshapes(call):
                if not self.wide.keys() & set(op.inputs) and takes_size(op, size, wide.dim):
                    return _refusal(op, f"a {op.name} of something else to their own number of channels")
        return None

    def collect(self, steps: dict[tuple[str, str, int], WidenStep]) -> Refusal | None:
        """Add this run's steps to `steps`, unless a tensor is needed in two ways."""
        users: dict[tuple[str, str, int], set[int]] = {}
        for index, made in self.steps.items():
            for step in made:
                for key in step.keys:
                    users.setdefault(key, set()).add(index)
                    if steps.setdefault(key, step) != step:
                        return _shared(self.trace.ops[max(index, 0)], step)
        for key, indices in users.items():
            for op in self._others(steps[key], indices):
                return _shared(op, steps[key])
        actions: dict[str, set[str]] = {}
        for step in steps.values():
            actions.setdefault(step.module, set()).add(step.action)
        for index, made in self.steps.items():
            for step in made:  # one mode may cut or copy what another widens
                if ACTIONS[step.action].excludes in actions[step.module]:
                    return _shared(self.trace.ops[max(index, 0)], step)
        return None

    def _others(self, step: WidenStep, indices: set[int]) -> Iterable[Op]:
        """The operations that use the step's tensors or layer, except those for which they are widened."""
        if min(indices) < 0:
            return  # a parameter: the walk has followed its value to all operations
        uses = ACTIONS[step.action].uses
        if uses == "layer":
            name = self.trace.ops[min(indices)].name
            for op in self.trace.ops:
                if op.module == step.module and op.name == name and op.index not in indices:
                    yield op
            return
        if not uses:
            return
        names = {f"{step.module}.{tensor}".lstrip(".") for tensor in step.tensors}
        for value in self.trace.ops[min(indices)].inputs:
            if self.trace.values[value].param in names:
                for op in self.trace.consumers(value):
                    if op.index not in indices:
                        yield op

    def _pass(self, op: Op) -> None:
        if all(value not in self.wide for value in op.inputs):
            return
        outcome = self._outcome(Scene(self.trace, op, self.wide))
        if outcome.wanted:
            for value, wide in outcome.wanted:
                self._want(op, value, wide)
            self._push(op.index)
            return
        if outcome.steps:
            self.steps[op.index] = (*self._repeats(op), *outcome.steps)
        for value, made in (*zip(op.outputs, outcome.outputs), *outcome.later):
            self._set(value, made)

    def _outcome(self, scene: Scene) -> Outcome:
        """Apply the rule of the layer that runs the operation, else the rule of the operation."""
        op, known = scene.op, operation(scene.op.name)
        try:
            if op.index in self._cuts:
                return rules.cut(scene)
            if op.index in self._copied:
                return rules.copied(scene)
            outcome = scene.layer.plan(scene)
            if outcome is None and known.widen:
                outcome = RULES[known.widen](scene)
        except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError) as error:
            raise Blocked(f"{op.name!r}, called in a form that its rule does not know") from error
        if outcome is None:
            raise Blocked(
                known.blocks or f"{op.name!r}, for which no rule shows that it keeps channels apart"
            )
        return outcome

    def _repeats(self, op: Op) -> tuple[WidenStep, ...]:
        return tuple(step for step in self.steps.get(op.index, ()) if step.action == "repeat")

    def _set(self, value: int, made: Wide | None) -> None:
        """Record that `value` is widened as in `made`, and also doubled if it is the output of a doubled site."""
        if value in self.doubled:
            dim = self.doubled[value]
            before = made.channels if made else ChannelMap.identity(self.trace.values[value].shape[dim])
            made = Wide(dim, before.doubled())
        if made is None or self.wide.get(value) == made:
            return
        self.wide[value] = made
        for op in self.trace.consumers(value):
            self._push(op.index)

    def _push(self, index: int) -> None:
        if index not in self._queued:
            self._queued.add(index)
            heapq.heappush(self._queue, index)

    def _want(self, op: Op, value: int, wide: Wide) -> None:
        """Widen `value` at its origin, by repeating the channels of the layer that makes it."""
        for source, there in self._sources(value, wide):
            producer = self.trace.producer(source)
            if producer is None:
                name = str(self.trace.values[source].param)
                owner, _, tensor = name.rpartition(".")
                step = WidenStep("copy", owner, (tensor,), there.dim, 1, there.channels)
                self.steps[-1 - source] = (step,)
            else:
                scene = Scene(self.trace, producer, self.wide)
                tensors = (scene.tensor(1, "weight"), scene.tensor(2, "bias"))
                step = scene.step("repeat", tensors, 0, there.channels)
                kept = tuple(s for s in self.steps.get(producer.index, ()) if s.action != "repeat")
                self.steps[producer.index] = (step, *kept)
            if self.wide.get(source, there) != there:
                raise Blocked("a factor that serves two values that are widened differently")
            self._set(source, there)

    def _sources(self, value: int, wide: Wide) -> Iterable[tuple[int, Wide]]:
        """The parameters and layer outputs that determine the channels of `value`, and how each must be widened."""
        pending = [(value, wide)]
        while pending:
            value, wide = pending.pop()
            if self.trace.values[value].param is not None:
                yield value, wide
                continue
            op = self.trace.producer(value)
            if op is None or value in self.doubled:
                raise Blocked("an input of the network")
            if op.name in ("conv1d", "conv2d", "conv3d", "linear"):
                if rules.is_depthwise(Scene(self.trace, op, self.wide)):
                    self._copied.add(op.index)
                    self._push(op.index)
                    if self.wide.get(op.inputs[0]) != wide:
                        pending.append((op.inputs[0], wide))
                    continue
                self._must_repeat(op, value, wide)
                yield value, wide
                continue
            pending += self._behind(op, value, wide)

    def _must_repeat(self, op: Op, value: int, wide: Wide) -> None:
        scene = Scene(self.trace, op, self.wide)
        groups = 1 if op.name == "linear" else int(scene.arg(6, "groups", 1))
        rank = len(self.trace.values[value].shape)
        place = rank - 1 if op.name == "linear" else rank - 1 - spatial_rank(op)
        if groups != 1 or wide.dim != place:
            raise Blocked(f"a factor that a grouped {op.name} makes")

    def _behind(self, op: Op, value: int, wide: Wide) -> list[tuple[int, Wide]]:
        """The inputs of `op` that must be widened so that its output is widened as in `wide`."""
        if operation(op.name).widen == "elementwise":
            found = self._factors(op, value, wide)
        else:
            found = []
            for given in dict.fromkeys(op.inputs):
                if given not in self.wide and not (found and op.name in ("cat", "stack", "batch_norm")):
                    found += self._tried(op, value, wide, given)
        if not found:
            raise Blocked(f"a factor that is made by {op.name}")
        return found

    def _factors(self, op: Op, value: int, wide: Wide) -> list[tuple[int, Wide]]:
        """The operands of arithmetic that have the channels of its result."""
        found = []
        rank = len(self.trace.values[value].shape)
        for given in dict.fromkeys(op.inputs):
            shape = self.trace.values[given].shape
            dim = wide.dim - (rank - len(shape))
            if given not in self.wide and dim >= 0 and shape[dim] == wide.channels.size:
                found.append((given, Wide(dim, wide.channels)))
        return found

    def _tried(self, op: Op, value: int, wide: Wide, given: int) -> list[tuple[int, Wide]]:
        """The input `given` with the dimension along which it must be widened, if there is one."""
        for dim, size in enumerate(self.trace.values[given].shape):
            if size == wide.channels.size:
                trial = Wide(dim, wide.channels)
                try:
                    outcome = self._outcome(Scene(self.trace, op, {**self.wide, given: trial}))
                except Blocked:
                    continue
                if outcome.outputs[op.outputs.index(value)] == wide:
                    return [(given, trial)]
        return []


def _refusal(op: Op, what: str) -> Refusal:
    place = f"'{op.module}'" if op.module else "the network's own forward"
    where = f" ({op.span.function}, {op.span.place})" if op.span else ""
    return Refusal(f"they meet {what}, in {place}{where}", op.name, op.module)


def _shared(op: Op, step: WidenStep) -> Refusal:
    return _refusal(
        op, f"the weights of {step.module!r}, which are also used where the channels are not doubled"
    )
