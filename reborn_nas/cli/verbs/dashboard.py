"""`reborn-nas dashboard RUN`: optuna-dashboard over a run's storage."""

from __future__ import annotations

import argparse
import sys

from reborn_nas import api

EXAMPLES = """  reborn-nas dashboard runs/convnet5-digits
  reborn-nas dashboard runs/convnet5-digits --port 9000
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_path", metavar="RUN", help="the run's folder")
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="default 8080")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if args.host not in ("127.0.0.1", "localhost", "::1"):
        print(
            f"warning: optuna-dashboard has no login; {args.host} may be reachable by others", file=sys.stderr
        )
    api.dashboard(args.run_path, host=args.host, port=args.port)
    return 0
