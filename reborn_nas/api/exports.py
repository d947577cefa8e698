"""Search, report, export and recommend, put together for Python users. The CLI calls nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from reborn_nas.architecture import Architecture
from reborn_nas.commands import command_line
from reborn_nas.errors import ExportError
from reborn_nas.files import safe_join
from reborn_nas.study.config.flags import with_settings
from reborn_nas.study.config.keywords import Settings
from reborn_nas.study.store.opening import moved_url, open_store, reads_run

if TYPE_CHECKING:
    from torch import nn

    from reborn_nas.export import Card, Trained, Trainings
    from reborn_nas.records import TrialRecord
    from reborn_nas.report import RunView
    from reborn_nas.report.probe import Sight
    from reborn_nas.study import PlanView, Progress, RunInfo, RunResult, StudyConfig
    from reborn_nas.study.result.dashboard import Shown
    from reborn_nas.study.result.networks import Recommended, Standing

__all__ = ["dashboard", "export", "exportable", "recommend", "report", "run_view", "search", "standing"]

Run = str | os.PathLike[str]

MOST_RECOMMENDED = 2000
"""Trainings up to which a report shows the recommendation; `recommend` itself has no such limit."""


@with_settings
def search(
    config: StudyConfig | Run | None = None,
    *,
    progress: Progress | Literal["auto"] | None = "auto",
    plan: PlanView | None = None,
    **settings: Unpack[Settings],
) -> RunResult:
    """Plan and run a study, or resume it: the same settings continue where the run folder stands.

    Args:
        config: a `StudyConfig`, the path of a study YAML, or None for the settings alone.
        progress: told of every phase, trial and epoch; "auto" shows bars on a terminal and in a notebook, None nothing.
        plan: what `plan_search` gave for the same settings, to spare making it again.

    The settings below are those of `StudyConfig`; they override `config`.

    Returns:
        The run: its folder, records, candidate architecture, and whether it is complete.

    Raises:
        ConfigError: listing every fault of the settings.
        StudyError: where the run folder holds a study with other settings.
    """
    from reborn_nas.report import trial_pictures
    from reborn_nas.study import SilentProgress, StudyConfig, load_config, run_search
    from reborn_nas.study.worker.progress import AfterPhase, bars_where_seen

    given: dict[str, Any] = dict(settings)
    if isinstance(config, StudyConfig):
        settled = config.replace(**given) if given else config
    else:
        settled = load_config(None if config is None else Path(config), **given)
    shown = bars_where_seen() if progress == "auto" else nullcontext(progress)
    with shown as watching:
        watcher = AfterPhase(watching or SilentProgress(), lambda: _describe(settled.folder))
        result = run_search(settled, progress=watcher, plan=plan, illustrate=trial_pictures)
    with suppress(Exception):  # the dashboard's notes: nothing that a finished run should fail of
        _describe(result.folder)
    return result


@reads_run
def report(study_or_path: RunResult | Run, out: Run | None = None, *, trust_source: bool = False) -> Path:
    """Write the report of a run: `index.html`, CSVs and figures.

    Args:
        study_or_path: what `search` returned, or a run folder.
        out: the folder to write; `RUN/report` if None.
        trust_source: run the source code that a run from elsewhere names for its network, to show what the sites see.

    Returns:
        The path of `index.html`.
    """
    from reborn_nas.report import build_report

    view = run_view(study_or_path, trust_source=trust_source)
    return build_report(view, Path(out) if out is not None else safe_join(_folder(study_or_path), "report"))


def dashboard(study_or_path: RunResult | Run, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve optuna-dashboard for a run until interrupted; see `reborn_nas.study.serve_dashboard`."""
    from reborn_nas.study import serve_dashboard

    folder = _folder(study_or_path)
    serve_dashboard(folder, host=host, port=port, show=lambda: _shown(folder))


