"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from typing import Any

Subparsers = Any  # argparse keeps the class of `add_subparsers` private


def verb(verbs: Subparsers, name: str, summary: str, examples: str, run: Any) -> argparse.ArgumentParser:
    """A verb's parser: its help ends in examples."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_backbone(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """`--backbone`, `--stem` and `--model-arg`, as every verb that builds a network has them."""
    parser.add_argument(
        "--backbone",
        default=default,
        metavar="NAME",
        help="timm model (resnet34), torchvision:NAME, or path/to/file.py:factory",
    )
    parser.add_argument(
        "--stem",
        choices=("original", "small"),
        help="first layers; small: 3×3, stride 1, no max-pool (the default up to 64×64 pixels)",
    )
    parser.add_argument(
        "--model-arg",
        action="append",
        default=[],
        type=model_argument,
        metavar="NAME=VALUE",
        help="keyword argument of the backbone, such as width=0.25; may be repeated",
    )


def model_argument(text: str) -> tuple[str, Any]:
    """`name=value` with a JSON value, or else a string."""
    from reborn_nas.study.flags import read_pair

    try:
        return read_pair(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def input_size(text: str) -> tuple[int, int, int]:
    """`32`, `3x32x32` or `3,32,32` → (C, H, W)."""
    parts = text.replace("x", ",").split(",")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers = [3, numbers[0], numbers[0]]
    if len(numbers) != 3 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no input size; write 32 or 3x32x32")
    return numbers[0], numbers[1], numbers[2]


def duration(text: str) -> float:
    """`90`, `90s`, `15min`, `2h` → seconds."""
    from reborn_nas.study.duration import read_duration

    try:
        return float(read_duration(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
