"""Networks not from timm, with the part of timm's interface that users need, including its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reborn_nas.backbone import Trace
from reborn_nas.backbone.trace.record import trace
from reborn_nas.errors import ConversionError

__all__ = ["TimmAdapter", "adapted", "final_linear", "small_cfg"]


def small_cfg(**changes: Any) -> dict[str, Any]:
    """A configuration without published weights, updated by `changes`."""
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "first_conv": "features.conv1.conv",
        "classifier": "head.fc",
        "license": "mit",
        **changes,
    }


class TimmAdapter(nn.Module):
    """A network not from timm, split into `body` and the linear classifier `fc`.

    `forward_features` returns the input of the classifier, (B, num_features); auxiliary outputs are dropped. If a
    network does not end in a linear layer, the body is the entire network, and its outputs are the features.

    Args:
        body: the network, from which the classifier is removed in place.
        classifier: path of the linear layer in `body` whose output is the network's, or None.
        outputs: number of outputs.
    """

    def __init__(self, body: nn.Module, classifier: str | None, outputs: int) -> None:
        super().__init__()
        self.fc: nn.Module = nn.Identity()
        self.num_features = outputs
        if classifier is not None:
            fc = body.get_submodule(classifier)
            if not isinstance(fc, nn.Linear):
                raise ConversionError(f"classifier {classifier!r} is a {type(fc).__name__}, not nn.Linear")
            body.set_submodule(classifier, nn.Identity())
            self.fc = fc
            self.num_features = fc.in_features
        self.body = body
        self.head_hidden_size = self.num_features
        self.num_classes = outputs
        first = next((m for m in body.modules() if isinstance(m, nn.Conv2d)), None)
        self.in_chans = first.in_channels if first is not None else 3

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Set a new classifier with `num_classes` outputs; 0 returns the features. The pooling is not changed."""
        if global_pool not in (None, "", "avg"):
            raise ConversionError(
                f"the pooling of this network is its own; global_pool={global_pool!r} cannot be set"
            )
        self.num_classes = num_classes
        fc = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        reference = next(self.parameters(), None)
        self.fc = (fc if reference is None else fc.to(reference.device, reference.dtype)).train(self.training)

    def forward_features(self, x: Tensor) -> Tensor:
        """The input of the classifier, (B, num_features)."""
        return _main(self.body(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features → logits, (B, num_classes)."""
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        return self.forward_head(x)


def adapted(model: nn.Module, input_size: tuple[int, int, int], outputs: int | None) -> TimmAdapter:
    """Give `model` timm's interface and `outputs` outputs (None: unchanged). The module is edited in place.

    Raises:
        ConversionError: the network has another number of outputs, and no linear layer at its end that can be replaced.
    """
    run = trace(model, (torch.zeros(1, *input_size),), training=False)
    shape = run.values[run.outputs[0]].shape if run.outputs else ()
    made = shape[1] if len(shape) == 2 else None
    classifier = _last_linear(model, run)
    network = TimmAdapter(model, classifier, made or outputs or 0)
    if made is not None and outputs is not None and outputs != made:
        if classifier is None:
            raise ConversionError(
                f"the network has {made} outputs, for any num_classes (its factory does not take num_classes), "
                f"and it does not end in a linear layer that can be replaced by one with {outputs}; load it "
                f"without num_classes, then reset_classifier({outputs}) adds a linear layer after its outputs"
            )
        network.reset_classifier(outputs)
    return network


def final_linear(model: nn.Module, input_size: tuple[int, int, int]) -> str | None:
    """Path of the linear layer whose output is the network's, or None if there is none."""
    return _last_linear(model, trace(model, (torch.zeros(1, *input_size),), training=False))


def _last_linear(model: nn.Module, run: Trace) -> str | None:
    for call in reversed(run.calls):
        last = call.path and call.outputs and call.outputs[0] in run.outputs[:1]
        if last and isinstance(model.get_submodule(call.path), nn.Linear):
            return call.path
    return None


def _main(output: Any) -> Tensor:
    """The main output of a network that may return several."""
    while isinstance(output, Mapping | tuple | list):  # "not a Tensor" would never end for a tracer's proxy
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    return output
