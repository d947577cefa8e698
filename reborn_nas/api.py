"""Search, report, export and recommend, put together for Python users. The CLI calls nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.errors import ExportError

if TYPE_CHECKING:
    from reborn_nas.export import Card
    from reborn_nas.records import TrialRecord
    from reborn_nas.report import RunView
    from reborn_nas.report.features import Sight
    from reborn_nas.study import Progress, RunInfo, RunResult, StudyConfig

__all__ = ["Recommended", "export", "recommend", "report", "run_view", "search"]

Run = str | os.PathLike[str]


def search(
    config: StudyConfig | Run | None = None, *, progress: Progress | None = None, **settings: Any
) -> RunResult:
    """Plan and run a study, or resume it: the same settings continue where the run folder stands.

    Args:
        config: a `StudyConfig`, the path of a study YAML, or None for `settings` alone.
        progress: told of every phase, trial and epoch; None is silent.
        settings: fields of `StudyConfig`, such as `backbone="resnet18", dataset="cifar10"`; they override `config`.

    Returns:
        The run: its folder, records, candidate architecture, and whether it is complete.

    Raises:
        ConfigError: listing every fault of the settings.
        StudyError: where the run folder holds a study with other settings.
    """
    from reborn_nas.study import StudyConfig, load_config, run_search

    if isinstance(config, StudyConfig):
        settled = config.replace(**settings) if settings else config
    else:
        settled = load_config(None if config is None else Path(config), **settings)
    return run_search(settled, progress=progress)


def report(study_or_path: RunResult | Run, out: Run | None = None) -> Path:
    """Write the report of a run: `index.html`, CSVs and figures.

    Args:
        study_or_path: what `search` returned, or a run folder.
        out: the folder to write; `RUN/report` if None.

    Returns:
        The path of `index.html`.
    """
    from reborn_nas.report import build_report

    view = run_view(study_or_path)
    return build_report(view, Path(out) if out is not None else _folder(study_or_path) / "report")


def run_view(study_or_path: RunResult | Run) -> RunView:
    """A run as the plain data that a report is made from."""
    from reborn_nas.report import RunView

    info = _info(study_or_path)
    low, _, high = str(info.config.get("contrast", "original:reborn")).partition(":")
    return RunView(
        title=info.name,
        records=info.records,
        sites=_with_costs(info),
        phases=[{"phase": phase.name, "planned": phase.count, "note": phase.reason} for phase in info.phases],
        config=info.settings,
        environment=info.environment,
        curves=info.curve,
        notes=list(info.plan.get("notes", ())),
        command=_command(info),
        sights=_sights(info),
        arms=(high or "reborn", low),
        finished=info.complete,
    )


def export(study_or_arch: RunResult | Run, out: Run, *, trial: str = "auto", force: bool = False,
           name: str | None = None) -> Path:  # fmt: skip
    """Write a trained network of a run as a timm `local-dir`.

    Args:
        study_or_arch: what `search` returned, or a run folder.
        out: the folder to write.
        trial: "confirmed": the candidate, trained afresh and compared with its parent on the test set; "best": the
            search's best by validation accuracy; a trial's key, where its weights were kept; "auto": confirmed where
            there is one, else best.
        force: replace a folder that is not empty.
        name: of the model in its card.

    Raises:
        ExportError: no such trial, its weights were not kept, or the folder is not empty.
    """
    from safetensors.torch import load_file

    from reborn_nas.backbone import build, plan
    from reborn_nas.export import check_target, export_trained

    check_target(out, force)
    info = _info(study_or_arch)
    record, weights = _trained(info, trial)
    architecture = Architecture.from_dict(record.architecture)
    template = build(architecture.backbone, device="meta")
    conversion = plan(template, architecture, architecture.backbone.input_size)
    return export_trained(
        load_file(weights),
        architecture,
        load_file(weights.with_suffix(".example")),
        _card(info, record, name),
        out,
        plan=conversion,
        force=force,
    )


@dataclass(frozen=True)
class Recommended:
    """The architecture that a run recommends.

    Args:
        architecture: site → choice.
        predicted: expected validation accuracy in [0, 1]: the posterior mean, less what a maximiser promises too much.
        ci_low, ci_high: its 95 % interval, of the expectation and not of one training.
        n_trials: trainings behind it.
    """

    architecture: Architecture
    predicted: float
    ci_low: float
    ci_high: float
    n_trials: int


def recommend(study: RunResult | Run) -> Recommended:
    """The architecture with the largest posterior mean accuracy in an additive model of a run's trainings.

    Never the best observed trial, whose accuracy is partly luck.

    Raises:
        ConfigError: the run has too few finished trainings for that.
    """
    from reborn_nas.analysis.recommend import recommend as recommended

    info = _info(study)
    trained = [
        record
        for record in info.records
        if record.phase in ("screen", "search")
        and record.state in ("complete", "diverged")
        and record.parameters
        and record.accuracy is not None
    ]
    words = _labels(info)
    found = recommended(
        [
            {name: words.get((name, label), label) for name, label in record.parameters.items()}
            for record in trained
        ],
        [float(record.accuracy or 0.0) for record in trained],
        stages=_stages(info),
    )
    members: Mapping[str, Sequence[str]] = info.plan.get("factors", {})
    choices = {site: label for name, label in found.choices.items() for site in members.get(name, (name,))}
    architecture = Architecture(BackboneSpec.from_dict(_spec(info)), choices)
    return Recommended(architecture, found.predicted, found.ci_low, found.ci_high, found.n_trials)


def _labels(info: RunInfo) -> dict[tuple[str, str], str]:
    """A screen's "original" in the words of a space that names the parent's own activation instead."""
    own = {str(site["name"]): str(site["activation"]) for site in info.sites}
    words = {}
    for name, labels in info.plan.get("parameters", {}).items():
        acts = {own.get(site, "") for site in info.plan.get("factors", {}).get(name, ())}
        if "original" not in labels and len(acts) == 1 and (act := acts.pop()) in labels:
            words[name, "original"] = act
    return words


def _stages(info: RunInfo) -> dict[str, int]:
    stages = {str(site["name"]): int(site["stage"]) for site in info.sites}
    factors = info.plan.get("factors", {})
    return {name: stages[sites[0]] for name, sites in factors.items() if sites and sites[0] in stages}


def _spec(info: RunInfo) -> dict[str, Any]:
    return {key: value for key, value in info.settings["backbone"].items() if key != "pretrained"}


def _folder(study_or_path: RunResult | Run) -> Path:
    if isinstance(study_or_path, str | os.PathLike):
        return Path(study_or_path)
    return Path(study_or_path.folder)


def _info(study_or_path: RunResult | Run) -> RunInfo:
    from reborn_nas.study import load_run

    return load_run(_folder(study_or_path))


def _with_costs(info: RunInfo) -> list[dict[str, Any]]:
    """The sites with what a reborn block of the default form costs there."""
    from reborn_nas.architecture import Choice
    from reborn_nas.backbone.cost import added
    from reborn_nas.errors import RebornError

    rows = []
    for site in info.sites:
        row = dict(site)
        with suppress(RebornError):  # a site that takes no reborn block
            row["added_params"], row["added_macs"] = added(
                Choice("reborn", kernel_size=3, compression="1x1"),
                row["channels"],
                tuple(row["shape"]),
                row.get("layout", "nchw"),
            )
        rows.append(row)
    return rows


def _sights(info: RunInfo) -> tuple[Sight, ...]:
    """What the sites of parent and candidate see, where both networks' weights were kept."""
    from reborn_nas.errors import RebornError
    from reborn_nas.report.watching import watch

    data = info.plan.get("data", {})
    kept = {r.arm: (r, path) for r in info.records if r.phase == "candidate" and (path := info.checkpoint(r))}
    with suppress(RebornError, KeyError):
        return watch(kept["parent"], kept["candidate"], data.get("mean", ()), data.get("std", ()))
    return ()


