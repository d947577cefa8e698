"""`reborn-nas worker`: train for a study that was started on another machine."""

from __future__ import annotations

import argparse
import os
import sys

from reborn_nas import api, study
from reborn_nas.cli.arguments import add_loudness, duration
from reborn_nas.errors import ConfigError
from reborn_nas.heavy import import_networks
from reborn_nas.study.worker.log import log_to
from reborn_nas.study.worker.progress import announce, make_progress

VARIABLE = "REBORN_NAS_STORAGE"

EXAMPLES = """  reborn-nas worker --storage postgresql://db.example.org/studies --study resnet34-cifar100
  reborn-nas worker --storage journal:///shared/runs/mine/study.journal --study mine --devices 0,1
  REBORN_NAS_STORAGE=postgresql://… reborn-nas worker --study mine     no password on the command line
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--storage", metavar="URL", help=f"of the study; default ${VARIABLE}")
    parser.add_argument("--study", metavar="NAME", required=True, help="the study's name")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda, cuda:1")
    parser.add_argument("--devices", default=(), metavar="LIST", help="one process each, such as 0,1,2")
    parser.add_argument(
        "--workers",
        default="auto",
        metavar="K",
        help="processes that train at the same time; auto (default): one on each GPU, or on each core",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where data sets lie or are downloaded to")
    parser.add_argument("--cache-dir", metavar="DIR", help="where decoded images are cached on this machine")
    parser.add_argument(
        "--dataset", metavar="NAME", help="where the study's folder:PATH lies on this machine"
    )
    parser.add_argument(
        "--run",
        dest="run_folder",
        metavar="DIR",
        help="folder for curves and weights; default runs/NAME, here",
    )
    parser.add_argument(
        "--artifacts",
        metavar="DIR",
        help="shared folder, or s3://BUCKET/PREFIX, for the states of trainings",
    )
    parser.add_argument("--timeout", type=duration, metavar="TIME", help="leave after 90s, 15m, 2h")
    add_loudness(parser)
    parser.add_argument("--adopt", action="store_true", default=None, help="join although settings differ")


def run(args: argparse.Namespace) -> int:
    """Join a study, train, and print why the worker left."""
    if not args.quiet:
        announce("joining the study; importing torch and timm takes a few seconds")
    import_networks()
    storage = args.storage or os.environ.get(VARIABLE)
    if not storage:
        raise ConfigError(f"storage: give the study's storage with --storage, or in ${VARIABLE}")
    stopper = study.Stopper(args.timeout)
    with make_progress(args.quiet) as progress, log_to(None, shown=args.verbose):
        complete = api.join(
            storage,
            args.study,
            device=args.device,
            devices=args.devices,
            workers=args.workers,
            progress=progress,
            stopper=stopper,
            expendable=True,
            data_dir=args.data_dir,
            cache_dir=args.cache_dir,
            dataset=args.dataset,
            run=args.run_folder,
            artifacts=args.artifacts,
            adopt=args.adopt,
        )
    if complete:
        print(f"study {args.study!r} is complete")
        return 0
    why = "interrupted" if stopper.interrupted else "out of time" if stopper.timed_out else "stopped"
    print(
        f"{why}; finished trainings are stored, the study continues with its other workers", file=sys.stderr
    )
    return 130 if stopper.interrupted else 0
