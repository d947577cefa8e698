"""`reborn-nas replicate`: a table of the paper, measured again and compared with the published one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas import replicate
from reborn_nas.cli.arguments import add_loudness, duration, model_argument
from reborn_nas.cli.consent import agreed
from reborn_nas.cli.show import count_text, print_table
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.heavy import import_networks
from reborn_nas.study.worker.log import log_to
from reborn_nas.study.worker.progress import announce, duration_text, make_progress

if TYPE_CHECKING:
    from reborn_nas.replicate import Outcome, Settings
if TYPE_CHECKING:
    from reborn_nas.replicate import Outcome, Plan, Replication


SHORTER = "--scale, --only or fewer --seeds make it short"

EXAMPLES = """  reborn-nas replicate table2 --counts
  reborn-nas replicate table2 --dry-run
  reborn-nas replicate table2 --only convnet8,mnist --seeds 3 --scale 0.1
  reborn-nas replicate table4 --only resnet34,reborn,relu --data-dir ~/data --yes
  reborn-nas replicate table2 --only cifar10 --replace cifar10=folder:photos
  reborn-nas replicate figure4 --images ~/pictures
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "study", metavar="STUDY", help="table2, table3, table4, section33, figure4, or a YAML file"
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--only", metavar="WORDS", help="networks, data sets and rows, separated by commas")
    what.add_argument("--seeds", type=int, default=5, metavar="N", help="trainings of each cell (default 5)")
    what.add_argument("--scale", type=float, default=1.0, metavar="F", help="factor on epochs and images")
    what.add_argument("--data-dir", type=Path, metavar="DIR", help="where data sets lie or are downloaded to")
    what.add_argument(
        "--replace",
        action="append",
        default=[],
        type=model_argument,
        metavar="NAME=DATA",
        help="read DATA (a data set, or folder:PATH) where the table names NAME",
    )
    what.add_argument(
        "--images", type=Path, metavar="DIR", help="figures: the images whose feature maps are drawn"
    )
    what.add_argument(
        "--site", action="append", metavar="NAME", help="figures: whose feature maps; may be repeated"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--recipe", metavar="NAME", help="in place of the paper's: fast")
    how.add_argument("--learning-rate", type=float, metavar="X")
    how.add_argument(
        "--init", metavar="NAME", help="how weights are drawn: xavier (the paper's), kaiming, default"
    )
    how.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"))
    how.add_argument("--device", default="auto", metavar="NAME")
    how.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    how.add_argument(
        "--timeout", type=duration, metavar="T", help="stop after so long, such as 2h; the rest can follow"
    )
    how.add_argument(
        "--out", type=Path, default=Path("runs/replicate"), metavar="DIR", help="(runs/replicate)"
    )
    how.add_argument("--dry-run", action="store_true", help="print the plan, train nothing")
    how.add_argument(
        "--counts", action="store_true", help="print parameters and MACs of every row; needs no data"
    )
    how.add_argument("--yes", action="store_true", help="start long runs without asking")
    add_loudness(how)
    how.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Plan, train the rest, write the tables. Returns 1 if data sets or trainings are missing."""
    quiet = args.json or args.quiet
    if not quiet:
        announce("reading the table; importing torch and timm takes a few seconds")
    import_networks()
    study = replicate.load_replication(args.study)
    if args.counts:
        print_counts(study, as_json=args.json)
        return 0
    if study.figure is None and (args.images or args.site):
        raise ConfigError(f"--images and --site: {study.name} has no figure; take figure4")
    cells = replicate.select(study, args.only)
    settings = _settings(args, study.datasets)
    plan = replicate.plan_replication(study, cells, settings)
    if args.json and args.dry_run:
        print(json.dumps(plan_json(plan), indent=2))
    elif not quiet or (args.dry_run and not args.json):
        print_plan(plan)
    if args.dry_run:
        return int(bool(plan.absent))
    if not args.yes and not agreed(plan.seconds, plan.on_cpu, SHORTER):
        return 2
    with make_progress(quiet) as progress, log_to(None, shown=args.verbose):
        outcome = replicate.run_replication(plan, progress=progress)
    paths = [*replicate.write_tables(outcome), *_figure(outcome, args)]
    print_outcome(outcome, paths, as_json=args.json)
    if outcome.interrupted:
        return 130
    return int(bool(plan.absent) or not outcome.complete)


def _settings(args: argparse.Namespace, datasets: Sequence[str]) -> Settings:
    replaced = {name: str(value) for name, value in args.replace}
    faults = [
        f"--replace: {unknown_name('data set', name, datasets)}" for name in replaced if name not in datasets
    ]
    if faults:
        raise ConfigError("the command has faults:", faults)
    return replicate.Settings(
        seeds=args.seeds,
        scale=args.scale,
        data_dir=args.data_dir,
        out=args.out,
        device=args.device,
        threads=args.threads,
        recipe=args.recipe,
        training={
            name: getattr(args, name)
            for name in ("learning_rate", "init", "precision")
            if getattr(args, name) is not None
        },
        timeout=args.timeout,
        replaced=replaced,
    )


def _figure(outcome: Outcome, args: argparse.Namespace) -> list[Path]:
    return replicate.draw_figures(outcome, args.images, args.site)


def print_counts(study: Replication, *, as_json: bool) -> None:
    """Print parameters and MACs of every network, row and form."""
    found = replicate.count_rows(study)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    rows = [
        (one.network, "×".join(map(str, one.input_size)), str(one.classes), study.rows[one.row].title,
         f"{one.params:,}", f"{one.macs:,}")
        for one in found
    ]  # fmt: skip
    print_table(("network", "input", "classes", "row", "parameters", "MACs"), rows, right=(2, 4, 5))


def print_plan(plan: Plan) -> None:
    """Print the cells with their parameters and progress, and the remaining time."""
    study, settings = plan.study, plan.settings
    print(f"{study.name}: {study.description.strip()}")
    rows = []
    for group in plan.groups:
        for row in group.rows:
            each = "–" if row.seconds is None else duration_text(row.seconds)
            rows.append(
                (
                    group.group.network,
                    group.group.config.dataset,
                    study.rows[row.row].title,
                    f"{row.params:,}",
                    count_text(row.macs),
                    str(group.epochs),
                    f"{group.images:,}",
                    f"{row.done} of {len(row.keys)}",
                    each,
                )
            )
    heads = ("network", "data", "row", "parameters", "MACs", "epochs", "images", "done", "each")
    print_table(heads, rows, right=(3, 4, 5, 6, 7, 8))
    for note in dict.fromkeys(note for group in plan.groups for note in group.notes):
        print(f"  {note}")
    for dataset, text in plan.absent.items():
        print(f"  left out: every row on {dataset}: {text}", file=sys.stderr)
    for name, data in settings.replaced.items():
        print(f"  {data} in place of the table's {name}: not the published data")
    if settings.scale != 1:
        print(
            f"  scale {settings.scale:g}: that share of the epochs and images, of the test at least "
            f"{replicate.LEAST_TEST:,}"
        )
    time = "" if plan.seconds is None else f", about {duration_text(plan.seconds)} on this machine"
    print(f"{plan.total - plan.done} of {plan.total} trainings to do{time}; results in {settings.out}\n")


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values."""
    return {
        "study": plan.study.name,
        "seeds": plan.settings.seeds,
        "scale": plan.settings.scale,
        "trainings": plan.total,
        "done": plan.done,
        "seconds": plan.seconds,
        "absent": dict(plan.absent),
        "cells": [
            {
                "network": group.group.network,
                "dataset": group.group.dataset,
                "data": group.group.config.dataset,
                "row": row.row,
                "params": row.params,
                "macs": row.macs,
                "epochs": group.epochs,
                "training_images": group.images,
                "done": row.done,
                "seconds": row.seconds,
                "published": plan.study.published(group.group.network, row.row, group.group.dataset),
            }
            for group in plan.groups
            for row in group.rows
        ],
    }


def print_outcome(outcome: Outcome, paths: Sequence[Path], *, as_json: bool) -> None:
    """Print measured and published values, the ordering, what is missing, and the paths."""
    found = replicate.tables(outcome)
    if as_json:
        data = {
            name: json.loads(getattr(found, name).to_json(orient="records"))
            for name in ("cells", "comparisons")
        }
        print(
            json.dumps(
                {**data, "absent": dict(outcome.plan.absent), "files": [str(path) for path in paths]},
                indent=2,
            )
        )
        return
    print(f"{found.title}: measured and published, % correct answers on the test images")
    print_table(replicate.CELL_HEADS, replicate.cell_rows(found.cells, outcome.plan.study), right=(3, 4, 5))
    if len(found.comparisons):
        print("\nDoes the published ordering hold? Differences in percentage points")
        print_table(replicate.COMPARISON_HEADS, replicate.comparison_rows(found.comparisons), right=(3, 4))
    for path in paths:
        print(f"  {path}")
    for dataset in outcome.plan.absent:
        print(f"left out: {dataset} is not there", file=sys.stderr)
    if outcome.interrupted or outcome.timed_out:
        print(
            "stopped early; everything finished is kept. Run the same command to continue.", file=sys.stderr
        )
    bad = found.trainings[found.trainings["state"] != "complete"]
    for one in bad.itertuples(index=False):
        print(
            f"{one.network} {one.dataset} {one.row} {one.seed_index}: {one.state}: {one.reason}",
            file=sys.stderr,
        )
