"""Exports trained networks of a run, or one of the caller, as timm models."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.api.run import Run, info_of, network_of_code, parent_arm, unknown_code
from reborn_nas.api.view import run_view
from reborn_nas.architecture import Architecture
from reborn_nas.backbone import Plan, build, plan
from reborn_nas.commands import command_line
from reborn_nas.errors import ExportError
from reborn_nas.export import (
    Trained,
    Trainings,
    bare_network,
    card_of,
    check_target,
    choose,
    export_trained,
    export_trained_many,
    front_readme,
)
from reborn_nas.export.card import plain
from reborn_nas.export.network import export_network, read_example
from reborn_nas.metric import speaking
from reborn_nas.models.exported import read_tensors
from reborn_nas.records import best_of
from reborn_nas.report import comparison_words, study_findings
from reborn_nas.study import RunInfo
from reborn_nas.study.config.objectives import stored_objectives
from reborn_nas.study.result.networks import pareto_records, recommend_info

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reborn_nas.records import TrialRecord
    from reborn_nas.study.search import RunResult


def export(
    study_or_arch: RunResult | Run | Architecture,
    out: Run,
    *,
    trial: str = "auto",
    fold: bool = False,
    forms: Sequence[str] = (),
    force: bool = False,
    name: str | None = None,
    trust_source: bool = False,
    model: nn.Module | None = None,
    say: Callable[[str], None] | None = None,
    **about: Any,
) -> Path:
    """Write a trained network as a timm `local-dir`.

    Args:
        study_or_arch: the result of `search`, or a run folder; or an architecture, with the network in `model`.
        out: the folder to write.
        trial: which network of a run. "retested": the candidate, trained again with its parent and judged by the test
            images; "recommended": the largest expected accuracy, see `recommend`, if it was trained; "best": the
            highest observed validation accuracy; "parent": the network with its reference activations; "pareto": the
            front of the exploration's objectives (accuracy and MACs if it had one objective), each in a sub-folder; a
            trial number of the dashboard, or a trial's key, if its weights were kept; "auto": retested if possible,
            else best.
        forms: further files: "onnx", "torch-export", "jit-trace".
        force: replace a folder that is not empty.
        name: name of the model in its card.
        trust_source: run the network's source code of a run from elsewhere.
        model: the trained network of an architecture, converted by `convert`; without it the exported weights are
            random.
        say: called with a line on the exported network of a run and its comparison with the parent.
        about: for an architecture: `input_size`, `classes`, `mean`, `std` and `accuracies`, if neither its backbone
            spec nor the model define them; see `reborn_nas.export.bare_network`.

    Raises:
        ExportError: there is no such trial, its weights were not kept or do not fit, or the folder is not empty.
    """
    check_target(out, force)
    written: dict[str, Any] = {"force": force, "fold": fold, "forms": forms}
    if isinstance(study_or_arch, Architecture):
        return export_trained(bare_network(study_or_arch, model, name=name, **about), out, **written)
    if model is not None or about:
        raise ExportError(
            "a run brings its own networks; model and what describes it go with an Architecture"
        )
    info = info_of(study_or_arch)
    trainings = _trainings(info, trial)
    chosen = choose(trainings, _recommended_key(info, trainings) if trial == "recommended" else trial)
    code = None if trust_source else unknown_code(record for record, _ in chosen)
    if code is not None:
        raise ExportError(f"{trainings.run}: {network_of_code(code)} export with --trust-source")
    compared = {record.key: _against_parent(info, record) for record, _ in chosen}
    report = say or (lambda line: None)
    if trial == "pareto" and info.config.get("train") is None:
        several = {
            record.label.replace("/", "-"): (
                record,
                _trained(info, record, weights, name, compared[record.key]),
            )
            for record, weights in chosen
        }
        return _export_front(info, trainings, several, out, written, report)
    record, weights = chosen[0]
    if info.config.get("train") is not None:
        _check_own(trial, fold, forms)
        own = _own_network(info, record, weights, name, compared[record.key])
        path = export_network(*own, Path(out), force=force)
        report(f"{record.label}: {compared[record.key]}")
        return path
    path = export_trained(_trained(info, record, weights, name, compared[record.key]), out, **written)
    report(f"{record.label}: {compared[record.key]}")
    if warning := _parent_warning(trainings, record, compared[record.key], os.fspath(out)):
        report(warning)
    return path


def _export_front(
    info: RunInfo,
    trainings: Trainings,
    several: Mapping[str, tuple[TrialRecord, Trained]],
    out: Run,
    written: Mapping[str, Any],
    report: Callable[[str], None],
) -> Path:
    """Write the networks of a front (sub-folder → training), with a README."""
    records = {folder: record for folder, (record, _) in several.items()}
    readme = front_readme(info.name, records, trainings.front, _objectives(info), trainings.run, info.metric)
    report(
        f"{len(several)} networks of the front, each chosen by its validation {info.metric.label}: "
        f"{', '.join(several)}"
    )
    return export_trained_many(
        {folder: made for folder, (_, made) in several.items()}, out, readme, **written
    )


def _check_own(trial: str, fold: bool, forms: Sequence[str]) -> None:
    """Refuse arguments that do not apply to a training of the user's own."""
    if trial == "pareto" or fold or forms:
        raise ExportError(
            "a network of a training of your own is exported with its weights and its source, one at a time: "
            "without --fold, --onnx and other forms, and not as a front"
        )


