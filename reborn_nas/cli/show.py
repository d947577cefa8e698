"""The output of the verbs: tables, the plan, the result, the status. Plain text, suitable for pipes."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.commands import command_line
from reborn_nas.metric import spoken
from reborn_nas.records import public_name
from reborn_nas.study.worker.progress import duration_text

if TYPE_CHECKING:
    from reborn_nas.report import RunView
    from reborn_nas.study import PlanView, RunResult, RunStatus
    from reborn_nas.study.result.networks import NamedNetworks, Recommended
    from reborn_nas.study.trainer.rehearsal import TrainingCheck


__all__ = [
    "count_text",
    "near",
    "plan_json",
    "print_estimates",
    "print_next",
    "print_plan",
    "print_result",
    "print_networks",
    "print_status",
    "print_table",
    "print_training_check",
    "result_json",
    "say",
    "networks_json",
    "status_json",
]


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print aligned columns, two spaces apart; the last column wraps to the terminal's width."""
    if not rows:
        return
    last = len(heads) - 1
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(last)]
    before = sum(widths) + 2 * last
    room = max(30, shutil.get_terminal_size((120, 24)).columns - before) if sys.stdout.isatty() else 10_000
    for row in [heads, ["-" * len(head) for head in heads], *rows]:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))
        ]
        wrapped = textwrap.wrap(row[last], room) or [""]
        if last in right:
            wrapped = [wrapped[0].rjust(max(len(line[last]) for line in [heads, *rows]))]
        print("  ".join([*cells, wrapped[0]]).rstrip())
        for line in wrapped[1:]:
            print(" " * before + line)


def say(text: str, indent: str = "") -> None:
    """Print a paragraph, wrapped on a terminal, in one line in a pipe."""
    room = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 100_000
    print(textwrap.fill(text, room, initial_indent=indent, subsequent_indent=indent + "  "))


def near(path: Path) -> Path:
    """`path`, relative if it is below the working directory."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve())
    except ValueError:
        return path


def count_text(number: int | None) -> str:
    """`1,234`, `12.3 k`, `1.24 M`, `1.16 G`; `–` for None."""
    if number is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{number:,}"


def purposes(tested: str, parent: str) -> dict[str, str]:
    """The purpose of each phase; `parent` is the network with the reference at every site."""
    return {
        "baseline": f"{parent} and all-{tested}: the noise between runs, and whether effects add up",
        "screen": f"every site {tested} in half of the runs: the effect of each",
        "search": "the sampler proposes networks; none of them enters an estimate",
        "candidate": f"candidate against {parent}, fresh seeds, test set",
        "confirm": f"the top sites measured again, on {spoken().counted} unused so far",
        "control": f"{tested} against its positive twin: is it the negative phase?",
        "checks": f"top sites alone on {parent}; extended conv, norm + ReLU; the top site at another learning rate",
    }


def _sites_text(plan: PlanView) -> str:
    """Text on where the question is asked: at each site, or for groups of sites that change together."""
    factors, sites = plan.context.contrast.factors, plan.n_sites
    groups, asked = len(factors), sum(map(len, factors.values()))
    all_of = f"{sites} sites" if asked == sites else f"{asked} of the {sites} sites"
    return f"each of {all_of}" if groups == asked else f"{groups} groups of {all_of}"


def print_plan(plan: PlanView) -> None:
    """Print what will be trained, how long it takes and which effects it can detect."""
    config = plan.config
    where = f"on {config.dataset}" if config.train is None else f"trained by {config.train}"
    print(f"{config.study_name}: {plan.spec.source} {where}, {plan.n_sites} sites, {plan.total} trainings")
    if spoken().sentence:
        say(spoken().sentence)
    tested, reference = plan.context.contrast.arms
    parent = "parent" if reference == "original" else f"all-{reference}"
    print(f"question: {tested} against {reference}, at {_sites_text(plan)}")
    purpose = purposes(tested, parent)
    left_out = {f"{public_name(phase.name)}: {phase.reason}" for phase in plan.phases if phase.reason}
    for note in plan.notes:
        if note not in left_out:
            say(note, "  ")
    rows = []
    for phase in plan.phases:
        time = duration_text(phase.seconds) if phase.seconds and phase.count else ""
        remark = (
            f"{purpose[phase.name]}; {phase.reason}"
            if phase.count and phase.reason
            else (purpose[phase.name] if phase.count else f"left out: {phase.reason}")
        )
        rows.append((public_name(phase.name), str(phase.count) if phase.count else "–", time, remark))
    print_table(("phase", "trainings", "time", "what for"), rows, right=(1, 2))
    for line in plan.prospects.lines() if plan.prospects is not None else ():
        say(line)
    if plan.seconds is not None:
        print(
            f"Estimated time: {duration_text(plan.seconds)} on {plan.context.device}, from a few measured steps."
        )
    if plan.done:
        print(f"{plan.done} of {plan.total} trainings are done already.")
    sys.stdout.flush()


def print_training_check(tried: TrainingCheck, plan: PlanView) -> None:
    """Print what the check of a training of the user's own found, and how long the plan takes at that rate."""
    print(f"\ntrying the training with the budget of one epoch:\n{tried}")
    left, epochs = plan.total - plan.done, plan.context.epochs
    if tried.seconds is not None and left:
        took = duration_text(tried.seconds * epochs * left)
        grows = "" if epochs == 1 else f", where one of {epochs} epochs takes {epochs} times as long"
        print(f"at that rate {left} trainings take {took} one after the other{grows}")


