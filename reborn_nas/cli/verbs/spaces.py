"""`reborn-nas spaces`: the search spaces, and what is in one."""

from __future__ import annotations

import argparse
import json

import reborn_nas as rn
from reborn_nas.cli.show import print_table
from reborn_nas.heavy import import_networks

EXAMPLES = """  reborn-nas spaces
  reborn-nas spaces paper
  reborn-nas spaces my-space.yaml --json
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("name", nargs="?", help="a shipped space or a YAML file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List all spaces, or show one."""
    import_networks()
    if args.name is None:
        spaces = [rn.load_space(name) for name in rn.space.list_spaces()]
        if args.json:
            print(json.dumps([{"name": s.name, "description": s.description} for s in spaces], indent=2))
            return 0
        print_table(
            ("space", "choices", "one a", "what it is"),
            [(s.name, str(len(s.choices)), s.granularity, s.description) for s in spaces],
        )
        print(
            "\nOne in detail: reborn-nas spaces NAME. Your own: a YAML file of the same form, --space FILE."
        )
        return 0
    space = rn.load_space(args.name)
    if args.json:
        found = {
            "name": space.name,
            "granularity": space.granularity,
            "choices": [choice.label for choice in space.choices],
            "backbone": {name: list(values) for name, values in space.variants.arguments.items()},
        }
        print(json.dumps(found, indent=2))
        return 0
    print(f"{space.name}: {space.description}")
    fate = {"refuse": "refused", "skip": "skipped"}[space.inadmissible]
    print(f"one choice a {space.granularity}; a choice that a site cannot take is {fate}\n")
    rows = []
    for choice in space.choices:
        what = (
            "as the backbone has it"
            if choice.name == "original"
            else rn.activations.get_family(choice.name).summary
        )
        rows.append((choice.label, what))
    print_table(("choice", "what it is"), rows)
    for name, labels in space.variants.parameters.items():
        print(f"{name}: {', '.join(labels)}; one for all of the network")
    for rule in space.rules:
        where = ", ".join([*rule.sites, *(f"stage {stage}" for stage in rule.stages)]) or "all sites"
        what = f"fixed to {rule.fixed}" if rule.fixed else ", ".join(choice.label for choice in rule.choices)
        print(f"rule: {where}: {what}")
    return 0