def _parent_warning(trainings: Trainings, record: TrialRecord, compared: str, out: str) -> str:
    """Advice if a network has not been shown to beat its parent; "" if it has, or is the parent."""
    if record.arm == trainings.parent_arm or compared.endswith("better than its parent"):
        return ""
    try:
        choose(trainings, "parent")
    except ExportError:
        return "warning: it is not shown to beat its parent"
    command = command_line(
        "reborn-nas", "export", trainings.run, "--trial", "parent", "--out", f"{out}-parent"
    )
    return f"warning: it is not shown to beat its parent, which may be as good or better; this exports that: {command}"


def _objectives(info: RunInfo) -> tuple[str, ...]:
    """The objectives of the front: those of the exploration, or accuracy and MACs if it had one objective."""
    objectives = tuple(stored_objectives(info.config))
    return objectives if len(objectives) > 1 else ("accuracy", "macs")


def _trainings(info: RunInfo, trial: str = "auto") -> Trainings:
    """The run's trainings, for `choose`."""
    return Trainings(
        run=str(info.folder or info.name),
        records=info.records,
        kept={record.key: path for record in info.records if (path := info.checkpoint(record)) is not None},
        numbers=info.numbers,
        front=pareto_records(info.records, _objectives(info)) if trial == "pareto" else (),
        parent_arm=parent_arm(info),
    )


def _against_parent(info: RunInfo, record: TrialRecord) -> str:
    """A clause on the comparison of the network of `record` with its parent."""
    if record.arm == parent_arm(info):
        return "the parent itself"
    found = None
    if record.phase == "candidate" and record.arm == "candidate":
        found = study_findings(run_view(info, brief=True)).candidate
    with speaking(info.metric):
        return comparison_words(found)


def exportable(study_or_path: RunResult | Run) -> bool:
    """Whether `export` without further arguments has a network to write."""
    try:
        choose(_trainings(info_of(study_or_path)), "auto")
    except ExportError:
        return False
    return True


def _recommended_key(info: RunInfo, trainings: Trainings) -> str:
    """The key of the best training of the recommended architecture whose weights were kept."""
    digest = recommend_info(info).architecture.digest
    found = best_of(one for one in info.records if one.digest == digest and one.key in trainings.kept)
    if found is None:
        train = command_line(
            "reborn-nas",
            "train",
            "--architecture",
            trainings.run,
            "--trial",
            "recommended",
            "--out",
            "my-model",
        )
        raise ExportError(
            f"{trainings.run}: the recommended network was not trained, or its weights were not kept; take --trial "
            f"retested or best, or train it: {train}"
        )
    return found.key


def _own_network(
    info: RunInfo, record: TrialRecord, weights: Path, name: str | None, compared: str
) -> tuple[Architecture, Plan | None, dict[str, Tensor], Any, str]:
    """The network of a user's own training, with its conversion, weights, example inputs and card."""
    architecture = Architecture.from_dict(record.architecture)
    inputs = read_example(weights.with_suffix(".example"))["inputs"]
    conversion = None
    if architecture.choices:
        template = build(architecture.backbone, device="meta")
        conversion = plan(template, architecture, example_inputs=inputs)
    tensors = read_tensors(weights, "export another training with --trial")
    n = f" of {record.accuracy_n:,} {info.metric.counted}" if record.accuracy_n else ""
    value = f"{info.metric.label} {info.metric.shown(record.accuracy)} on the {record.accuracy_part} part{n}"
    choices = [f"- `{site}`: {choice}" for site, choice in architecture] or [
        "- every site has its original activation"
    ]
    lines = [
        f"# {plain(name or info.name)}",
        "",
        f"Trained by {plain(str(info.config.get('train')))} in the study {plain(info.name)}, training "
        f"{plain(record.label)}: {value}; {plain(compared)}.",
        "",
        "```python",
        "import reborn_nas as rn",
        "",
        'model = rn.load("this folder")  # in eval mode, on the CPU; trust_source=True where the source is not yours',
        "```",
        "",
        "`example.safetensors` holds inputs and what the network makes of them on a CPU.",
        "",
        "## Activations",
        "",
        *choices,
    ]
    return architecture, conversion, tensors, inputs, "\n".join(lines) + "\n"


def _trained(info: RunInfo, record: TrialRecord, weights: Path, name: str | None, compared: str) -> Trained:
    """A recorded training, for an export."""
    architecture = Architecture.from_dict(record.architecture)
    template = build(architecture.backbone, device="meta")
    conversion = plan(template, architecture, architecture.backbone.input_size)
    example = weights.with_suffix(".example")
    tensors, logits = (
        read_tensors(file, "export another training with --trial") for file in (weights, example)
    )
    how = info.settings.get("recipe")
    card = card_of(record, info.records, info.name, info.plan["data"], name, compared, how, info.metric)
    return Trained(tensors, architecture, logits, card, conversion)
