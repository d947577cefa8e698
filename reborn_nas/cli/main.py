"""`reborn-nas VERB …`: parse, call one function, print. A verb's module is imported when that verb is used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from reborn_nas import __version__
from reborn_nas.cli.arguments import Parser
from reborn_nas.cli.streams import plain, write_anything
from reborn_nas.errors import RebornError, machine_fault, unknown_name

VERBS = {
    "search": "run a study, or resume it with the same command",
    "worker": "join a study from any machine that reaches its storage",
    "status": "show how far a run is and its estimates so far",
    "sites": "print the activation sites of a backbone",
    "spaces": "list the search spaces, or explain one",
    "report": "write a run's report: index.html, CSVs, figures",
    "train": "train one architecture with several seeds and export it",
    "export": "write a trained network of a run as a timm model",
    "cache": "list the decoded images on disk, or remove them",
    "doctor": "try what trainings rely on, on this machine's device",
    "dashboard": "open a run in optuna-dashboard, on this machine only",
    "replicate": "measure a table or figure of the paper again",
}
"""Verb → description. Each is a module of `verbs` with `EXAMPLES`, `add(parser)` and `run(args)`."""

EPILOG = """examples:
  reborn-nas search                                        64 small trainings on scikit-learn's digits
  reborn-nas search --backbone resnet34 --dataset cifar100 --dry-run
  reborn-nas report runs/convnet5-digits                   write index.html, CSVs and figures
  reborn-nas export runs/convnet5-digits --out my-model    an ordinary timm model
"""


def parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The command line; with the arguments of `verb`, or of all verbs."""
    top = Parser(
        prog="reborn-nas",
        description="Where do reborn blocks help in a CNN, by how much, and how surely?",
        epilog=EPILOG,
    )
    top.add_argument("--version", action="version", version=f"reborn-nas {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for name, summary in VERBS.items():
        if verb in (None, name):
            verb_parser(verbs.add_parser(name, help=summary), name)
        else:
            verbs.add_parser(name, help=summary)
    return top


def verb_parser(made: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    """Add the arguments of one verb to its parser; its help ends in examples."""
    module = import_module(f"reborn_nas.cli.verbs.{name}")
    made.description = f"{VERBS[name][0].upper()}{VERBS[name][1:]}."
    made.epilog = f"examples:\n{module.EXAMPLES}"
    module.add(made)
    made.set_defaults(run=module.run)
    return made


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments. Exits with the help if there are none, and with code 2 on an error."""
    verb = next((word for word in argv if not word.startswith("-")), None)
    top = parser(verb or "")
    if not argv:
        top.print_help()
        raise SystemExit(0)
    if verb is None:
        top.parse_args(argv)
        top.error("name a verb: " + ", ".join(VERBS))
    if verb not in VERBS:
        top.error(str(unknown_name("verb", verb, VERBS)))
    return top.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 2 for errors that the user can fix, or 130 for an interrupt."""
    write_anything(sys.stdout, sys.stderr)
    args = parse(sys.argv[1:] if argv is None else argv)
    with plain(args.verb):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
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
    except BrokenPipeError:  # the reader of our output has closed it, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if machine_fault(error) is None and not isinstance(error, PermissionError):
            raise
        print(f"reborn-nas {args.verb}: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
