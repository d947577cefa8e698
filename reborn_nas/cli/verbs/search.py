"""`reborn-nas search`: plan, train, report."""

from __future__ import annotations

import argparse
import json
import sys

from reborn_nas.cli.arguments import add_loudness
from reborn_nas.cli.consent import agreed, cheaper
from reborn_nas.cli.settings import add_settings, given_settings
from reborn_nas.heavy import import_networks
from reborn_nas.study.worker.progress import announce

EXAMPLES = """  reborn-nas search
  reborn-nas search --backbone resnet34 --dataset cifar100 --data-dir ~/data --dry-run
  reborn-nas search --dataset folder:photos --backbone torchvision:resnet18 --trials 160 --yes
  reborn-nas search --config mnist-convnet8
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments; one that is not given keeps the value of --config, or the default."""
    add_settings(parser)
    asked = parser.add_argument_group("this call")
    asked.add_argument("--config", metavar="FILE", help="a study YAML; flags override it")
    asked.add_argument("--dry-run", action="store_true", help="stop after the plan")
    asked.add_argument("--yes", action="store_true", help="do not ask before a long run")
    add_loudness(asked)
    asked.add_argument("--json", action="store_true", help="print the plan or the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Plan, ask where it is long, run, report, print."""
    quiet = args.json or args.quiet
    if not quiet:
        announce("reading the settings; importing torch and timm takes a few seconds")
    import_networks()
    from reborn_nas.api import report, run_view, search, standing
    from reborn_nas.cli.show import plan_json, print_next, print_plan, print_result, result_json
    from reborn_nas.cli.words import print_standing, standing_json
    from reborn_nas.study import load_config, plan_search
    from reborn_nas.study.worker.progress import log_to, make_progress

    config = load_config(args.config, **given_settings(args))
    plan = plan_search(config)
    advice = cheaper(plan)
    if not quiet or (args.dry_run and not args.json):
        print_plan(plan)
        if advice:
            print(advice)
    if args.dry_run:
        if args.json:
            print(json.dumps(plan_json(plan), indent=2))
        return 0
    if not args.yes and not agreed(plan.seconds, plan.bench.device == "cpu", advice):
        return 2
    with make_progress(quiet) as progress, log_to(None, shown=args.verbose):
        result = search(config, progress=progress, plan=plan)
    if result.interrupted or result.timed_out or result.spent:
        what = "out of time" if result.timed_out else "interrupted"
        if result.spent:
            what = f"the {config.gpu_hours:g} device hours are spent; a larger --gpu-hours goes on"
        print(f"\n{what}; everything finished is kept. To go on: {result.resume_command}", file=sys.stderr)
        return 130 if result.interrupted else 0
    page = report(result)
    view, networks = run_view(result), standing(result)
    if args.json:
        print(json.dumps({**result_json(result, view, page), **standing_json(networks)}, indent=2))
    else:
        print_result(result, view)
        print()
        print_standing(networks)
        print_next(result, page)
    return 0
