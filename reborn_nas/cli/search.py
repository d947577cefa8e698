"""`reborn-nas search`: plan, train, report."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from reborn_nas.cli.arguments import Subparsers, add_backbone, duration, verb
from reborn_nas.cli.consent import agreed
from reborn_nas.cli.searching import SEARCH_FLAGS, add_search_phase

PHASES = ("baseline", "screen", "search", "candidate", "confirm", "control", "checks")
SHORTER = "--trials, --epochs, --fraction, --image-size or a smaller --backbone make it short"

EXAMPLES = """  reborn-nas search
  reborn-nas search --backbone resnet34 --dataset cifar100 --data-dir ~/data --dry-run
  reborn-nas search --dataset folder:photos --backbone torchvision:resnet18 --trials 160 --yes
  reborn-nas search --config studies/mnist-convnet8.yaml
"""


def add(verbs: Subparsers) -> None:
    """The verb's arguments; one that is not given keeps the value of --config, or the default."""
    parser = verb(verbs, "search", "run a study, or resume it with the same command", EXAMPLES, run)
    what = parser.add_argument_group("what is searched")
    add_backbone(what)  # type: ignore[arg-type]
    what.add_argument(
        "--dataset",
        metavar="NAME",
        help="cifar10, cifar100, svhn, mnist, kmnist, fashion_mnist, digits (default) or folder:PATH",
    )
    what.add_argument("--data-dir", metavar="DIR", help="where data sets lie or are downloaded to")
    what.add_argument("--image-size", type=int, metavar="N", help="resize images to N×N")
    what.add_argument("--fraction", type=float, metavar="F", help="use this share of every part of the data")
    what.add_argument(
        "--space", metavar="NAME", help="search space: a name of `reborn-nas spaces`, or a YAML file"
    )
    what.add_argument(
        "--contrast", metavar="A:B", help="what the study compares: A against B (reborn:original)"
    )
    how = parser.add_argument_group("how it is trained")
    how.add_argument("--recipe", metavar="NAME", help="fast (default) or paper")
    how.add_argument("--epochs", type=int, metavar="N")
    how.add_argument("--batch-size", type=int, metavar="N")
    how.add_argument("--learning-rate", type=float, metavar="X")
    how.add_argument("--weight-decay", type=float, metavar="X")
    how.add_argument("--precision", choices=("auto", "fp32", "bf16"))
    add_search_phase(parser)
    study = parser.add_argument_group("the study")
    study.add_argument("--trials", type=int, metavar="N", help="trainings in all, finished ones included")
    for phase in PHASES:
        study.add_argument(f"--{phase}", type=int, metavar="N", help=f"trainings of the {phase} phase")
    study.add_argument("--seed", type=int, metavar="N")
    study.add_argument("--name", help="the study's name; default BACKBONE-DATASET")
    study.add_argument("--run", dest="run_folder", metavar="DIR", help="the run's folder; default runs/NAME")
    study.add_argument(
        "--storage", metavar="URL", help="Optuna storage; default a journal file in the run's folder"
    )
    study.add_argument("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1")
    study.add_argument("--devices", metavar="LIST", help="one worker each, such as 0,1,2 for three GPUs")
    study.add_argument("--workers", type=int, metavar="K", help="processes that train at the same time")
    study.add_argument(
        "--slots-per-device", type=int, metavar="N", help="trainings at a time on each device, each a worker"
    )
    study.add_argument(
        "--compile",
        action="store_true",
        default=None,
        help="compile the networks' blocks in the longer trainings",
    )
    study.add_argument(
        "--recompute",
        action="store_true",
        default=None,
        help="make the blocks' maps again in the backward pass: less memory, more time, the same results",
    )
    study.add_argument("--threads", type=int, metavar="N", help="CPU threads of each worker")
    study.add_argument(
        "--artifacts",
        metavar="DIR",
        help="shared folder, or s3://BUCKET/PREFIX, for the states of interrupted trainings",
    )
    study.add_argument(
        "--timeout", type=duration, metavar="TIME", help="stop after 90s, 15m, 2h; the same command goes on"
    )
    study.add_argument("--gpu-hours", type=float, metavar="H", help="stop when all trainings took so long")
    study.add_argument(
        "--hang-after",
        type=duration,
        metavar="TIME",
        help="give up a training that ends no epoch for so long",
    )
    study.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="on a GPU, the same numbers each time; slower",
    )
    study.add_argument("--config", metavar="FILE", help="a study YAML; flags override it")
    study.add_argument("--adopt", action="store_true", default=None, help="resume although settings differ")
    study.add_argument("--dry-run", action="store_true", help="stop after the plan")
    study.add_argument("--yes", action="store_true", help="do not ask before a long run")
    study.add_argument("--json", action="store_true", help="print the plan or the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Plan, ask where it is long, run, report, print."""
    from reborn_nas.api import report, run_view, search, standing
    from reborn_nas.cli.progress import make_progress
    from reborn_nas.cli.show import print_plan, print_result, result_json
    from reborn_nas.cli.words import print_standing, standing_json
    from reborn_nas.study import load_config, plan_search

    config = load_config(args.config, **settings(args))
    plan = plan_search(config)
    quiet = args.json
    if not quiet:
        print_plan(plan)
    if args.dry_run:
        if quiet:
            print(json.dumps(plan.to_dict(), indent=2))
        return 0
    if not args.yes and not agreed(plan.seconds, plan.bench.device == "cpu", SHORTER):
        return 2
    with make_progress(quiet) as progress:
        result = search(config, progress=progress, plan=plan)
    if result.interrupted or result.timed_out or result.spent:
        what = "out of time" if result.timed_out else "interrupted"
        if result.spent:
            what = f"the {config.gpu_hours:g} device hours are spent; a larger --gpu-hours goes on"
        print(f"\n{what}; everything finished is kept. To go on: {result.resume_command}", file=sys.stderr)
        return 130 if result.interrupted else 0
    page = report(result)
    view, networks = run_view(result), standing(result)
    if quiet:
        print(json.dumps({**result_json(result, view, page), **standing_json(networks)}, indent=2))
    else:
        print_result(result, view, page)
        print_standing(networks)
    return 0


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, by the names of `StudyConfig`."""
    direct = (
        "backbone", "stem", "dataset", "data_dir", "image_size", "fraction", "space", "contrast", "recipe", "epochs",
        "batch_size", "learning_rate", "weight_decay", "precision", "trials", *PHASES, *SEARCH_FLAGS, "seed", "name",
        "storage", "device", "devices", "workers", "slots_per_device", "threads", "compile", "recompute", "artifacts",
        "timeout", "gpu_hours", "hang_after", "deterministic", "adopt",
    )  # fmt: skip
    found = {name: getattr(args, name) for name in direct if getattr(args, name) is not None}
    if args.run_folder is not None:
        found["run"] = args.run_folder
    if args.model_arg:
        found["backbone_arguments"] = dict(args.model_arg)
    return found