def _shown(folder: Path) -> Shown:
    """The answer so far, its graphs and the report, for optuna-dashboard."""
    from reborn_nas.report import study_findings
    from reborn_nas.report.page.live import answer_note, graphs
    from reborn_nas.study.result.dashboard import Shown

    view = run_view(folder, brief=True)
    page = folder / "report" / "index.html"
    if not view.records:
        return Shown()
    findings = study_findings(view)
    return Shown(answer_note(view, findings), graphs(view, findings), page if page.is_file() else None)


def _describe(folder: Path) -> None:
    """Bring the notes and graphs of a run's studies up to date."""
    from reborn_nas.study.result.dashboard import describe_studies
    from reborn_nas.study.store.outcome import ARTIFACTS
    from reborn_nas.study.store.reading import read_status

    store = open_store(folder, read_only=False)
    describe_studies(store, read_status(store), _shown(folder), folder / ARTIFACTS)


@reads_run
def run_view(
    study_or_path: RunResult | RunInfo | Run,
    *,
    look: bool = True,
    brief: bool = False,
    trust_source: bool = False,
) -> RunView:
    """A run as the plain data that a report is made from.

    Args:
        look: also look at what the sites see, which runs the kept networks.
        brief: leave out what takes PyTorch or seconds: what sites cost, the recommendation, the command.
        trust_source: run the source code of a network that comes from elsewhere.
    """
    from reborn_nas.report import RunView

    info = _info(study_or_path)
    sights, left_out = _sights(info, trust_source) if look and not brief else ((), ())
    return RunView(
        title=info.name,
        records=info.records,
        sites=info.sites if brief else _with_costs(info),
        phases=[{"phase": phase.name, "planned": phase.count, "note": phase.reason} for phase in info.phases],
        config=info.settings,
        environment=info.environment,
        curves=info.curve,
        notes=[*info.plan.get("notes", ()), *left_out],
        command="" if brief else _command(info),
        sights=sights,
        arms=info.arms,
        finished=info.complete,
        recommendation=None if brief else _recommendation(info),
        **_searched(info),
    )


def _searched(info: RunInfo) -> dict[str, Any]:
    """How the search went: its front's hypervolume where it had several objectives, what its pruner stopped."""
    from reborn_nas.samplers.pruning import pruned_shares
    from reborn_nas.study.config.objectives import pareto_series

    objectives = tuple(info.config.get("objectives") or ())
    pruner = info.config.get("pruner") or "none"
    return {
        "front": pareto_series(info.records, objectives) if len(objectives) > 1 else {},
        "pruned": pruned_shares(info.records) if pruner != "none" else None,
    }


