"""`reborn-nas train --architecture FILE|RUN --out DIR`: one architecture with the full recipe and several seeds."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from reborn_nas import api
from reborn_nas.cli.arguments import add_backbone, add_forms, add_loudness
from reborn_nas.cli.settings import add_setting, given_settings
from reborn_nas.commands import load_line
from reborn_nas.errors import ConfigError
from reborn_nas.heavy import import_networks
from reborn_nas.study.config.config import RECIPE_FIELDS
from reborn_nas.study.config.flags import setting_flags
from reborn_nas.study.config.values import read_class_weights
from reborn_nas.study.worker.log import log_to
from reborn_nas.study.worker.progress import announce

EXAMPLES = """  reborn-nas train --architecture runs/resnet34-cifar100 --epochs 200 --seeds 5 --out my-model
  reborn-nas train --architecture arch.json --dataset folder:photos --ema 0.999 --out my-model
  reborn-nas train --architecture reborn --backbone resnet18 --checkpoint parent.safetensors --dataset cifar10 \\
      --learning-rate 0.01 --out my-model
"""

DATA = (
    "dataset",
    "data_dir",
    "image_size",
    "stored_size",
    "skip_broken",
    "resize",
    "rgb",
    "stream",
    "cache_dir",
)
TRAINING = ("recipe", *(name for name in RECIPE_FIELDS if name != "init"), "metric")
"""Settings of a study that also apply to one training; `init` has different values here."""

EVERY_SECONDS = 30.0


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "--architecture",
        required=True,
        metavar="WHAT",
        help="an architecture's JSON file, an export's folder, a run's folder, or an activation for every site",
    )
    parser.add_argument(
        "--trial",
        default="auto",
        metavar="WHICH",
        help="of a run: retested (default), recommended, best, parent, a key or a number as for `export`",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to export to")
    add_backbone(parser)
    data = parser.add_argument_group("data and recipe; those of the run by default")
    for flag in setting_flags():
        if flag.setting in DATA or flag.setting in TRAINING:
            add_setting(data, flag)
    how = parser.add_argument_group("trainings")
    how.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings (default 3)")
    how.add_argument(
        "--seed", type=int, default=0, metavar="S", help="the first one's seed; its network is exported"
    )
    how.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda, cuda:1")
    how.add_argument(
        "--run", dest="run_folder", metavar="DIR", help="where trainings are kept; default runs/train-…"
    )
    start = parser.add_argument_group("start at a parent's weights")
    start.add_argument("--pretrained", action="store_true", help="the backbone library's published weights")
    start.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="weights of the unconverted backbone: safetensors, of torch.save, or a folder with model.safetensors",
    )
    start.add_argument(
        "--init",
        choices=("preserve", "xavier"),
        help="of the new activations; preserve (default with a parent) computes what the parent does, and weight decay "
        "does not touch the compressions, which start at the identity",
    )
    add_forms(parser)
    parser.add_argument("--force", action="store_true", help="replace DIR if it is not empty")
    parser.add_argument("--name", help="the model's name in its card")
    add_loudness(parser)


def run(args: argparse.Namespace) -> int:
    """Train, export, print the accuracy on the test images."""
    if not args.quiet:
        announce("reading the architecture; importing torch and timm takes a few seconds")
    import_networks()
    given = given_settings(args)
    overrides = {name: value for name, value in given.items() if name in RECIPE_FIELDS}
    if "class_weights" in overrides:
        overrides["class_weights"] = _class_weights(overrides["class_weights"])
    direct = ("trial", "seeds", "seed", "device", "pretrained", "checkpoint", "fold", "force", "name", "backbone",
              "stem", "init")  # fmt: skip
    with log_to(None, shown=args.verbose):
        outcome = api.train(
            args.architecture,
            args.out,
            run=args.run_folder,
            forms=args.forms or (),
            arguments=dict(args.model_arg),
            overrides=overrides,
            say=lambda note: None if args.quiet else announce(note),
            on_epoch=None if args.quiet else _Lines(),
            **{name: value for name, value in given.items() if name not in RECIPE_FIELDS},
            **{key: getattr(args, key) for key in direct},
        )
    for note in dict.fromkeys(note for one in outcome.results for note in one.notes):
        print(note)
    print(f"test {outcome.metric.label} {outcome.sentence}")
    print(args.out)
    print(f"load it: {load_line(args.out)}")
    return 0


def _class_weights(text: str) -> Any:
    try:
        return read_class_weights(text)
    except ValueError as error:
        raise ConfigError(f"class_weights: {error}") from None


class _Lines:
    """Prints a line on the first epoch of each seed, then one every half minute."""

    def __init__(self) -> None:
        self._printed = 0.0
        self._seed: int | None = None

    def __call__(self, seed: int, epoch: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if seed == self._seed and now - self._printed < EVERY_SECONDS:
            return
        self._seed, self._printed = seed, now
        announce(f"seed {seed}, epoch {epoch}: training loss {metrics['train_loss']:.4f}")
