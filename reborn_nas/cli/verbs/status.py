"""`reborn-nas status RUN`: how far a run is, and what is known so far."""

from __future__ import annotations

import argparse
import json

from reborn_nas import api, study
from reborn_nas.cli.show import print_estimates, print_standing, print_status, standing_json, status_json
from reborn_nas.study.store.opening import reads_run

EXAMPLES = """  reborn-nas status runs/convnet5-digits
  reborn-nas status runs/convnet5-digits --json
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_path", metavar="RUN", help="the run's folder")
    parser.add_argument("--json", action="store_true", help="print JSON")


@reads_run
def run(args: argparse.Namespace) -> int:
    """Read the storage and print."""
    info = study.load_run(args.run_path)
    state = study.status(info)
    view = api.run_view(info, brief=True)
    rows, summary = api.estimates(view)
    networks = api.standing(info)
    if args.json:
        print(
            json.dumps(
                {
                    **status_json(state),
                    **standing_json(networks),
                    "contrast": dict(zip(("tested", "reference"), view.arms)),
                    "estimates": rows,
                    "summary": summary,
                },
                indent=2,
            )
        )
        return 0
    print_status(state, args.run_path, "" if state.complete else api.resume_line(info))
    print_standing(networks)
    print_estimates(rows, summary, view.arms, state.complete)
    return 0
