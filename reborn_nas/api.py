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
    from torch import nn

    from reborn_nas.export import Card, Trained
    from reborn_nas.records import TrialRecord
    from reborn_nas.report import RunView
    from reborn_nas.report.features import Sight
    from reborn_nas.study import PlanView, Progress, RunInfo, RunResult, StudyConfig
    from reborn_nas.study.dashboard import Shown

__all__ = ["Recommended", "dashboard", "export", "recommend", "report", "run_view", "search"]

Run = str | os.PathLike[str]


def search(
    config: StudyConfig | Run | None = None,
    *,
    progress: Progress | None = None,
    plan: PlanView | None = None,
    **settings: Any,
) -> RunResult:
    """Plan and run a study, or resume it: the same settings continue where the run folder stands.

    Args:
        config: a `StudyConfig`, the path of a study YAML, or None for `settings` alone.
        progress: told of every phase, trial and epoch; None is silent.
        plan: what `plan_search` gave for the same settings, to spare making it again.
        settings: fields of `StudyConfig`, such as `backbone="resnet18", dataset="cifar10"`; they override `config`.

    Returns:
        The run: its folder, records, candidate architecture, and whether it is complete.

    Raises:
        ConfigError: listing every fault of the settings.
        StudyError: where the run folder holds a study with other settings.
    """
    from reborn_nas.report import trial_pictures
    from reborn_nas.study import SilentProgress, StudyConfig, load_config, run_search
    from reborn_nas.study.progress import AfterPhase

    if isinstance(config, StudyConfig):
        settled = config.replace(**settings) if settings else config
    else:
        settled = load_config(None if config is None else Path(config), **settings)
    watcher = AfterPhase(progress or SilentProgress(), lambda: _describe(settled.folder))
    result = run_search(settled, progress=watcher, plan=plan, illustrate=trial_pictures)
    with suppress(Exception):  # the dashboard's notes: nothing that a finished run should fail of
        _describe(result.folder)
    return result


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


def dashboard(study_or_path: RunResult | Run, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve optuna-dashboard for a run until interrupted; see `reborn_nas.study.serve_dashboard`."""
    from reborn_nas.study import serve_dashboard

    folder = _folder(study_or_path)
    serve_dashboard(folder, host=host, port=port, show=lambda: _shown(folder))


def _shown(folder: Path) -> Shown:
    """The answer so far, its graphs and the report, for optuna-dashboard."""
    from reborn_nas.report import study_findings
    from reborn_nas.report.live import answer_note, graphs
    from reborn_nas.study.dashboard import Shown

    view = run_view(folder, look=False)
    page = folder / "report" / "index.html"
    if not view.records:
        return Shown()
    findings = study_findings(view)
    return Shown(answer_note(view, findings), graphs(view, findings), page if page.is_file() else None)


def _describe(folder: Path) -> None:
    """Bring the notes and graphs of a run's studies up to date."""
    from reborn_nas.study import status
    from reborn_nas.study.artifacts import ARTIFACTS
    from reborn_nas.study.dashboard import describe_studies
    from reborn_nas.study.reading import open_store

    describe_studies(open_store(folder), status(folder), _shown(folder), folder / ARTIFACTS)


def run_view(study_or_path: RunResult | Run, *, look: bool = True) -> RunView:
    """A run as the plain data that a report is made from.

    Args:
        look: also look at what the sites see, which runs the kept networks.
    """
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
        sights=_sights(info) if look else (),
        arms=(high or "reborn", low),
        finished=info.complete,
    )


def export(
    study_or_arch: RunResult | Run | Architecture,
    out: Run,
    *,
    trial: str = "auto",
    fold: bool = False,
    forms: Sequence[str] = (),
    force: bool = False,
    name: str | None = None,
    model: nn.Module | None = None,
    **about: Any,
) -> Path:
    """Write a trained network as a timm `local-dir`.

    Args:
        study_or_arch: what `search` returned, or a run folder; or an architecture, with the network in `model`.
        out: the folder to write.
        trial: of a run. "confirmed": the candidate, trained afresh and compared with its parent on the test set;
            "best": the search's best by validation accuracy; "pareto": the front of the search's objectives
            (accuracy and MACs where it had one), a sub-folder each; a number of the search or a trial's key, where
            its weights were kept; "auto": confirmed where there is one, else best.
        fold: in deployment form, for inference only.
        forms: further files: "onnx", "torch-export", "jit-trace".
        force: replace a folder that is not empty.
        name: of the model in its card.
        model: the network of an architecture, as `convert` made it and somebody trained it; without it the
            exported weights are random.
        about: with an architecture: `input_size`, `classes`, `mean`, `std` and `accuracies`, as far as neither its
            backbone spec nor the model say them; see `reborn_nas.export.bare_network`.

    Raises:
        ExportError: no such trial, its weights were not kept, they do not fit, or the folder is not empty.
    """
    from reborn_nas.export import (
        bare_network,
        card_of,
        check_target,
        choose,
        export_trained,
        export_trained_many,
        front_readme,
    )

    check_target(out, force)
    written: dict[str, Any] = {"force": force, "fold": fold, "forms": forms}
    if isinstance(study_or_arch, Architecture):
        return export_trained(bare_network(study_or_arch, model, name=name, **about), out, **written)
    if model is not None or about:
        raise ExportError(
            "a run brings its own networks; model and what describes it go with an Architecture"
        )
    from reborn_nas.study.objectives import pareto_records

    info = _info(study_or_arch)
    run = str(info.folder or info.name)
    kept = [(record, path) for record in info.records if (path := info.checkpoint(record)) is not None]
    objectives = tuple(info.config.get("objectives") or ())
    objectives = objectives if len(objectives) > 1 else ("accuracy", "macs")
    front = pareto_records(info.records, objectives)
    chosen = choose(kept, info.records, trial, run, front)

    def trained(record: TrialRecord, weights: Path) -> Trained:
        return _trained(record, weights, card_of(record, info.records, info.name, info.plan["data"], name))

    if trial != "pareto":
        return export_trained(trained(*chosen[0]), out, **written)
    folders = {record.key.replace("/", "-"): (record, path) for record, path in chosen}
    records = {folder: record for folder, (record, _) in folders.items()}
    readme = front_readme(info.name, records, front, objectives, run)
    several = {folder: trained(*pair) for folder, pair in folders.items()}
    return export_trained_many(several, out, readme, **written)


def _trained(record: TrialRecord, weights: Path, card: Card) -> Trained:
    """A recorded training as an export takes it."""
    from safetensors.torch import load_file

    from reborn_nas.backbone import build, plan
    from reborn_nas.export import Trained

    architecture = Architecture.from_dict(record.architecture)
    template = build(architecture.backbone, device="meta")
    conversion = plan(template, architecture, architecture.backbone.input_size)
    return Trained(
        load_file(weights), architecture, load_file(weights.with_suffix(".example")), card, conversion
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
