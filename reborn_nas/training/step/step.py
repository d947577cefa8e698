"""One training step, and the loss of networks with auxiliary heads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from reborn_nas.errors import TrainingError
from reborn_nas.training.device.precision import arithmetic
from reborn_nas.training.losses import Criterion, make_criterion
from reborn_nas.training.optimisers import CAPTURED, live_state, make_optimiser, norms_and_biases, prepare
from reborn_nas.training.recipe.recipe import Recipe
from reborn_nas.training.step.hidden_state import attribute_tensors

FIRST = 2.0**16
GROWTH_INTERVAL = 2000
"""Steps without an overflow after which the scale doubles; both as in `torch.amp.GradScaler`."""


class LossScaler:
    """`torch.amp.GradScaler`'s rule in tensors that a CUDA graph can hold and a snapshot can restore.

    The loss is multiplied by a scale before the backward pass. Where a gradient overflows, the step is skipped and
    the scale halved; it doubles after `GROWTH_INTERVAL` good steps. The fused optimisers unscale and skip by the
    attributes `grad_scale` and `found_inf`, so that nothing waits for the device.

    Args:
        clip: the largest norm of all gradients together, before they are scaled; None does not clip.
    """

    def __init__(self, device: torch.device, clip: float | None = None) -> None:
        self.clip = clip
        self.scale = torch.full((1,), FIRST, device=device)
        self.good = torch.zeros(1, device=device, dtype=torch.int32)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state, for snapshots and checkpoints."""
        return {"scale": self.scale, "good": self.good}

    def step(self, loss: torch.Tensor, optimiser: Any, parameters: Sequence[torch.Tensor]) -> None:
        """Backward and optimiser step of a fused optimiser, which divides the gradients by the scale."""
        (loss * self.scale[0]).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # the norm is infinite or no number where any gradient is
        norm = torch.nn.utils.get_total_norm(gradients)
        overflow = ~norm.isfinite().view(1)
        if self.clip is not None:
            # the gradients carry the scale, and so does their norm
            torch._foreach_mul_(gradients, (self.clip * self.scale[0] / (norm + 1e-6)).clamp(max=1.0))
        optimiser.grad_scale, optimiser.found_inf = self.scale, overflow.float()
        optimiser.step()
        self.good.copy_(torch.where(overflow, 0, self.good + 1))
        grown = self.good >= GROWTH_INTERVAL
        self.scale.mul_(torch.where(overflow, 0.5, torch.where(grown, 2.0, 1.0)))
        self.good.mul_(~grown)


AUXILIARY_WEIGHT = 0.3
"""Of each auxiliary classifier's loss, as in the GoogLeNet paper (Szegedy et al. 2015, Sec. 5)."""


