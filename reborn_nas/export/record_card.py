"""What a card says of a training that a run recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reborn_nas.commands import command_line
from reborn_nas.export.card import Accuracy, Card, plain
from reborn_nas.records import TrialRecord
from reborn_nas.winners import EXPLORED, validation_accuracy

__all__ = ["card_of", "front_readme", "mean_interval"]


def card_of(
    record: TrialRecord,
    records: Sequence[TrialRecord],
    study: str,
    data: Mapping[str, Any],
    name: str | None = None,
    compared: str = "",
) -> Card:
    """The card of one trained network of a run.

    Args:
        records: all of the run, for the other seeds of a candidate.
        study: the study's name.
        data: of the plan: `name`, `classes`, `mean`, `std`.
        name: of the model; study and digest where None.
        compared: a clause on how it compares with its parent.
    """
    accuracies = []
    if record.accuracy is not None and record.accuracy_n:
        chosen = record.phase in EXPLORED
        accuracies.append(
            Accuracy(
                record.accuracy_part,
                round(record.accuracy * record.accuracy_n),
                record.accuracy_n,
                "chosen by these images: optimistic" if chosen else "this training; read once",
            )
        )
    details = {
        "data set": str(data["name"]),
        "study": study,
        "trial": record.label,
        "seed": str(record.seed),
        "epochs": str(record.epochs),
        "parameters": f"{record.params:,}",
        "MACs an image": f"{record.macs:,}",
    }
    shares = [
        one.accuracy
        for one in records
        if one.phase == record.phase == "candidate" and one.arm == record.arm and one.accuracy is not None
    ]
    if len(shares) > 1:
        details["accuracy over seeds"] = mean_interval(shares)
    if compared:
        details["against its parent"] = compared
    return Card(
        name=name or f"{study}-{record.digest}",
        dataset=str(data["name"]),
        classes=data["classes"],
        mean=data["mean"],
        std=data["std"],
        accuracies=accuracies,
        details=details,
    )


def front_readme(
    study: str,
    chosen: Mapping[str, TrialRecord],
    all_of_it: Sequence[TrialRecord],
    objectives: Sequence[str],
    run: str,
) -> str:
    """The table over the sub-folders of a Pareto export.

    Args:
        chosen: sub-folder → its record.
        all_of_it: the whole front, those without kept weights too.
        objectives: what they were compared in.
        run: the run's folder, for the command that trains the others again.
    """
    there = {record.key: folder for folder, record in chosen.items()}
    lines = [
        f"# {plain(study)}: accuracy against cost",
        "",
        f"The exploration's trainings that no other one beats in all of {', '.join(objectives)}. The validation "
        "accuracies chose them, so they are optimistic; only `--trial retested` has been judged on images of its own.",
        "",
        "| folder | trial | MACs an image | parameters | validation accuracy | n |",
        "|---|---|---|---|---|---|",
    ]
    lost = []
    for record in all_of_it:
        folder = there.get(record.key)
        if folder is None:
            lost.append(record.label)
        lines.append(
            f"| {folder or '–'} | {plain(record.label)} | {record.macs:,} | {record.params:,} | "
            f"{validation_accuracy(record):.2%} | {record.accuracy_n:,} |"
        )
    if lost:
        lines += ["", "Without a folder: the weights were not kept. To train one again:", ""]
        lines += [
            "    "
            + command_line("reborn-nas", "train", "--architecture", run, "--trial", key, "--out", "my-model")
            for key in lost
        ]
    return "\n".join([*lines, ""])


def mean_interval(shares: Sequence[float]) -> str:
    """Mean over trainings with its 95 % t-interval."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    n = len(shares)
    mean = math.fsum(shares) / n
    deviation = math.sqrt(math.fsum((share - mean) ** 2 for share in shares) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    return f"{mean:.2%} [{mean - half:.2%}, {mean + half:.2%}], {n} trainings"