def print_result(result: RunResult, view: RunView, answer: Sequence[str]) -> None:
    """Print the answer, and the network that was compared with its parent."""
    print()
    for sentence in answer:
        say(sentence)
    if result.candidate is not None:
        print("\ncandidate architecture:")
        parent = view.config.get("backbone", {}).get("arguments", {})
        for name, value in result.candidate.backbone.arguments.items():
            if parent.get(name) != value:
                print(f"  {name} of the backbone: {value}")
        for site, choice in result.candidate:
            print(f"  {site}: {choice}")
        if not result.candidate.choices:
            print("  every site keeps its original activation")


def print_next(result: RunResult, page: Path, surer: tuple[str, int] | None, *, exportable: bool) -> None:
    """Print the report's path and next commands; `surer`: that of a larger search, and its additional trainings."""
    print(f"\nreport:  {near(page)}")
    print(f"look:    {command_line('reborn-nas', 'dashboard', result.folder)}")
    if exportable:
        print(f"export:  {command_line('reborn-nas', 'export', result.folder, '--out', 'my-model')}")
    if surer is not None:
        command, more = surer
        print(f"surer:   {command}")
        say(
            f"{more} more trainings retest the top sites on unused {spoken().counted} and "
            "compare the reborn block with its positive twin: is it the negative phase, or the block's own batch norm "
            "and weights?",
            "         ",
        )


def result_json(result: RunResult, answer: Sequence[str], page: Path) -> dict[str, Any]:
    """The result as JSON values, for scripts."""
    return {
        "run": str(result.folder),
        "report": str(page),
        "complete": result.complete,
        "seconds": round(result.seconds, 3),
        "answer": list(answer),
        "candidate": None if result.candidate is None else result.candidate.to_dict(),
    }


def print_status(state: RunStatus, run: str, command: str) -> None:
    """Print the phases, and the `command` that continues the run."""
    print(f"{state.name}: {state.done} of {state.total} trainings done, {state.running} under way")
    rows = [
        (
            public_name(p.name),
            str(p.planned or "–"),
            str(p.done),
            str(p.running),
            str(p.failed),
            p.reason if not p.planned else "",
        )
        for p in state.phases
    ]
    print_table(("phase", "planned", "done", "running", "failed", ""), rows, right=(1, 2, 3, 4))
    if state.reason:
        print(f"candidate: {state.reason}")
    report = command_line("reborn-nas", "report", Path(run))
    print(f"report: {report}" if state.complete else f"to continue: {command}")


def plan_json(plan: PlanView) -> dict[str, Any]:
    """The plan as JSON values, for scripts."""
    data = plan.to_dict()
    phases = [{**phase, "name": public_name(phase["name"])} for phase in data["phases"]]
    tested = data.pop("factors")
    return {**data, "phases": phases, "tested": tested}


def status_json(state: RunStatus) -> dict[str, Any]:
    """The status as JSON values, for scripts."""
    return {
        "name": state.name,
        "complete": state.complete,
        "total": state.total,
        "done": state.done,
        "running": state.running,
        "phases": [{**asdict(phase), "name": public_name(phase.name)} for phase in state.phases],
        "candidate": None if state.candidate is None else state.candidate.to_dict(),
    }


