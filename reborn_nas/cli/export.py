"""`reborn-nas export RUN --out DIR`: a trained network as an ordinary timm model."""

from __future__ import annotations

import argparse

from reborn_nas.cli.arguments import Subparsers, verb

EXAMPLES = """  reborn-nas export runs/convnet5-digits --out my-model
  reborn-nas export runs/convnet5-digits --trial search/12 --out my-model --force
"""


def add(verbs: Subparsers) -> None:
    """The verb's arguments."""
    parser = verb(verbs, "export", "write a trained network of a run as a timm model", EXAMPLES, run)
    parser.add_argument("run_path", metavar="RUN", help="the run's folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--trial",
        default="auto",
        metavar="WHICH",
        help="confirmed (the candidate, default where there is one), best, or a trial's key as in the report",
    )
    parser.add_argument("--force", action="store_true", help="replace DIR if it is not empty")
    parser.add_argument("--name", help="the model's name in its card")


def run(args: argparse.Namespace) -> int:
    """Write it and print how to load it."""
    from reborn_nas.api import export

    out = export(args.run_path, args.out, trial=args.trial, force=args.force, name=args.name)
    print(out)
    print(f'load it: import reborn_nas, timm; timm.create_model("local-dir:{out}", pretrained=True)')
    return 0
