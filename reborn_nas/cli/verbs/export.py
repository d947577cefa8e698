"""`reborn-nas export RUN --out DIR`: a trained network as an ordinary timm model."""

from __future__ import annotations

import argparse
import sys

from reborn_nas import api
from reborn_nas.cli.arguments import add_forms
from reborn_nas.commands import load_line
from reborn_nas.heavy import import_networks
from reborn_nas.study.store.opening import reads_run

EXAMPLES = """  reborn-nas export runs/convnet5-digits --out my-model
  reborn-nas export runs/convnet5-digits --trial best --out my-model --force
  reborn-nas export runs/convnet5-digits --trial pareto --out front
  reborn-nas export runs/convnet5-digits --out fast-model --fold --onnx
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_path", metavar="RUN", help="the run's folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--trial",
        default="auto",
        metavar="WHICH",
        help="retested (the candidate; default where there is one), recommended, best, parent, pareto (a folder "
        "for each network of the front of metric and MACs), a key such as screen/3, or a number of the dashboard",
    )
    add_forms(parser)
    parser.add_argument("--force", action="store_true", help="replace DIR if it is not empty")
    parser.add_argument(
        "--trust-source", action="store_true", help="run the source code that a run from elsewhere names"
    )
    parser.add_argument("--name", help="the model's name in its card")


@reads_run
def run(args: argparse.Namespace) -> int:
    """Export and print how to load it."""
    import_networks()
    out = api.export(
        args.run_path,
        args.out,
        trial=args.trial,
        fold=args.fold,
        forms=args.forms or (),
        force=args.force,
        name=args.name,
        trust_source=args.trust_source,
        say=lambda text: print(text, file=sys.stderr if text.startswith("warning") else sys.stdout),
    )
    print(out)
    for folder in sorted(one for one in out.iterdir() if one.is_dir()) if args.trial == "pareto" else [out]:
        print(f"load it: {load_line(folder)}")
    return 0
