"""What an architecture costs in a study: counted on the meta device, latency measured, each once; and its limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from reborn_nas.analysis.model.maximise import Budget
from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.backbone import apply, build, discover, plan
from reborn_nas.backbone import build as make
from reborn_nas.backbone.cost import predict
from reborn_nas.errors import ConfigError, RebornError
from reborn_nas.study.config.objectives import LIMITS, Limit, read_limit, refuse_impossible
from reborn_nas.training.measure.latency import measure_latency

if TYPE_CHECKING:
    from torch import nn

    from reborn_nas.analysis.model.maximise import Budget
    from reborn_nas.analysis.model.recommend import Excess
    from reborn_nas.backbone.cost import Cost
    from reborn_nas.backbone.sites.site import Discovery
    from reborn_nas.study.setup.context import StudyContext

__all__ = ["CostBook", "counted_excess", "limits_of"]

STATE_BYTES = 12
"""A parameter's own four bytes, its gradient's and its momentum's."""

TOLERANCE = 1e-9

Build = Callable[[Mapping[str, str]], Architecture]


def limits_of(settings: Mapping[str, str | None]) -> tuple[Limit, ...]:
    """The limits among `max_params`, `max_macs`, `max_latency` and `max_memory`. Raises ValueError."""
    return tuple(
        read_limit(quantity, text)
        for name, quantity in LIMITS.items()
        if (text := settings.get(name)) is not None
    )


COUNTED = ("params", "macs")
"""Quantities that are counted on the meta device, wherever that is."""


def counted_excess(spec: BackboneSpec, limits: Mapping[str, float], build: Build) -> Excess | None:
    """An assignment → by what share it exceeds each of `limits` (quantity → amount) that is counted.

    Returns:
        None where no limit is counted or the backbone cannot be built here; a file of one's own is not run for it.
    """
    counted = {name: most for name, most in limits.items() if name in COUNTED}
    if not counted or spec.library == "file":
        return None

    @cache
    def traced(one: BackboneSpec) -> tuple[nn.Module, Discovery]:
        template = make(one, device="meta")
        return template, discover(template, one.input_size)

    try:
        traced(spec)
    except RebornError:
        return None

    def excess(chosen: Mapping[str, str]) -> dict[str, float]:
        architecture = build(chosen)
        template, discovery = traced(architecture.backbone)
        cost = predict(template, architecture, discovery=discovery)
        return {name: _over(getattr(cost, name), most) for name, most in counted.items()}

    return excess


def _over(value: float, most: float) -> float:
    """By what share `value` is above `most`; rounding is not."""
    share = value / most - 1
    return 0.0 if 0 < share <= TOLERANCE else share


class CostBook:
    """Costs of a study's architectures, kept by digest.

    *memory* is the bytes of one training step at the recipe's batch size, estimated: the results of all operations
    on feature maps, in the study's precision, and parameters with their gradients and momenta.

    Args:
        context: what all trainings share.
    """

    def __init__(self, context: StudyContext) -> None:
        self._context = context
        config = context.config
        self.limits = limits_of({name: getattr(config, name) for name in LIMITS})
        self._costs: dict[str, Cost] = {}
        self._latencies: dict[str, float] = {}
        self._parent: dict[str, float] = {}

    def cost(self, architecture: Architecture) -> Cost:
        """Parameters, MACs and bytes of activations of one image, on the meta device."""
        key = architecture.digest
        if key not in self._costs:
            template, discovery = self._context.traced(architecture.backbone)
            self._costs[key] = predict(template, architecture, discovery=discovery)
        return self._costs[key]

    def value(self, architecture: Architecture, quantity: str) -> float:
        """One of `limits.QUANTITIES`, in its unit."""
        if quantity == "latency":
            return self._latency(architecture)
        cost = self.cost(architecture)
        if quantity == "memory":
            images = min(self._context.recipe.batch_size, max(1, len(self._context.images.pool)))
            share = 0.5 if self._context.recipe.precision in ("bf16", "fp16") else 1.0
            return images * share * cost.activation_bytes + STATE_BYTES * cost.params
        return float(cost.params if quantity == "params" else cost.macs)

    def parent(self, quantity: str) -> float:
        """What the all-original architecture has."""
        if quantity not in self._parent:
            self._parent[quantity] = self.value(Architecture(self._context.spec, {}), quantity)
        return self._parent[quantity]

    def excess(self, architecture: Architecture) -> dict[str, float]:
        """Quantity → by what share of its limit the architecture is above it; 0 or less where it fits."""
        found = {}
        for limit in self.limits:
            most = limit.absolute(self.parent(limit.quantity))
            found[limit.quantity] = _over(self.value(architecture, limit.quantity), most)
        return found

    def fits(self, architecture: Architecture) -> bool:
        """Whether the architecture keeps every limit."""
        return all(over <= 0 for over in self.excess(architecture).values())

    def budgets(
        self,
        choices: Mapping[str, Sequence[str]],
        build: Build,
        *,
        tightened: Mapping[str, float] | None = None,
    ) -> tuple[Budget, ...]:
        """The limits as sums over the parameters: what each label adds where nothing else is changed.

        Args:
            choices: parameter → its labels.
            build: parameter → label to the architecture; what is not named is as it is without any.
            tightened: quantity → factor on its limit.
        """
        budgets = []
        for limit in self.limits:
            name, most = limit.quantity, limit.absolute(self.parent(limit.quantity))
            if name == "latency":  # each choice at each site would take too long: MACs share the time out
                share = self.parent(name) / max(1.0, self.parent("macs"))
                base, costs = self._added(choices, build, "macs", share)
            else:
                base, costs = self._added(choices, build, name, 1.0)
            budgets.append(Budget(costs, (tightened or {}).get(name, 1.0) * most, base, name))
        return tuple(budgets)

    def refuse_impossible(self, choices: Mapping[str, Sequence[str]], build: Build) -> None:
        """Raise ConfigError where no architecture keeps a limit that is counted; latency is not foretold."""
        least = {
            budget.name: budget.base + sum(min(costs.values()) for costs in budget.costs.values())
            for budget in self.budgets(choices, build)
            if budget.name != "latency"
        }
        refuse_impossible(
            self.limits, {limit.quantity: self.parent(limit.quantity) for limit in self.limits}, least
        )

    def _added(
        self, choices: Mapping[str, Sequence[str]], build: Build, quantity: str, share: float
    ) -> tuple[float, dict[str, dict[str, float]]]:
        base = self.value(build({}), quantity)
        costs = {
            name: {label: share * (self.value(build({name: label}), quantity) - base) for label in labels}
            for name, labels in choices.items()
        }
        return share * base, costs

    def _latency(self, architecture: Architecture) -> float:
        key = architecture.digest
        if key not in self._latencies:
            context = self._context
            model = build(architecture.backbone, device="cpu")
            if architecture.choices:
                template, discovery = context.traced(architecture.backbone)
                model = apply(model, plan(template, architecture, discovery=discovery), inplace=True)
            size = context.input_size
            if size is None:
                raise ConfigError(
                    "latency: is measured with one batch of images, and this network takes other inputs; limit its "
                    "parameters or MACs instead"
                )
            found = measure_latency(
                model,
                size,
                batch_size=context.config.latency_batch or 1,
                device=context.device,
                precision=context.precision,
            )
            self._latencies[key] = found.seconds
        return self._latencies[key]
