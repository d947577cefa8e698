"""The model card of an export: what it is, how good it is and how surely, how to load it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reborn_nas.architecture import Architecture

__all__ = ["Accuracy", "Card", "render_card", "wilson"]


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` images of a part of the data, in words."""

    part: str
    correct: int
    n: int
    remark: str = ""


@dataclass(frozen=True)
class Card:
    """What an export knows about itself besides the weights.

    Args:
        name: of the model.
        dataset: name of the data set it was trained on.
        classes: the classes' names, in the order of the outputs.
        mean, std: per channel, of images in [0, 1].
        accuracies: measured on whole parts of the data.
        details: further lines, name → value: recipe, epochs, seed, run, trial.
    """

    name: str
    dataset: str
    classes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    accuracies: Sequence[Accuracy] = ()
    details: Mapping[str, str] = field(default_factory=dict)


def wilson(correct: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in [0, 1]; it covers the images drawn, not the training's luck."""
    if n < 1:
        return 0.0, 1.0
    share, z2 = correct / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def render_card(card: Card, architecture: Architecture, folder: str, own_source: bool) -> str:
    """The card as Markdown."""
    spec = architecture.backbone
    trust = ", trust_source=True" if own_source else ""
    lines = [
        "---",
        "tags: [image-classification, timm, reborn-nas]",
        "library_name: timm",
        "license: other  # the weights are yours: put your licence here",
        "---",
        f"# {_text(card.name)}",
        "",
        f"`{spec.source}` for {len(card.classes)} classes, trained on {_text(card.dataset)}; "
        f"{len(architecture.choices)} of its activation sites differ from the backbone's own.",
        "",
        "## Load it",
        "",
        "```python",
        "import reborn_nas, timm",
        f'model = timm.create_model("local-dir:{folder}", pretrained=True{trust})',
        "```",
        "",
        "- `import reborn_nas` (`pip install reborn-nas`) registers the architecture; without it timm knows no such",
        "  model and says `Unknown model (reborn_model)`.",
        "- **Without `pretrained=True` timm builds the network with random weights**; that is timm's rule.",
        "- `example.safetensors` holds a batch (`input`) and the logits of the trained network itself (`logits`);",
        "  a loaded model in eval mode reproduces them.",
    ]
    if own_source:
        lines.append("- The network's own source file lies beside this card; read it before you trust it.")
    lines += ["", "## Accuracy", "", "| images | n | accuracy | 95 % interval | |", "|---|---|---|---|---|"]
    for item in card.accuracies:
        low, high = wilson(item.correct, item.n)
        share = item.correct / max(1, item.n)
        lines.append(
            f"| {item.part} | {item.n:,} | {share:.2%} | {low:.2%} – {high:.2%} | {_text(item.remark)} |"
        )
    lines += [
        "",
        "The interval is Wilson's, over images; another training of the same network differs by more than that.",
        "",
        "## Architecture",
        "",
        "| site | activation |",
        "|---|---|",
        *(f"| `{site}` | `{choice}` |" for site, choice in architecture),
        "| every other site | the backbone's own |",
        "",
        "## Details",
        "",
        "| | |",
        "|---|---|",
        f"| input size | {' × '.join(map(str, spec.input_size or ()))} |",
        f"| mean, std | {_numbers(card.mean)}; {_numbers(card.std)} |",
        f"| stem | {spec.stem} |",
        *(f"| argument `{_text(name)}` | {_text(str(value))} |" for name, value in spec.arguments.items()),
        *(f"| {_text(name)} | {_text(value)} |" for name, value in card.details.items()),
        "",
    ]
    return "\n".join(lines)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _text(text: str) -> str:
    """User's text for Markdown: one line, nothing that opens a table cell, a tag or a link."""
    return re.sub(r"[\\|<>\[\]`*#]", lambda mark: f"&#{ord(mark.group())};", " ".join(str(text).split()))
