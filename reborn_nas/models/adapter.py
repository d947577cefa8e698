"""Networks that are not timm's, with the part of timm's interface that users rely on."""

# no postponed annotations here: torch.fx writes a root module's annotations into the code that it generates
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reborn_nas.errors import ConversionError

__all__ = ["TimmAdapter", "final_linear"]


class TimmAdapter(nn.Module):
    """A network that is not timm's, split into `body` and the linear classifier `fc`.

    `forward_features` gives what the classifier reads, (B, num_features); auxiliary outputs are dropped. A network
    that does not end in a linear layer keeps all of itself as the body: then its outputs are the features.

    Args:
        body: the network; its classifier is taken out (the module is edited in place).
        classifier: path of the classifier in `body`, as `final_linear` finds it, or None.
        outputs: number of outputs of the network.
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
        """A fresh classifier with `num_classes` outputs; 0 leaves the features. The pooling is the network's own."""
        if global_pool not in (None, "", "avg"):
            raise ConversionError(
                f"the pooling of this network is its own; global_pool={global_pool!r} cannot be set"
            )
        self.num_classes = num_classes
        reference = next(self.parameters())
        fc = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.fc = fc.to(reference.device, reference.dtype).train(self.training)

    def forward_features(self, x: Tensor) -> Tensor:
        """What the classifier reads, (B, num_features)."""
        return _main(self.body(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features → logits, (B, num_classes)."""
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        return self.forward_head(x)


def final_linear(model: nn.Module, input_size: tuple[int, int, int]) -> str | None:
    """Path of the linear layer whose output is the network's output, or None where there is none."""
    from reborn_nas.backbone.trace import trace

    run = trace(model, (torch.zeros(1, *input_size),), training=False)
    for call in reversed(run.calls):
        if call.outputs and call.outputs[0] in run.outputs[:1] and call.path:
            module = model.get_submodule(call.path)
            if isinstance(module, nn.Linear):
                return call.path
    return None


def _main(output: Any) -> Tensor:
    """The main output of a network that may return several."""
    while isinstance(
        output, Mapping | tuple | list
    ):  # "not a Tensor" would never end for a tracer's stand-in
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    return output
