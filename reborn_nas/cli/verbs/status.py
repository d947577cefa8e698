"""`reborn-nas status RUN`: how far a run is, and what is known so far."""

from __future__ import annotations

import argparse
import json

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
    from reborn_nas.api import resume_line, run_view, standing
    from reborn_nas.cli.show import estimates, print_estimates, print_status, status_json
    from reborn_nas.cli.words import print_standing, standing_json
    from reborn_nas.study import load_run, status

    info = load_run(args.run_path)
    state = status(info)
    view = run_view(info, brief=True)
    rows, summary = estimates(view)
    networks = standing(info)
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
    print_status(state, args.run_path, "" if state.complete else resume_line(info))
    print_standing(networks)
    print_estimates(rows, summary, view.arms, state.complete)
    return 0
