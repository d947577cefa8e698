"""The model card of an export: what it is, how accurate it is with intervals, and how to load it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.special import stdtrit

from reborn_nas.analysis.shares import wilson
from reborn_nas.architecture import Architecture
from reborn_nas.commands import command_line
from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.records import EXPLORED, TrialRecord, standard_error, validation_accuracy
from reborn_nas.training import recipe_in_words

__all__ = ["Accuracy", "Card", "card_of", "front_readme", "mean_interval", "plain", "render_card", "wilson"]


NORMAL = 1.959963984540054
"""Half width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` images of a part of the data, or the value of another metric on them.

    Args:
        metric, score, error: for metrics other than the accuracy, the score and its standard error;
            without an error there is no interval.
    """

    part: str
    correct: int
    n: int
    remark: str = ""
    metric: Metric = ACCURACY
    score: float | None = None
    error: float | None = None

    def row(self) -> tuple[str, str]:
        """The value and its 95 % interval, as text."""
        if self.metric.is_accuracy:
            low, high = wilson(self.correct, self.n)
            return f"{self.correct / max(1, self.n):.2%}", f"{low:.2%} – {high:.2%}"
        if self.score is None or self.error is None:
            return self.metric.shown(self.score), "–"
        ends = [self.metric.nearest(self.score + sign * NORMAL * self.error) for sign in (-1, 1)]
        shown = [self.metric.shown(end) for end in sorted(ends, key=self.metric.plotted)]
        return self.metric.shown(self.score), " – ".join(shown)


@dataclass(frozen=True)
class Card:
    """The information of an export, except the weights.

    Args:
        name: name of the model.
        dataset: name of the training data set.
        classes: the classes' names, in the order of the outputs.
        mean, std: normalisation per channel, of images in [0, 1].
        accuracies: each measured on all images of a part of the data.
        details: further lines, name → value: recipe, epochs, seed, run, trial.
    """

    name: str
    dataset: str
    classes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    accuracies: Sequence[Accuracy] = ()
    details: Mapping[str, str] = field(default_factory=dict)


def render_card(
    card: Card,
    architecture: Architecture,
    folder: str,
    own_source: bool,
    folded: bool = False,
    forms: Mapping[str, float] | None = None,
) -> str:
    """The card as Markdown.

    Args:
        folder: folder in the command that loads the export.
        own_source: the network's own source file is next to the card.
        folded: the network is in deployment form.
        forms: file with another form of the network → deviation from it, relative to the largest logit.
    """
    lines = [
        "---",
        "tags: [image-classification, timm, reborn-nas]",
        "library_name: timm",
        "license: other  # the weights are yours: put your licence here",
        "---",
        f"# {plain(card.name)}",
        "",
        f"`{architecture.backbone.source}` for {len(card.classes)} classes, trained on {plain(card.dataset)}; "
        f"{len(architecture.choices)} of its activation sites differ from the backbone's own.",
        "",
        *_loading(folder, own_source, folded),
        *(_FILES[file].format(error) for file, error in (forms or {}).items()),
        "",
        *_accuracy(card.accuracies),
        "## Architecture",
        "",
        "| site | activation |",
        "|---|---|",
        *(f"| `{site}` | `{choice}` |" for site, choice in architecture),
        "| every other site | the backbone's own |",
        "",
        *_details(card, architecture),
    ]
    return "\n".join(lines)


_FILES = {
    "model.onnx": "- `model.onnx`: input `input` (batch, C, H, W), batch free, output `logits`; "
    "in onnxruntime they deviate by {:.1e} of the largest logit.",
    "model.pt2": "- `model.pt2`: `torch.export.load(…).module()`, batch free; deviates by {:.1e}.",
    "model.torchscript": "- `model.torchscript`: `torch.jit.load(…)`, needs neither timm nor us; deviates by {:.1e}.",
}


def _loading(folder: str, own_source: bool, folded: bool) -> list[str]:
    trust = ", trust_source=True" if own_source else ""
    script = " --trust-source" if own_source else ""
    lines = [
        "## Load it",
        "",
        "```python",
        "import reborn_nas, timm",
        "",
        f'model = timm.create_model("local-dir:{folder}", pretrained=True{trust})',
        "```",
        "",
        "- `import reborn_nas` registers the architecture; without it timm knows no such",
        "  model and says `Unknown model (reborn_model.needs_import_reborn_nas)`. timm's `train.py` takes",
        f"  `--device-modules reborn_nas`; other scripts run as `python -m reborn_nas.run{script} SCRIPT …`.",
        "- **Without `pretrained=True` timm builds the network with random weights**; that is timm's rule.",
        "- `example.safetensors` holds a batch (`input`) and the logits of the trained network itself (`logits`);",
    ]
    if folded:
        lines += [
            "  a loaded model in eval mode reproduces them to rounding, and `folded_logits` bit for bit.",
            "- Folded: batch norm and compression are part of the convolutions. The same function in eval mode;",
            "  to train further, export without `--fold`. `model.to(memory_format=torch.channels_last)` gains another",
            "  twentieth on a CPU.",
        ]
    else:
        lines.append("  a loaded model in eval mode reproduces them.")
    if own_source:
        lines += [
            "- The network's own source file is next to this card; read it before you trust it.",
            "  timm's `train.py` takes `--model-kwargs trust_source=True`.",
        ]
    return lines


