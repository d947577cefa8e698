"""Output on streams whose encoding has not every character."""

from __future__ import annotations

import io

import pytest

from reborn_nas.cli.streams import write_anything


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "site é: −0.50 pp – 3×3 … → ≥ 雪"),
        ("cp1252", "site é: -0.50 pp – 3×3 … -> >= ?"),
        ("latin-1", "site é: -0.50 pp - 3×3 ... -> >= ?"),
        ("ascii", "site e: -0.50 pp - 3x3 ... -> >= ?"),
    ],
)
def test_a_sign_becomes_its_plain_form_where_the_stream_has_none(encoding: str, expected: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    write_anything(stream)
    print("site é: −0.50 pp – 3×3 … → ≥ 雪", end="", file=stream)
    assert raw.getvalue().decode(encoding) == expected


def test_names_that_are_no_text_are_written_too() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    write_anything(stream)
    print(b"runs/\xff".decode("utf-8", "surrogateescape"), end="", file=stream)
    assert raw.getvalue() == b"runs/?"


def test_a_stream_without_an_encoding_is_not_changed() -> None:
    stream = io.StringIO()
    write_anything(stream)
    print("−", end="", file=stream)
    assert stream.getvalue() == "−"
