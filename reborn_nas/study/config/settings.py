"""Everything that changes a study's results, as flat lines with a digest, and how two such lists differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["difference", "flatten", "settings_digest"]


def flatten(value: Any, place: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names; lists and scalars stay."""
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key in sorted(value, key=str):
            flat.update(flatten(value[key], f"{place}.{key}" if place else str(key)))
        return flat
    if isinstance(value, tuple):
        value = list(value)
    return {place: value}


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Sixteen hex digits that change with any setting."""
    text = json.dumps(flatten(settings), sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line a setting that differs: `recipe.epochs: 30 in the study, 20 now`."""
    before, after = flatten(old), flatten(new)
    lines = []
    for key in sorted({*before, *after}):
        was, now = (json.loads(json.dumps(side.get(key), default=str)) for side in (before, after))
        if was != now:
            lines.append(f"{key}: {_show(was)} in the study, {_show(now)} now")
    return lines


def _show(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
