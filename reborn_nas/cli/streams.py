"""Output on streams whose encoding does not have every character that a message has."""

from __future__ import annotations

import codecs
import unicodedata
from typing import TextIO

__all__ = ["write_anything"]

PLAIN = {
    "−": "-", "–": "-", "—": "-", "×": "x", "·": "*", "…": "...", "≥": ">=", "≤": "<=", "→": "->", "±": "+/-",
    "≈": "~", "µ": "u", "σ": "sigma", "Γ": "Gamma", "Ψ": "Psi", "κ": "kappa", "Φ": "Phi",
    "“": '"', "”": '"', "’": "'", "‘": "'",
}  # fmt: skip
"""ASCII for the signs in our messages: a minus sign that became a question mark would change a result."""


def write_anything(*streams: TextIO) -> None:
    """Make the streams write characters that they cannot encode in ASCII, in place of raising UnicodeEncodeError."""
    codecs.register_error("reborn_nas.plain", _plain)
    for stream in streams:
        reconfigure = getattr(
            stream, "reconfigure", None
        )  # absent where a notebook or a test took the stream over
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
