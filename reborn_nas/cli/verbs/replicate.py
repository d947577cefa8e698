"""`reborn-nas replicate`: a table of the paper, measured again beside what was published."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reborn_nas.cli.arguments import add_loudness, duration, model_argument
from reborn_nas.cli.consent import agreed
from reborn_nas.errors import ConfigError
from reborn_nas.heavy import import_networks
from reborn_nas.study.worker.progress import announce

if TYPE_CHECKING:
    from reborn_nas.replicate import Outcome, Settings

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
    """Plan, train what is left, write the tables. 1 where data sets were absent or trainings are missing."""
    quiet = args.json or args.quiet
    if not quiet:
        announce("reading the table; importing torch and timm takes a few seconds")
    import_networks()
    from reborn_nas.cli.replicated import plan_json, print_counts, print_outcome, print_plan
    from reborn_nas.replicate import load_replication, plan_replication, run_replication, select
    from reborn_nas.replicate.writing import write_tables
    from reborn_nas.study.worker.progress import log_to, make_progress

    study = load_replication(args.study)
    if args.counts:
        print_counts(study, as_json=args.json)
        return 0
    if study.figure is None and (args.images or args.site):
        raise ConfigError(f"--images and --site: {study.name} has no figure; take figure4")
    cells = select(study, args.only)
    settings = _settings(args, study.datasets)
    plan = plan_replication(study, cells, settings)
    if args.json and args.dry_run:
        print(json.dumps(plan_json(plan), indent=2))
    elif not quiet or (args.dry_run and not args.json):
        print_plan(plan)
    if args.dry_run:
        return int(bool(plan.absent))
    if not args.yes and not agreed(plan.seconds, plan.on_cpu, SHORTER):
        return 2
    with make_progress(quiet) as progress, log_to(None, shown=args.verbose):
        outcome = run_replication(plan, progress=progress)
    paths = [*write_tables(outcome), *_figure(outcome, args)]
    print_outcome(outcome, paths, as_json=args.json)
    if outcome.interrupted:
        return 130
    return int(bool(plan.absent) or not outcome.complete)


def _settings(args: argparse.Namespace, datasets: Sequence[str]) -> Settings:
    from reborn_nas.errors import unknown_name
    from reborn_nas.replicate import Settings

    replaced = {name: str(value) for name, value in args.replace}
    faults = [
        f"--replace: {unknown_name('data set', name, datasets)}" for name in replaced if name not in datasets
    ]
    if faults:
        raise ConfigError("the command has faults:", faults)
    return Settings(
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
    from reborn_nas.replicate.figure import draw_figures

    return draw_figures(outcome, args.images, args.site)