def _accuracy(accuracies: Sequence[Accuracy]) -> list[str]:
    if not accuracies:
        return ["## Accuracy", "", "Not measured.", ""]
    metric = accuracies[0].metric
    title = metric.label[:1].upper() + metric.label[1:]
    lines = [f"## {title}", "", f"| images | n | {metric.label} | 95 % interval | |", "|---|---|---|---|---|"]
    for item in accuracies:
        value, interval = item.row()
        lines.append(f"| {item.part} | {item.n:,} | {value} | {interval} | {plain(item.remark)} |")
    which = "Wilson's" if metric.is_accuracy else "1.96 standard errors to either side"
    caution = f"The interval is {which}, over images; another training of the same network differs by more than that."
    return [*lines, "", caution, ""]


def _details(card: Card, architecture: Architecture) -> list[str]:
    spec = architecture.backbone
    return [
        "## Details",
        "",
        "| | |",
        "|---|---|",
        f"| input size | {' × '.join(map(str, spec.input_size or ()))} |",
        f"| mean, std | {_numbers(card.mean)}; {_numbers(card.std)} |",
        f"| stem | {spec.stem} |",
        *(f"| argument `{plain(name)}` | {plain(str(value))} |" for name, value in spec.arguments.items()),
        *(f"| {plain(name)} | {plain(value)} |" for name, value in card.details.items()),
        "",
    ]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def plain(text: str) -> str:
    """Escape a user's text for Markdown: one line, without characters of table cells, tags or links."""
    return re.sub(r"[\\|<>\[\]`*#]", lambda mark: f"&#{ord(mark.group())};", " ".join(str(text).split()))


def card_of(
    record: TrialRecord,
    records: Sequence[TrialRecord],
    study: str,
    data: Mapping[str, Any],
    name: str | None = None,
    compared: str = "",
    recipe: Mapping[str, Any] | None = None,
    metric: Metric = ACCURACY,
) -> Card:
    """Make the card of a trained network of a run.

    Args:
        records: all records of the run, for the other seeds of a candidate.
        study: name of the study.
        data: data of the plan: `name`, `classes`, `mean`, `std`.
        name: name of the model; None means study and digest.
        compared: a clause on the comparison with its parent.
        recipe: recipe of the training, from `Recipe.to_dict`.
        metric: metric by which the run's trainings are judged.
    """
    details = {
        "data set": str(data["name"]),
        "study": study,
        "trial": record.label,
        "seed": str(record.seed),
        "epochs": str(record.epochs),
        "parameters": f"{record.params:,}",
        "MACs an image": f"{record.macs:,}",
    }
    if recipe:
        details["recipe"] = recipe_in_words(recipe)
    shares = [
        one.accuracy
        for one in records
        if one.phase == record.phase == "candidate" and one.arm == record.arm and one.accuracy is not None
    ]
    if len(shares) > 1:
        details[f"{metric.label} over seeds"] = mean_interval(shares, metric)
    if compared:
        details["against its parent"] = compared
    return Card(
        name=name or f"{study}-{record.digest}",
        dataset=str(data["name"]),
        classes=data["classes"],
        mean=data["mean"],
        std=data["std"],
        accuracies=_accuracies(record, metric),
        details=details,
    )


def _accuracies(record: TrialRecord, metric: Metric) -> list[Accuracy]:
    """The value of a training, if it has one."""
    score, n = record.accuracy, record.accuracy_n
    if score is None or not n:
        return []
    remark = "chosen by these images: optimistic" if record.phase in EXPLORED else "this training; read once"
    correct = round(score * n) if metric.is_accuracy else 0
    error = standard_error(record, metric)
    return [Accuracy(record.accuracy_part, correct, n, remark, metric, score, error)]


def front_readme(
    study: str,
    chosen: Mapping[str, TrialRecord],
    all_of_it: Sequence[TrialRecord],
    objectives: Sequence[str],
    run: str,
    metric: Metric = ACCURACY,
) -> str:
    """The README of a Pareto export, with a table of its sub-folders.

    Args:
        chosen: sub-folder → its record.
        all_of_it: the complete front, including networks whose weights were not kept.
        objectives: objectives of the comparison.
        run: folder of the run, for the command that trains the others.
    """
    names = [metric.label if name == "accuracy" else name for name in objectives]
    there = {record.key: folder for folder, record in chosen.items()}
    lines = [
        f"# {plain(study)}: {metric.label} against cost",
        "",
        f"The exploration's trainings that no other one beats in all of {', '.join(names)}. Their validation "
        "values chose them, so they are optimistic; only `--trial retested` has been judged on separate images.",
        "",
        f"| folder | trial | MACs an image | parameters | validation {metric.label} | n |",
        "|---|---|---|---|---|---|",
    ]
    lost = []
    for record in all_of_it:
        folder = there.get(record.key)
        if folder is None:
            lost.append(record.label)
        lines.append(
            f"| {folder or '–'} | {plain(record.label)} | {record.macs:,} | {record.params:,} | "
            f"{_shown(validation_accuracy(record), metric)} | {record.accuracy_n:,} |"
        )
    if lost:
        lines += ["", "Without a folder: the weights were not kept. To train one again:", ""]
        lines += [
            "    "
            + command_line("reborn-nas", "train", "--architecture", run, "--trial", key, "--out", "my-model")
            for key in lost
        ]
    return "\n".join([*lines, ""])


def mean_interval(scores: Sequence[float], metric: Metric = ACCURACY) -> str:
    """Mean over trainings with its 95 % t-interval."""
    n = len(scores)
    mean = math.fsum(scores) / n
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    ends = sorted((mean - half, mean + half), key=metric.plotted)
    return f"{_shown(mean, metric)} [{', '.join(_shown(end, metric) for end in ends)}], {n} trainings"


def _shown(score: float, metric: Metric) -> str:
    return f"{score:.2%}" if metric.is_accuracy else metric.shown(score)
