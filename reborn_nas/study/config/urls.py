"""Storage URLs: what they name, what of them may be shown, and texts without a URL's secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from reborn_nas.errors import StudyError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

__all__ = [
    "HIDDEN",
    "JOURNAL",
    "STORAGE_VARIABLE",
    "is_readable",
    "journal_path",
    "mask_text",
    "mask_url",
    "opened_url",
    "remember_url",
    "require_file",
    "run_url",
    "storage_file",
    "without_secrets",
]

HIDDEN = "***"

JOURNAL = "study.journal"
"""The journal of a run without another storage, in its folder."""

STORAGE_VARIABLE = "REBORN_NAS_STORAGE"
"""Environment variable with a storage's complete URL, password included."""

HARMLESS = {
    "application_name", "charset", "client_encoding", "connect_timeout", "dbname", "gssencmode", "host", "hostaddr",
    "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "mode", "port", "sslmode",
    "target_session_attrs", "tcp_user_timeout", "timeout", "unix_socket", "uri", "user",
}  # fmt: skip
"""Options of a URL whose values are no secrets; the values of all others are hidden."""


def mask_url(url: str) -> str:
    """`url` without its password and without the values of options that may be secret.

    Where it cannot be read for sure, everything before its last `@` but a plain user name is hidden, or all of it.
    """
    if _is_journal(url):
        return url
    parsed = _parse(url)
    if parsed is None:
        return _mask_blindly(url)
    head, sign, query = url.partition("?") if parsed.password is None else _split_query(url)
    if parsed.password is not None:
        head = parsed.set(query={}).render_as_string(hide_password=True)
    options = []
    for option in query.split("&"):
        key, equals, _ = option.partition("=")
        options.append(option if not equals or unquote_plus(key) in HARMLESS else f"{key}={HIDDEN}")
    return head + sign + "&".join(options)


def mask_text(text: str) -> str:
    """`text` with whatever stands between a scheme and an `@` hidden: a URL that was given in the wrong place."""
    return re.sub(r"([A-Za-z][\w+.\-]*:/+).*@", rf"\1{HIDDEN}@", text)


def is_readable(url: str) -> bool:
    """Whether it is sure what in `url` is user name, password, host and database."""
    return _is_journal(url) or _parse(url) is not None


def without_secrets(text: str, url: str) -> str:
    """`text` with every secret of `url` hidden; "" where it is not sure what in `url` is secret."""
    if _is_journal(url):
        return text
    parsed = _parse(url)
    if parsed is None:
        return ""
    secrets = {str(parsed.password)} if parsed.password else set()
    raw = re.match(r"[\w+]+://[^:/]*:([^@]*)@", url)
    secrets |= {raw[1]} if raw and parsed.password else set()
    for option in _split_query(url)[2].split("&"):
        key, _, value = option.partition("=")
        if value and unquote_plus(key) not in HARMLESS:
            secrets |= {value, unquote(value), unquote_plus(value)}
    secrets |= {coded(secret) for secret in secrets for coded in (quote, quote_plus)}
    text = text.replace(url, mask_url(url))
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _is_journal(url: str) -> bool:
    """Whether `url` names a journal's path, with no credentials before it."""
    return url.startswith("journal://") and not re.match(r"journal://[^/\\]*:[^/\\]*@", url)


def _parse(url: str) -> URL | None:
    """What SQLAlchemy reads in `url`; None where it reads nothing, or took a part of a password for something else."""
    import sqlalchemy

    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None
    if parsed.get_backend_name() == "sqlite" and parsed.host is None and parsed.password is None:
        return parsed  # a path follows, in which "@" and ":" are letters like others
    host, database = parsed.host or "", parsed.database or ""
    misread = not re.fullmatch(r"[\w.\-]*|[0-9A-Fa-f:.%\w]+", host) or re.search("[@:]", database)
    return None if misread or "@" in _split_query(url)[2] else parsed


def _split_query(url: str) -> tuple[str, str, str]:
    """`url` before its options, "?" and the options, as SQLAlchemy splits it: a password may hold a question mark."""
    found = re.match(r"[\w+]+://(?:[^:/]*(?::[^@]*)?@)?", url)
    start = found.end() if found else 0
    head, sign, query = url[start:].partition("?")
    return url[:start] + head, sign, query


def _mask_blindly(url: str) -> str:
    found = re.match(r"([A-Za-z][\w+.\-]*:/*)(.*)", url, flags=re.DOTALL)
    scheme, rest = found.groups() if found else ("", url)
    if "@" in rest and "?" not in rest.rpartition("@")[0]:
        user = re.match(r"[\w.\-]+:", rest) if scheme.endswith("://") else None
        host, sign, query = rest.rpartition("@")[2].partition("?")
        return f"{scheme}{user[0] if user else ''}{HIDDEN}@{host}{sign}{HIDDEN if query else ''}"
    return scheme + (HIDDEN if re.search("[@?:]", rest) else rest)


def require_file(url: str) -> None:
    """Raise StudyError where the storage lies in a file that does not exist."""
    file = storage_file(url)
    if file is not None and not file.is_file():
        raise StudyError(f"storage {mask_url(url)}: there is no such file; `reborn-nas search` makes one")


def storage_file(url: str) -> Path | None:
    """The file that a storage lies in; None where it is no file of its own."""
    if url.startswith("journal://"):
        return Path(url.removeprefix("journal://")).absolute()
    match = re.match(r"sqlite(?:\+\w+)?:///([^?]*)", url)
    return None if match is None else Path(match[1]).absolute()


def journal_path(folder: Path) -> Path:
    """The journal file of the run folder, absolute: Optuna's lock spins on a relative one."""
    return folder.resolve() / JOURNAL


def run_url(folder: Path, storage: str | None) -> str:
    """The storage of a run: `storage`, else the journal in its folder."""
    return storage if storage is not None else f"journal://{journal_path(folder)}"


_opened: dict[str, str] = {}
"""URLs that this process has opened, by what of them may be shown and kept."""


def remember_url(url: str) -> None:
    """Keep the complete URL, password included, for this process."""
    _opened[mask_url(url)] = url


def opened_url(masked: str) -> str | None:
    """The URL whose password was left out of `masked`, where this process has opened it before."""
    return _opened.get(masked)
