"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from reborn_nas.errors import unknown_name


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, which reports an error in one line with a suggestion."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **settings}
        )

    def error(self, message: str) -> NoReturn:
        """Exit with code 2, without the usage, which would hide the message."""
        self.exit(2, f"{self.prog}: error: {message}\n{self.prog} --help shows what it takes\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Refuse unknown options before missing ones, which may follow from them."""
        words = list(args or ())
        if self._subparsers is not None:  # the verb parses the rest
            words = words[: next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))]
        for word in words[: words.index("--") if "--" in words else len(words)]:
            name = word.partition("=")[0]
            if re.fullmatch(r"--[^\s=]+", name) and name not in self._option_string_actions:
                self.error(str(unknown_name("option", name, self._option_string_actions)))
        return super().parse_known_args(args, namespace)


def add_loudness(parser: Any) -> None:
    """`--verbose` and `--quiet`; the log in the run folder is always complete."""
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument(
        "-v", "--verbose", action="store_true", help="show the log too: a line for each training"
    )
    loudness.add_argument("-q", "--quiet", action="store_true", help="show only the answer")


def add_backbone(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """`--backbone`, `--stem` and `--model-arg`, of every verb that builds a network."""
    parser.add_argument(
        "--backbone",
        default=default,
        metavar="NAME",
        help="timm model (resnet34), torchvision:NAME, path/to/file.py:factory or package.module:factory",
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


def add_forms(parser: argparse.ArgumentParser) -> None:
    """Add the options for further forms of the network."""
    parser.add_argument(
        "--fold", action="store_true", help="deployment form: batch norm and compression folded"
    )
    for form, what in (
        ("onnx", "model.onnx, checked in onnxruntime"),
        ("torch-export", "model.pt2"),
        ("jit-trace", "model.torchscript"),
    ):
        parser.add_argument(
            f"--{form}", dest="forms", action="append_const", const=form, help=f"also write {what}"
        )


def model_argument(text: str) -> tuple[str, Any]:
    """`name=value` with a JSON value, or else a string."""
    from reborn_nas.study.config.flags import read_pair

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
        raise argparse.ArgumentTypeError(f"{text!r} is not an input size; write 32 or 3x32x32")
    return numbers[0], numbers[1], numbers[2]


def duration(text: str) -> float:
    """`90`, `90s`, `15min`, `2h` → seconds."""
    from reborn_nas.study.config.values import read_duration

    try:
        return float(read_duration(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