def _recommendation(info: RunInfo) -> dict[str, Any] | None:
    """The recommended network as the report reads it; None where there are too few trainings."""
    from reborn_nas.errors import ConfigError
    from reborn_nas.study.result.networks import recommend_info

    if (
        len(info.records) > MOST_RECOMMENDED
    ):  # the posterior costs the cube of the trainings, in a report unasked for
        return None

    try:
        found = recommend_info(info)
    except ConfigError:
        return None
    return {
        "choices": {site: str(choice) for site, choice in found.architecture},
        "predicted": found.predicted,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
    }


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
        study_or_arch: what `search` returned, or a run folder; or an architecture, with the network in `model`.
        out: the folder to write.
        trial: of a run. "retested": the candidate, trained afresh beside its parent and judged by the test images;
            "recommended": the largest expected accuracy, see `recommend`, where it was trained; "best": the highest
            validation accuracy observed; "parent": the network with its reference activations; "pareto": the front of
            the exploration's objectives (accuracy and MACs where it had one), a sub-folder each; a number of the study
            as the dashboard shows it, or a trial's key, where its weights were kept; "auto": retested where there is
            one, else best.
        fold: in deployment form, for inference only.
        forms: further files: "onnx", "torch-export", "jit-trace".
        force: replace a folder that is not empty.
        name: of the model in its card.
        trust_source: run the source code that a run from elsewhere names for its network.
        model: the network of an architecture, as `convert` made it and somebody trained it; without it the
            exported weights are random.
        say: is told which network of a run was written, and how it compares with its parent.
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
    info = _info(study_or_arch)
    trainings = _trainings(info, trial)
    which = _recommended_key(info, trainings) if trial == "recommended" else trial
    chosen = choose(trainings, which)
    code = None if trust_source else _foreign_code(record for record, _ in chosen)
    if code is not None:
        raise ExportError(
            f"{trainings.run}: the network is built by source code, {code}, that no search of yours has run on this "
            "machine; read it, then export with --trust-source"
        )
    compared = {record.key: _against_parent(info, record) for record, _ in chosen}

    def trained(record: TrialRecord, weights: Path) -> Trained:
        card = card_of(record, info.records, info.name, info.plan["data"], name, compared[record.key])
        return _trained(record, weights, card)

    if trial != "pareto":
        record, weights = chosen[0]
        path = export_trained(trained(record, weights), out, **written)
        if say is not None:
            say(f"{record.label}: {compared[record.key]}")
            if warning := _parent_warning(trainings, record, compared[record.key], os.fspath(out)):
                say(warning)
        return path
    folders = {record.label.replace("/", "-"): (record, path) for record, path in chosen}
    records = {folder: record for folder, (record, _) in folders.items()}
    readme = front_readme(info.name, records, trainings.front, _objectives(info), trainings.run)
    several = {folder: trained(*pair) for folder, pair in folders.items()}
    if say is not None:
        say(
            f"{len(several)} networks of the front, each chosen by its validation accuracy: {', '.join(several)}"
        )
    return export_trained_many(several, out, readme, **written)


def _parent_warning(trainings: Trainings, record: TrialRecord, compared: str, out: str) -> str:
    """What to do where a network is not shown to beat its parent; "" where it is, or is the parent."""
    from reborn_nas.export import choose

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
    """Of the exploration's front: its own objectives, or accuracy against multiply-accumulates where it had one."""
    objectives = tuple(info.config.get("objectives") or ())
    return objectives if len(objectives) > 1 else ("accuracy", "macs")


def _trainings(info: RunInfo, trial: str = "auto") -> Trainings:
    """The run's trainings as `choose` looks at them."""
    from reborn_nas.export import Trainings
    from reborn_nas.study.config.objectives import pareto_records

    return Trainings(
        run=str(info.folder or info.name),
        records=info.records,
        kept={record.key: path for record in info.records if (path := info.checkpoint(record)) is not None},
        numbers=info.numbers,
        front=pareto_records(info.records, _objectives(info)) if trial == "pareto" else (),
        parent_arm=_parent_arm(info),
    )


def _parent_arm(info: RunInfo) -> str:
    return "parent" if info.arms[1] == "original" else info.arms[1]


def _against_parent(info: RunInfo, record: TrialRecord) -> str:
    """One clause: how the network of `record` compares with its parent."""
    from reborn_nas.report import comparison_words, study_findings

    if record.arm == _parent_arm(info):
        return "the parent itself"
    found = None
    if record.phase == "candidate" and record.arm == "candidate":
        found = study_findings(run_view(info, brief=True)).candidate
    return comparison_words(found)


@reads_run
def resume_line(info: RunInfo) -> str:
    """The command that continues a run; of a large one by the file of its settings, which takes no PyTorch to name."""
    from reborn_nas.study.config.flags import SETTINGS_FILE
    from reborn_nas.study.config.urls import HIDDEN, STORAGE_VARIABLE

    file = None if info.folder is None else info.folder / SETTINGS_FILE
    if file is None or len(info.records) <= MOST_RECOMMENDED or not file.is_file():
        return _command(info)
    line = command_line("reborn-nas", "search", "--config", file, "--run", file.parent)
    secret = HIDDEN in str(info.config.get("storage"))
    return f'{line} --storage "${STORAGE_VARIABLE}"' if secret else line


