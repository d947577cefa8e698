"""`reborn-nas status RUN`: the progress of a run, and its estimates so far."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from reborn_nas import api, study
from reborn_nas.cli.show import networks_json, print_estimates, print_networks, print_status, status_json
from reborn_nas.metric import speaking
from reborn_nas.study.store.opening import reads_run

if TYPE_CHECKING:
    from reborn_nas.report import RunView
    from reborn_nas.study.result.networks import NamedNetworks

EXAMPLES = """  reborn-nas status runs/convnet5-digits
  reborn-nas status runs/convnet5-digits --json
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_path", metavar="RUN", help="the run's folder")
    parser.add_argument("--json", action="store_true", help="print JSON")


@reads_run
def run(args: argparse.Namespace) -> int:
    """Read the storage and print the status."""
    info = study.load_run(args.run_path)
    state = study.status(info)
    view = api.run_view(info, brief=True)
    rows, summary = api.estimates(view)
    networks = api.networks(info)
    with speaking(view.metric):
        _show(args, info, state, view, rows, summary, networks)
    return 0


def _show(
    args: argparse.Namespace,
    info: study.RunInfo,
    state: study.RunStatus,
    view: RunView,
    rows: list[dict[str, Any]],
    summary: dict[str, float],
    networks: NamedNetworks,
) -> None:
    """Print the status, with values of the study's metric."""
    if args.json:
        print(
            json.dumps(
                {
                    **status_json(state),
                    **networks_json(networks),
                    "metric": view.metric.to_dict(),
                    "contrast": dict(zip(("tested", "reference"), view.arms)),
                    "estimates": rows,
                    "summary": summary,
                },
                indent=2,
            )
        )
        return
    print_status(state, args.run_path, "" if state.complete else api.resume_line(info))
    print_networks(networks, view.start)
    if rows and view.metric.sentence:
        print(f"\n{view.metric.sentence}")
    print_estimates(rows, summary, view.arms, state.complete)