def _command(info: RunInfo) -> str:
    from reborn_nas.study import StudyConfig
    from reborn_nas.study.run import resume_command

    known = set(StudyConfig.model_fields)
    return resume_command(
        StudyConfig(**{k: v for k, v in info.config.items() if k in known and v is not None})
    )


def _trained(info: RunInfo, trial: str) -> tuple[TrialRecord, Path]:
    """The record that `trial` names, with its weights."""
    kept = [(record, path) for record in info.records if (path := info.checkpoint(record)) is not None]
    if not kept:
        raise ExportError(
            f"{info.folder} holds no trained weights yet; they are kept from the search phase on: finish the run"
        )
    candidates = [pair for pair in kept if pair[0].arm == "candidate"]
    others = [pair for pair in kept if pair[0].phase == "search"]
    if trial == "confirmed" and not candidates:
        raise ExportError(
            "no candidate has been trained against its parent yet; finish the run, or take --trial best"
        )
    if trial == "best" and not others:
        raise ExportError("the run has no finished search trial; take --trial confirmed")
    if trial in ("auto", "confirmed", "best"):
        chosen = others if trial == "best" else (candidates or others or kept)
        return max(chosen, key=lambda pair: pair[0].extra.get("validation_accuracy", pair[0].accuracy or 0.0))
    for record, path in kept:
        if record.key == trial:
            return record, path
    keys = ", ".join(record.key for record, _ in kept)
    raise ExportError(f"the weights of trial {trial!r} were not kept; there are those of {keys}")


def _card(info: RunInfo, record: TrialRecord, name: str | None) -> Card:
    from reborn_nas.export import Accuracy, Card

    accuracies = []
    if record.accuracy is not None and record.accuracy_n:
        chosen = record.phase == "search"
        accuracies.append(
            Accuracy(
                record.accuracy_part,
                round(record.accuracy * record.accuracy_n),
                record.accuracy_n,
                "chosen by these images: optimistic" if chosen else "this training; read once",
            )
        )
    arm = [r.accuracy for r in info.records if r.phase == record.phase == "candidate" and r.arm == record.arm]
    details = {
        "data set": info.settings["data"]["name"],
        "study": info.name,
        "trial": record.key,
        "seed": str(record.seed),
        "epochs": str(record.epochs),
        "parameters": f"{record.params:,}",
        "MACs an image": f"{record.macs:,}",
    }
    shares = [value for value in arm if value is not None]
    if len(shares) > 1:
        details["accuracy over seeds"] = _mean_interval(shares)
    data = info.plan["data"]
    return Card(
        name=name or f"{info.name}-{record.digest}",
        dataset=data["name"],
        classes=data["classes"],
        mean=data["mean"],
        std=data["std"],
        accuracies=accuracies,
        details=details,
    )


def _mean_interval(shares: list[float]) -> str:
    """Mean over seeds with its 95 % t-interval."""
    import numpy as np
    from scipy import stats

    values = np.asarray(shares)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return f"{mean:.2%} [{mean - half:.2%}, {mean + half:.2%}], {len(values)} trainings"
