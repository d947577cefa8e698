"""Write a golden export: `python -m tests.golden.write_export NAME`. An existing one is never written again.

They stay loadable for ever: a new format gets a new folder beside the old ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import reborn_nas as rn
from reborn_nas.backbone import apply, build, plan, resolve
from reborn_nas.export import Accuracy, Card, Trained, export_trained

EXPORTS = Path(__file__).parent / "models"
CHOICES = {
    "features.conv1.act": "reborn(compression=none)",
    "features.conv2.act": "reborn(kernel_size=5)",
    "features.conv3.act": "frelu",
    "features.conv4.act": "crelu",
}


def main(name: str) -> None:
    """A convnet5 of a sixteenth of its width, with statistics of its own; `…-folded` in deployment form."""
    target = EXPORTS / name
    if target.exists():
        sys.exit(f"{target} exists and stays as it is")
    spec = resolve(
        rn.BackboneSpec("convnet5", arguments={"width": 0.0625}), input_size=(1, 8, 8), num_classes=3
    )
    architecture = rn.Architecture(spec, CHOICES)
    torch.manual_seed(0)
    model = build(spec)
    steps = plan(model, architecture, spec.input_size)
    model = apply(model, steps)
    for _ in range(3):
        model(torch.randn(16, 1, 8, 8))
    model.eval()
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        example = {"input": x, "logits": model(x)}
    card = Card("golden", "noise", ["a", "b", "c"], [0.5], [0.25], [Accuracy("test", 30, 90)])
    trained = Trained(dict(model.state_dict()), architecture, example, card, steps)
    print(export_trained(trained, target, fold=name.endswith("-folded")))


if __name__ == "__main__":
    main(sys.argv[1])
