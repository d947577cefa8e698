"""Output to streams whose encoding lacks characters of our messages."""

from __future__ import annotations

import codecs
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

__all__ = ["plain", "write_anything"]

PLAIN = {
    "−": "-", "–": "-", "—": "-", "×": "x", "·": "*", "…": "...", "≥": ">=", "≤": "<=", "→": "->", "±": "+/-",
    "≈": "~", "µ": "u", "σ": "sigma", "Γ": "Gamma", "Ψ": "Psi", "κ": "kappa", "Φ": "Phi",
    "“": '"', "”": '"', "’": "'", "‘": "'",
}  # fmt: skip
"""ASCII for signs in our messages: a minus sign printed as a question mark would change a result."""


def write_anything(*streams: TextIO) -> None:
    """Make the streams replace characters that they cannot encode by ASCII, instead of raising UnicodeEncodeError."""
    codecs.register_error("reborn_nas.plain", _plain)
    for stream in streams:
        reconfigure = getattr(
            stream, "reconfigure", None
        )  # missing if a notebook or a test has replaced the stream
        if reconfigure is not None:
            reconfigure(errors="reborn_nas.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(_ascii(letter) for letter in error.object[error.start : error.end])
    return text, error.end


def _ascii(letter: str) -> str:
    """`−` → `-`, `é` → `e`, anything else without a plain form → `?`."""
    if letter in PLAIN:
        return PLAIN[letter]
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"


READING = ("status", "report", "export", "dashboard")
"""Verbs that print texts from run folders, and need no control characters of a terminal."""


class _Plain:
    """A text stream that escapes control characters, which could move the cursor or rename the window."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters except line ends and tabs, and those that change the direction of writing."""


@contextmanager
def plain(verb: str) -> Iterator[None]:
    """Print no control characters inside the context, for verbs that read runs."""
    if verb not in READING:
        yield
        return
    with (
        redirect_stdout(cast("TextIO", _Plain(sys.stdout))),
        redirect_stderr(cast("TextIO", _Plain(sys.stderr))),
    ):
        yield