def exportable(study_or_path: RunResult | Run) -> bool:
    """Whether `export` without further words has a network to write."""
    from reborn_nas.errors import ExportError
    from reborn_nas.export import choose

    try:
        choose(_trainings(_info(study_or_path)), "auto")
    except ExportError:
        return False
    return True


def _recommended_key(info: RunInfo, trainings: Trainings) -> str:
    """The key of the best training of the recommended architecture whose weights were kept."""
    from reborn_nas.study.result.networks import recommend_info
    from reborn_nas.winners import best_of

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


def _trained(record: TrialRecord, weights: Path, card: Card) -> Trained:
    """A recorded training as an export takes it."""
    from reborn_nas.backbone import build, plan
    from reborn_nas.export import Trained
    from reborn_nas.models.exported import read_tensors

    architecture = Architecture.from_dict(record.architecture)
    template = build(architecture.backbone, device="meta")
    conversion = plan(template, architecture, architecture.backbone.input_size)
    example = weights.with_suffix(".example")
    tensors, logits = (
        read_tensors(file, "export another training with --trial") for file in (weights, example)
    )
    return Trained(tensors, architecture, logits, card, conversion)


@reads_run
def recommend(study: RunResult | Run) -> Recommended:
    """The architecture with the largest posterior mean accuracy in an additive model of a run's trainings.

    Within the run's limits, and never just the best observed trial, whose accuracy is partly luck.

    Raises:
        ConfigError: the run has too few finished trainings for that.
    """
    from reborn_nas.study.result.networks import recommend_info

    return recommend_info(_info(study))


@reads_run
def standing(study: RunResult | RunInfo | Run) -> Standing:
    """The best observed, the recommended and the confirmed network of a run: three different things."""
    from reborn_nas.study.result.networks import standing as stand

    return stand(_info(study), most=MOST_RECOMMENDED)


def _folder(study_or_path: RunResult | Run) -> Path:
    if isinstance(study_or_path, str | os.PathLike):
        return Path(study_or_path)
    return Path(study_or_path.folder)


def _info(study_or_path: RunResult | RunInfo | Run) -> RunInfo:
    from reborn_nas.study import RunInfo, load_run

    if isinstance(study_or_path, RunInfo):
        return study_or_path
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


def _foreign_code(records: Iterable[TrialRecord]) -> str | None:
    """The source code behind `records` that is not known to be this user's; None where there is none."""
    from reborn_nas.known import foreign_code

    return foreign_code(Architecture.from_dict(record.architecture).backbone for record in records)


def _sights(info: RunInfo, trust_source: bool) -> tuple[tuple[Sight, ...], tuple[str, ...]]:
    """What the sites of parent and candidate see, where both networks' weights were kept; and why it is left out."""
    from reborn_nas.errors import RebornError
    from reborn_nas.report.probe import watch

    data = info.plan.get("data", {})
    kept = {r.arm: (r, path) for r in info.records if r.phase == "candidate" and (path := info.checkpoint(r))}
    with suppress(RebornError, KeyError):
        reference, candidate = (
            kept["parent" if info.arms[1] == "original" else info.arms[1]],
            kept["candidate"],
        )
        code = None if trust_source else _foreign_code((reference[0], candidate[0]))
        if code is not None:
            return (), (
                f"what the sites see is left out: the networks are built by source code, {code}, that no search of "
                "yours has run on this machine; read it, then report with --trust-source",
            )
        return watch(reference, candidate, data.get("mean", ()), data.get("std", ())), ()
    return (), ()


def _command(info: RunInfo) -> str:
    from reborn_nas.study import StudyConfig
    from reborn_nas.study.config.config import known_settings
    from reborn_nas.study.config.flags import resume_command

    settings = known_settings(info.config)
    if info.folder is not None:  # it may have been copied here
        settings |= {"run": info.folder, "storage": moved_url(info.config, info.folder)}
    return resume_command(StudyConfig(**settings))
