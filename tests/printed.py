"""Finding the commands and snippets that the product prints or documents, wherever they stand."""

from __future__ import annotations

import ast
import html
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reborn_nas.cli.main import VERBS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "reborn_nas"

FILLED = "1"
"""Stands for what a message fills in: a number as well as a name."""

START = r"(?:[A-Z_]+=\S+ )?(?:reborn-nas|python -m reborn_nas\.run|pip install)(?= |$)"
PROSE = (
    rf"(?<![\w/`-])(?:[A-Z_]+=\S+ )?(?:reborn-nas (?:{'|'.join(VERBS)})(?= |$|\n)"
    r"|python -m reborn_nas\.run |pip install )"
)
LOAD = re.compile(r"import reborn_nas, timm; timm\.create_model\(.*\)$", re.M)


@dataclass(frozen=True)
class Command:
    """A command and where it stands."""

    words: tuple[str, ...]
    place: str

    @property
    def verb(self) -> str:
        """Of `reborn-nas`; "" of other programs and of the bare name."""
        return self.words[1] if self.words[0] == "reborn-nas" and len(self.words) > 1 else ""


def commands_in(text: str, place: str) -> list[Command]:
    """Every command of ours in `text`: in backticks, or from its first word to the end of the line."""
    text = re.sub(r"\\\n\s*", " ", text)
    found = [match.group(1) for match in re.finditer(rf"`({START}[^`\n]*)`", text)]
    rest = re.sub(r"`[^`\n]*`", "", text)
    found += [match.group(0) for match in re.finditer(rf"{PROSE}(?:(?!&&| \||; )[^\n`])*", rest)]
    return [Command(tuple(words), place) for line in found if (words := _words(line))]


def _words(line: str) -> list[str]:
    """The command's own words: no comment, no explanation set apart by spaces, no full stop."""
    line = re.split(r"\s{3,}|\s+#\s|\. [A-Z]|, such as| \(", line)[0].rstrip(" .,;:)")
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    return words


def blocks(markdown: str, language: str) -> list[str]:
    """The fenced blocks of a Markdown text."""
    return re.findall(rf"```{language}\n(.*?)```", markdown, re.S)


def visible(page: str) -> str:
    """A page's text, a line an element."""
    page = re.sub(r"<(svg|style|script).*?</\1>", "", page, flags=re.S)
    page = re.sub(r"</?(span|code|b|i|em|strong|a)\b[^>]*>", "", page)
    return html.unescape(re.sub(r"<[^>]+>", "\n", page))


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every string that a module may show; what is filled in is `FILLED`.

    A call of `command_line` is the command that it makes.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside: set[int] = set()
    for node in ast.walk(tree):
        if id(node) in documentation or id(node) in inside:
            continue
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "command_line":
            inside.update(id(one) for one in ast.walk(node))
            some = any(
                isinstance(one, ast.Starred) for one in node.args
            )  # then its verb is all that is known here
            yield node.lineno, shlex.join(_argument(one) for one in (node.args[:2] if some else node.args))
        elif isinstance(node, ast.JoinedStr):
            inside.update(id(one) for one in ast.walk(node))
            yield node.lineno, "".join(_argument(part) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _argument(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else FILLED
