"""`reborn-nas report RUN`: the page, the tables and the figures of a run."""

from __future__ import annotations

import argparse

from reborn_nas import api
from reborn_nas.cli.show import near
from reborn_nas.heavy import import_networks

EXAMPLES = """  reborn-nas report runs/convnet5-digits
  reborn-nas report runs/convnet5-digits --out /tmp/report
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_path", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--trust-source", action="store_true", help="run the source code that a run from elsewhere names"
    )
    parser.add_argument("--out", metavar="DIR", help="where to write; default RUN/report")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="also write the records, so that `report DIR` works without the run",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and print its path."""
    import_networks()
    print(near(api.report(args.run_path, args.out, trust_source=args.trust_source, keep=args.keep)))
    return 0
