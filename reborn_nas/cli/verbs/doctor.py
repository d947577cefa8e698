"""`reborn-nas doctor`: checks whether trainings on this machine's device compute correct results."""

from __future__ import annotations

import argparse
import json

import reborn_nas as rn
from reborn_nas.heavy import import_networks

EXAMPLES = """  reborn-nas doctor
  reborn-nas doctor --device cuda:1
  reborn-nas doctor --json
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda, cuda:1")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the checks and print them; returns 1 if one fails."""
    import_networks()
    device, note = rn.training.pick_device(args.device)
    found = []
    if note and not args.json:
        print(note)
    for finding in rn.training.examine(device):
        found.append(finding)
        if not args.json:
            print(f"{'ok   ' if finding.good else 'WRONG'}  {finding.name}: {finding.text}", flush=True)
    wrong = [finding.name for finding in found if not finding.good]
    if args.json:
        rows = [{"name": one.name, "good": one.good, "text": one.text} for one in found]
        print(json.dumps({"device": device, "note": note, "good": not wrong, "checks": rows}, indent=2))
    elif wrong:
        print(f"{len(wrong)} of {len(found)} checks found something wrong: {'; '.join(wrong)}")
    else:
        print(f"nothing wrong in {len(found)} checks")
    return 1 if wrong else 0
