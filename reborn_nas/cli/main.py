"""`reborn-nas VERB …`: parse, call one function, print."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from reborn_nas import __version__
from reborn_nas.cli import dashboard, export, replicate, report, search, sites, spaces, status, train, worker
from reborn_nas.errors import RebornError

VERBS = (search, worker, status, sites, spaces, report, train, export, dashboard, replicate)

EPILOG = """examples:
  reborn-nas search                                        64 small trainings on scikit-learn's digits
  reborn-nas search --backbone resnet34 --dataset cifar100 --dry-run
  reborn-nas report runs/convnet5-digits                   write index.html, CSVs and figures
  reborn-nas export runs/convnet5-digits --out my-model    an ordinary timm model
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="reborn-nas",
        description="Where do reborn blocks help in a CNN, by how much, and how surely?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"reborn-nas {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add(verbs)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 2 for what the user can mend, 130 for an interrupt."""
    args = parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except RebornError as error:
        print(f"reborn-nas {args.verb}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"reborn-nas {args.verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
