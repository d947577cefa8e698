"""`reborn-nas train --architecture FILE|RUN --out DIR`: one architecture with the full recipe and several seeds."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from reborn_nas import api
from reborn_nas.cli.arguments import add_backbone, add_forms, add_loudness, model_argument
from reborn_nas.commands import load_line
from reborn_nas.heavy import import_networks
from reborn_nas.study.config.values import read_class_weights
from reborn_nas.study.worker.log import log_to
from reborn_nas.study.worker.progress import announce

EXAMPLES = """  reborn-nas train --architecture runs/resnet34-cifar100 --epochs 200 --seeds 5 --out my-model
  reborn-nas train --architecture arch.json --dataset folder:photos --ema 0.999 --out my-model
  reborn-nas train --architecture reborn --backbone resnet18 --checkpoint parent.safetensors --dataset cifar10 \\
      --learning-rate 0.01 --out my-model
"""

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
    data.add_argument("--dataset", metavar="NAME", help="as in `reborn-nas search`; digits by default")
    data.add_argument("--data-dir", metavar="DIR")
    data.add_argument("--image-size", type=int, metavar="N")
    data.add_argument("--skip-broken", action="store_true", help="leave out images that cannot be read")
    data.add_argument("--resize", choices=("cover", "contain", "stretch"), help="images of another size")
    data.add_argument("--rgb", action="store_true", help="read grey images as RGB")
    data.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="read decoded images from a cache on disk; by default only where memory is short",
    )
    data.add_argument("--cache-dir", metavar="DIR", help="where that cache lies")
    data.add_argument("--recipe", metavar="NAME", help="fast, adamw, a3, finetune, paper, or FILE.yaml")
    for option, kind in (
        ("epochs", int),
        ("batch-size", int),
        ("learning-rate", float),
        ("weight-decay", float),
        ("clip-grad", float),
    ):
        data.add_argument(f"--{option}", type=kind, metavar="N" if kind is int else "X")
    data.add_argument("--optimizer", metavar="NAME", help="sgd, adamw or another of timm's")
    for option, what in (
        ("optimizer-arg", "betas=[0.9,0.95]"),
        ("schedule-arg", "warmup_epochs=5"),
        ("loss-arg", "target_threshold=0.2"),
        ("augment", "mixup=0.2"),
    ):
        data.add_argument(
            f"--{option}",
            action="append",
            type=model_argument,
            default=[],
            metavar="NAME=VALUE",
            help=f"such as {what}",
        )
    data.add_argument("--schedule", metavar="NAME", help="one_cycle, cosine, … as in `reborn-nas search`")
    data.add_argument("--loss", metavar="NAME", help="cross_entropy or bce")
    data.add_argument("--layer-decay", type=float, metavar="X")
    data.add_argument(
        "--class-weights", metavar="LIST", type=_weights, help="balanced, or a number for each class"
    )
    data.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"))
    data.add_argument("--metric", metavar="NAME", help="what judges, as in `reborn-nas search`")
    how = parser.add_argument_group("trainings")
    how.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings (default 3)")
    how.add_argument(
        "--seed", type=int, default=0, metavar="S", help="the first one's seed; its network is exported"
    )
    how.add_argument(
        "--ema",
        type=float,
        default=0.0,
        metavar="D",
        help="average the weights over the steps, such as 0.999",
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
    recipe = ("epochs", "batch_size", "learning_rate", "weight_decay", "clip_grad", "optimizer", "schedule", "loss",
              "layer_decay", "augment", "precision")  # fmt: skip
    maps = {f"{name}_args": getattr(args, f"{name}_arg") for name in ("optimizer", "schedule", "loss")}
    overrides = {key: getattr(args, key) for key in recipe} | {
        key: dict(value) for key, value in maps.items()
    }
    overrides |= {"augment": dict(args.augment), "class_weights": args.class_weights}
    direct = ("trial", "dataset", "data_dir", "image_size", "skip_broken", "rgb", "resize", "stream", "cache_dir",
              "recipe", "seeds", "seed", "device", "pretrained", "checkpoint", "metric", "fold", "force", "name",
              "backbone", "stem", "init")  # fmt: skip
    with log_to(None, shown=args.verbose):
        outcome = api.train(
            args.architecture,
            args.out,
            run=args.run_folder,
            forms=args.forms or (),
            average=args.ema,
            arguments=dict(args.model_arg),
            overrides={key: value for key, value in overrides.items() if value not in (None, {})},
            say=lambda note: None if args.quiet else announce(note),
            on_epoch=None if args.quiet else _Lines(),
            **{key: getattr(args, key) for key in direct},
        )
    for note in dict.fromkeys(note for one in outcome.results for note in one.notes):
        print(note)
    print(f"test {outcome.metric.label} {outcome.sentence}")
    print(args.out)
    print(f"load it: {load_line(args.out)}")
    return 0


def _weights(text: str) -> Any:
    try:
        return read_class_weights(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Lines:
    """A line on the first epoch of each seed, then one every half minute."""

    def __init__(self) -> None:
        self._said = 0.0
        self._seed: int | None = None

    def __call__(self, seed: int, epoch: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if seed == self._seed and now - self._said < EVERY_SECONDS:
            return
        self._seed, self._said = seed, now
        announce(f"seed {seed}, epoch {epoch}: training loss {metrics['train_loss']:.4f}")
