"""Reads results of a run: the view for its report, its estimates, the named networks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.api.run import MANY, Run, folder_of, info_of, parent_arm, resume_command_of, unknown_code
from reborn_nas.architecture import Choice
from reborn_nas.errors import ConfigError, RebornError
from reborn_nas.files import safe_join
from reborn_nas.report import RunView, build_report, study_findings
from reborn_nas.samplers.registry import pruned_shares
from reborn_nas.study import RunInfo
from reborn_nas.study.config.objectives import stored_objectives
from reborn_nas.study.result.networks import (
    NamedNetworks,
    Recommended,
    named_networks,
    pareto_series,
    recommend_info,
)
from reborn_nas.study.store.kept import write_kept
from reborn_nas.study.store.opening import reads_run

if TYPE_CHECKING:
    from reborn_nas.report.probe import SiteFeatures
    from reborn_nas.study.search import RunResult


@reads_run
def report(
    study_or_path: RunResult | Run,
    out: Run | None = None,
    *,
    trust_source: bool = False,
    keep: bool = False,
) -> Path:
    """Write the report of a run: `index.html`, CSVs and figures.

    Args:
        study_or_path: the result of `search`, or a run folder.
        out: the folder to write; `RUN/report` if None.
        trust_source: run the network's source code of a run from elsewhere, to show the inputs of the sites.
        keep: also write `run.json` and `records.csv`, from which `report(out)` writes the report again without the run.

    Returns:
        The path of `index.html`.
    """
    info = info_of(study_or_path)
    view = run_view(info, trust_source=trust_source)
    page = build_report(view, Path(out) if out is not None else safe_join(folder_of(study_or_path), "report"))
    if keep:
        write_kept(info, page.parent)
    return page


@reads_run
def run_view(
    study_or_path: RunResult | RunInfo | Run,
    *,
    look: bool = True,
    brief: bool = False,
    trust_source: bool = False,
) -> RunView:
    """Read a run as plain data for its report.

    Args:
        look: also record the inputs of the sites, by running the kept networks.
        brief: omit what needs PyTorch or seconds: costs of sites, the recommendation, the command.
        trust_source: run the network's source code of a run from elsewhere.
    """
    info = info_of(study_or_path)
    features, left_out = _features(info, trust_source) if look and not brief else ((), ())
    return RunView(
        title=info.name,
        records=info.records,
        sites=info.sites if brief else _with_costs(info),
        phases=[{"phase": phase.name, "planned": phase.count, "note": phase.reason} for phase in info.phases],
        config=info.settings,
        environment=info.environment,
        curves=info.curve,
        classes=info.classes,
        notes=[*info.plan.get("notes", ()), *left_out],
        command="" if brief else resume_command_of(info),
        features=features,
        arms=info.arms,
        finished=info.complete,
        metric=info.metric,
        start=info.start,
        recommendation=None if brief else _recommendation(info),
        **_searched(info),
    )


@reads_run
def recommend(study: RunResult | Run) -> Recommended:
    """Return the architecture with the largest posterior mean accuracy in an additive model of a run's trainings.

    It keeps the run's limits. It is not simply the best observed trial, whose accuracy is partly luck.

    Raises:
        ConfigError: the run has too few finished trainings .
    """
    info = info_of(study)
    found, value = recommend_info(info), info.metric.value
    if info.metric.is_accuracy:
        return found
    low, high = sorted((value(found.ci_low), value(found.ci_high)))
    observed = None if found.observed is None else value(found.observed)
    return replace(found, predicted=value(found.predicted), ci_low=low, ci_high=high, observed=observed)


@reads_run
def networks(study: RunResult | RunInfo | Run) -> NamedNetworks:
    """Return the best observed, the recommended and the retested network of a run."""
    return named_networks(info_of(study), most=MANY)


def answer(view: RunView) -> list[str]:
    """The answer of the report, one string per sentence."""
    return list(study_findings(view).sentences)


def estimates(view: RunView) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Each site's estimate so far, in the unit of the metric, and the underlying numbers; empty without a screen."""
    found = study_findings(view)
    if found.effects is None:
        return [], {}
    columns = ["site", "effect", "ci_low", "ci_high", "verdict", "said_effect", "said_low", "said_high"]
    rows = [
        {str(key): value for key, value in row.items()} for row in found.effects[columns].to_dict("records")
    ]
    return rows, {name: float(value) for name, value in found.summary.items()}


def _searched(info: RunInfo) -> dict[str, Any]:
    """Statistics of the search: the hypervolume of its front if it had several objectives, and its pruned trainings."""
    objectives = tuple(stored_objectives(info.config))
    pruner = info.config.get("pruner") or "none"
    return {
        "front": pareto_series(info.records, objectives) if len(objectives) > 1 else {},
        "pruned": pruned_shares(info.records) if pruner != "none" else None,
    }


def _recommendation(info: RunInfo) -> dict[str, Any] | None:
    """The recommended network, for the report; None if there are too few trainings."""
    if len(info.records) > MANY:  # the posterior takes time cubic in the trainings, and was not requested
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


def _with_costs(info: RunInfo) -> list[dict[str, Any]]:
    """The sites with the cost of a reborn block of the default form."""
    from reborn_nas.backbone.cost import added

    rows = []
    for site in info.sites:
        row = dict(site)
        with suppress(RebornError):  # a site that admits no reborn block
            row["added_params"], row["added_macs"] = added(
                Choice("reborn", kernel_size=3, compression="1x1"),
                row["channels"],
                tuple(row["shape"]),
                row.get("layout", "nchw"),
            )
        rows.append(row)
    return rows


def _features(info: RunInfo, trust_source: bool) -> tuple[tuple[SiteFeatures, ...], tuple[str, ...]]:
    """The inputs of the sites of parent and candidate, if the weights of both were kept; and messages why not."""
    from reborn_nas.report.probe import watch

    if info.config.get("train") is not None:  # its example inputs are not a batch of images
        return (), ()

    data = info.plan.get("data", {})
    kept = {r.arm: (r, path) for r in info.records if r.phase == "candidate" and (path := info.checkpoint(r))}
    with suppress(RebornError, KeyError):
        reference, candidate = (
            kept[parent_arm(info)],
            kept["candidate"],
        )
        code = None if trust_source else unknown_code((reference[0], candidate[0]))
        if code is not None:
            return (), (
                f"what the sites see is left out: the networks are built by source code, {code}, that no search of "
                "yours has run on this machine; read it, then report with --trust-source",
            )
        return watch(reference, candidate, data.get("mean", ()), data.get("std", ())), ()
    return (), ()