class TrainingStep:
    """Forward, backward and optimiser on one batch; the loss is added up on the device, never read.

    Args:
        model: already on its device, in train mode.
        tensor_rate: hold the learning rate in a tensor on the device, which a captured step reads anew each
            time; by default on a GPU.
        undecayed: names of parameters that weight decay leaves alone.
        class_weights: float (K,), of the cross entropy.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        precision: str,
        device: torch.device,
        *,
        tensor_rate: bool | None = None,
        undecayed: Collection[str] = (),
        class_weights: torch.Tensor | None = None,
    ) -> None:
        self.model = model
        self.precision, self.device = precision, device
        self.criterion = make_criterion(recipe, None if class_weights is None else class_weights.to(device))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise TrainingError("the network has no trainable parameter; nothing can be trained")
        self.capturable = recipe.optimizer in CAPTURED
        held = device.type == "cuda" and self.capturable if tensor_rate is None else tensor_rate
        self.rate = torch.zeros(1, device=device) if held else None
        self.rates: list[float] = []
        self.at = 0
        if not recipe.decay_norms_and_biases:
            undecayed = {*undecayed, *norms_and_biases(model)}
        self.optimiser = make_optimiser(
            model,
            recipe.optimizer,
            # a view of the rate: what is written there is read here
            recipe.learning_rate if self.rate is None else self.rate[0],
            device,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            arguments=recipe.optimizer_args,
            undecayed=undecayed,
            layer_decay=recipe.layer_decay,
        )
        self._scale_rates()
        if precision == "fp16" and not self.capturable:
            raise TrainingError(
                f"optimizer {recipe.optimizer} cannot skip a step whose gradients overflow in fp16; take --precision "
                "bf16 or fp32, or adamw, adam or sgd"
            )
        self.clip = recipe.clip_grad
        self.scaler = LossScaler(device, self.clip) if precision == "fp16" else None
        prepare(self.optimiser)
        # sums of 50,000 losses: float64 where the device has it
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.loss_sum = torch.zeros((), device=device, dtype=kind)

    def _scale_rates(self) -> None:
        """Each group its own rate where they differ: the schedule's times the group's `lr_scale`."""
        groups = self.optimiser.param_groups
        self.scales = [float(group.get("lr_scale", 1.0)) for group in groups]
        if self.rate is not None and set(self.scales) != {1.0}:
            self.rate = torch.zeros(len(groups), device=self.device)
            for k, group in enumerate(groups):
                group["lr"] = self.rate[k]

    def changed(self) -> dict[str, torch.Tensor]:
        """Every tensor that a step changes in place, gradients aside; the first word of a name is its kind."""
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        found: dict[str, torch.Tensor] = {}
        found |= {f"weight {name}": tensor for name, tensor in zip(names, self.parameters, strict=True)}
        found |= live_state(self.optimiser, self.model)
        found |= {f"buffer {name}": tensor for name, tensor in self.model.named_buffers()}
        found |= {f"attribute {k}": tensor for k, tensor in enumerate(attribute_tensors(self.model))}
        found["loss"] = self.loss_sum
        found |= self.scaler.tensors() if self.scaler is not None else {}
        return (
            found
            if self.rate is None or not self.rates
            else {**found, "rate": self.rate, "place": self.place}
        )

    def follow(self, rates: Sequence[float], at: int = 0) -> None:
        """Take the learning rate of each step to come from `rates`, beginning with the one at `at`.

        On a GPU they lie there, with the place that the next step reads, so that a captured step has its own.
        """
        self.at = at
        self.rates = list(rates)
        if self.rate is not None:
            self.plan = torch.tensor(self.rates, device=self.device)
            self.place = torch.full((1,), at, device=self.device)
            if len(self.rate) > 1:
                self.plan = self.plan[:, None] * torch.tensor(
                    self.scales, device=self.device
                )  # (steps, groups)

    def _next_rate(self) -> None:
        if not self.rates:
            return
        if self.rate is not None:
            # warm-up steps may go past the end; their state is put back
            row = torch.index_select(self.plan, 0, self.place.clamp(max=len(self.rates) - 1))
            self.rate.copy_(row.view(-1))
            self.place += 1
            return
        rate = self.rates[min(self.at, len(self.rates) - 1)]
        for group, scale in zip(self.optimiser.param_groups, self.scales, strict=True):
            group["lr"] = rate * scale
        self.at += 1

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Train on one batch, (B, C, H, W) and (B,) or soft targets (B, K), with the next learning rate."""
        self._next_rate()
        self.optimiser.zero_grad(set_to_none=True)
        with arithmetic(self.precision, self.device):
            outputs = self.model(images)
        loss = total_loss(outputs, labels, self.criterion)
        if self.scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
            if self.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
            self.optimiser.step()
        else:
            self.scaler.step(loss, self.optimiser, self.parameters)
        self.loss_sum += loss.detach() * len(labels)


def total_loss(outputs: Any, targets: torch.Tensor, criterion: Criterion | None = None) -> torch.Tensor:
    """The loss, by default the cross entropy; 0.3 × that of every auxiliary head is added to the main head's.

    The main head is the first (N, classes) tensor of a network's output: the output itself, or the first one in
    the tuple, list or mapping that networks such as GoogLeNet return in train mode.

    Raises:
        TrainingError: there is no such tensor.
    """
    criterion = criterion or Criterion()
    main, *others = logits_of(outputs)
    loss = criterion(main, targets)
    for other in others:
        loss = loss + AUXILIARY_WEIGHT * criterion(other, targets)
    return loss


def logits_of(outputs: Any) -> list[torch.Tensor]:
    """The (N, classes) tensors in a network's output, the main head's first."""
    found = list(_tensors(outputs))
    if not found:
        kind = f"a tensor {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else type(outputs)
        raise TrainingError(f"a classifier returns logits (batch, classes), but the network returned {kind}")
    return found


def _tensors(outputs: Any) -> Iterator[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        if outputs.ndim == 2:
            yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, tuple | list):
        for value in outputs:
            yield from _tensors(value)