def print_estimates(
    rows: Sequence[dict[str, Any]], summary: dict[str, float], arms: tuple[str, str], complete: bool
) -> None:
    """Print the estimates so far; without verdicts until all trainings are done.

    Args:
        arms: the tested activation and its reference.
    """
    if not rows:
        return
    runs, sigma = summary.get("runs", 0.0), summary.get("sigma", float("nan"))
    digits = spoken().digits
    print(f"\nestimates of {runs:.0f} screen runs, {spoken().difference(*arms)}:")
    print_table(
        (
            "site",
            f"effect, {spoken().short_unit}" if spoken().short_unit else "effect",
            "interval",
            "verdict",
        ),
        [
            (
                str(row["site"]),
                f"{row['said_effect']:+.{digits}f}",
                f"[{row['said_low']:+.{digits}f}, {row['said_high']:+.{digits}f}]",
                str(row["verdict"]) if complete else "–",
            )
            for row in rows
        ],
        right=(1,),
    )
    if summary.get("collapsed"):
        print(
            f"{summary['collapsed']:.0f} more collapsed: the estimates are those among the runs that converged."
        )
    print("Intervals allow for the number of sites, and for a site having been chosen by its verdict.")
    if "detectable" in summary:
        unit = f" {spoken().short_unit}" if spoken().short_unit else ""
        say(
            f"Noise of one training {sigma:.{digits}f}{unit}: an effect of {summary['detectable']:.{digits}f}{unit} is "
            f"found with 80 % power by the {summary['planned']:.0f} runs of the screen."
        )
    if not complete:
        print("Descriptive until the study ends: intervals shrink, and there is no verdict yet.")


def print_networks(networks: NamedNetworks, start: str) -> None:
    """Print a line for each network that exists.

    Args:
        start: the weights from which every training started, in words; "" where these were fresh.
    """
    if start:
        print(f"every training started from {start}")
    best, recommended, tested = networks.best, networks.recommended, networks.retested
    if best is not None and best.accuracy is not None:
        print(
            f"best observed: {best.label}, {_measured(best.accuracy, _cases(best.accuracy_n, best.accuracy_part))}; "
            "the best of many is partly luck"
        )
    if recommended is not None:
        label = "" if spoken().is_accuracy else f"{spoken().label} "
        print(
            f"recommended:   {label}{shown(recommended.predicted)} expected on validation {spoken().counted}, "
            f"95 % interval [{', '.join(_ends(recommended))}], by {recommended.n_trials} trainings"
        )
    elif best is not None:
        print(f"recommended:   none yet ({networks.reason})")
    shares = [record.test_accuracy for record in tested if record.test_accuracy is not None]
    if shares:
        same = recommended is not None and recommended.architecture.digest == tested[0].digest
        print(
            f"retested:      the candidate{' (the recommended network)' if same else ''}, "
            f"{_measured(sum(shares) / len(shares), _cases(tested[0].test_n, 'test'))} over {len(shares)} seeds"
        )


def shown(score: float) -> str:
    """A score as text: `86.06%`, `12.4000 degrees`."""
    return f"{score:.2%}" if spoken().is_accuracy else spoken().shown(score)


def _measured(score: float, cases: str) -> str:
    """A score with the data on which it was measured."""
    return f"{shown(score)} of {cases}" if spoken().is_accuracy else spoken().measured(score, cases)


def value_of(score: float | None) -> float:
    """A score as a number of the metric; NaN if there is none."""
    return spoken().value(math.nan if score is None else score)


def _ends(recommended: Recommended) -> list[str]:
    """Both ends of its interval, the smaller value first."""
    return [shown(score) for score in sorted((recommended.ci_low, recommended.ci_high), key=spoken().plotted)]


def _cases(n: int, part: str) -> str:
    return f"{n:,} {part} {spoken().counted}" if n else f"{part} {spoken().counted}"


def networks_json(networks: NamedNetworks) -> dict[str, Any]:
    """The networks as JSON values, for scripts."""
    best, recommended = networks.best, networks.recommended
    shares = [record.test_accuracy for record in networks.retested if record.test_accuracy is not None]
    return {
        "best": None
        if best is None
        else {"key": best.label, spoken().name: value_of(best.accuracy), "n": best.accuracy_n},
        "recommended": None
        if recommended is None
        else {
            "architecture": recommended.architecture.to_dict(),
            "predicted": value_of(recommended.predicted),
            "interval": sorted((value_of(recommended.ci_low), value_of(recommended.ci_high))),
            "trainings": recommended.n_trials,
        },
        "retested": None
        if not shares
        else {
            "architecture": dict(networks.retested[0].architecture),
            f"test_{spoken().name}": value_of(sum(shares) / len(shares)),
            "seeds": len(shares),
        },
    }
