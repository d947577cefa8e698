"""`reborn-nas search`: plan, train, report."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from reborn_nas import api, study
from reborn_nas.cli.arguments import add_loudness
from reborn_nas.cli.consent import agreed, cheaper
from reborn_nas.cli.settings import add_setting, given_settings
from reborn_nas.cli.show import (
    networks_json,
    plan_json,
    print_networks,
    print_next,
    print_plan,
    print_result,
    print_training_check,
    result_json,
)
from reborn_nas.heavy import import_networks
from reborn_nas.metric import speaking
from reborn_nas.study.config.config import OLD_NAMES
from reborn_nas.study.config.flags import setting_flags
from reborn_nas.study.worker.log import log_to
from reborn_nas.study.worker.progress import announce, make_progress

EXAMPLES = """  reborn-nas search
  reborn-nas search --backbone resnet34 --dataset cifar100 --data-dir ~/data --dry-run
  reborn-nas search --dataset folder:photos --backbone torchvision:resnet18 --trials 160 --yes
  reborn-nas search --dataset data.py:make
  reborn-nas search --config mnist-convnet8
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments; omitted ones keep the value of --config, or the default."""
    add_settings(parser)
    asked = parser.add_argument_group("this call")
    asked.add_argument("--config", metavar="FILE", help="a study YAML; flags override it")
    asked.add_argument(
        "--dry-run", action="store_true", help="stop after the plan; of a training of your own also try it"
    )
    asked.add_argument("--yes", action="store_true", help="do not ask before a long run")
    add_loudness(asked)
    asked.add_argument("--json", action="store_true", help="print the plan or the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Plan, ask for confirmation of a long run, run, report, print."""
    if not (args.json or args.quiet):
        announce("reading the settings; importing torch and timm takes a few seconds")
    import_networks()
    config = study.load_config(args.config, **given_settings(args))
    with speaking(config.judged_by):
        return _search(args, config)


def _search(args: argparse.Namespace, config: study.StudyConfig) -> int:
    quiet = args.json or args.quiet
    plan = study.plan_search(config)
    advice = cheaper(plan)
    if not quiet or (args.dry_run and not args.json):
        print_plan(plan)
        if advice:
            print(advice)
    if args.dry_run:
        tried = None if config.train is None else api.check_training(config)
        if args.json:
            more = {} if tried is None else {"training": tried.to_dict()}
            print(json.dumps({**plan_json(plan), **more}, indent=2))
        elif tried is not None:
            print_training_check(tried, plan)
        return 0 if tried is None or tried.ok else 1
    if not args.yes and not agreed(plan.seconds, plan.context.device == "cpu", advice):
        return 2
    with make_progress(quiet) as progress, log_to(None, shown=args.verbose):
        result = api.search(config, progress=progress, plan=plan)
    if result.interrupted or result.timed_out or result.spent:
        what = "out of time" if result.timed_out else "interrupted"
        if result.spent:
            what = f"the {config.gpu_hours:g} device hours are spent; raise --gpu-hours to continue"
        print(f"\n{what}; everything finished is kept. To continue: {result.resume_command}", file=sys.stderr)
        return 130 if result.interrupted else 0
    page = api.report(result)
    view, networks = api.run_view(result), api.networks(result)
    answer = api.answer(view)
    if args.json:
        print(json.dumps({**result_json(result, answer, page), **networks_json(networks)}, indent=2))
    else:
        print_result(result, view, answer)
        print()
        print_networks(networks, view.start)
        print_next(result, page, api.surer(result), exportable=api.exportable(result))
    return 0


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting, in groups; omitted ones keep the value of --config, or the default."""
    groups: dict[str, Any] = {}
    old_names = {name: old for old, name in OLD_NAMES.items()}
    for flag in setting_flags():
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        declared = add_setting(groups[flag.group], flag)
        if flag.setting in old_names:
            parser.add_argument(f"--{old_names[flag.setting]}", **{**declared, "help": argparse.SUPPRESS})
