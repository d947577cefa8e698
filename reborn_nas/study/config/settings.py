"""Everything that changes a study's results, as flat lines with a digest, and how two studies differ in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from reborn_nas.errors import StudyError

__all__ = ["adopted_settings", "difference", "flatten", "settings_digest"]

PLACE, IMAGES = "data.name:", "data.fingerprint:"
FIXED = ("contrast:", "metric:", PLACE, "search.objectives:", "space.parameters.")
"""Settings that a study keeps for good, as `difference` writes them."""


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


def adopted_settings(
    name: str, kept: Mapping[str, Any] | None, asked: Mapping[str, Any], *, adopt: bool
) -> tuple[str, ...]:
    """The settings in which a study differs from those asked for now, each a line: none, unless `adopt` allows them.

    Args:
        name: the study's name.
        kept: the settings that it was begun with; None where it keeps none yet.
        asked: the settings of this call.
        adopt: whether they may differ.

    Raises:
        StudyError: listing the differences, where they are not to be adopted or cannot be.
    """
    lines = [] if kept is None else difference(kept, asked)
    if not any(line.startswith(IMAGES) for line in lines):  # the same images, wherever they lie now
        lines = [line for line in lines if not line.startswith(PLACE)]
    fixed = [line for line in lines if line.startswith(FIXED)]
    if any(line.startswith(PLACE) for line in fixed):
        fixed += [line for line in lines if line.startswith(IMAGES)]
    others = [line for line in lines if line not in fixed]
    if fixed:
        choices = (
            " Optuna keeps a categorical parameter's list of choices for the life of a study "
            '("CategoricalDistribution does not support dynamic value space"), so not even one more can be added.'
            if any(line.startswith("space.parameters.") for line in fixed)
            else ""
        )
        raise StudyError(
            f"study {name!r} was begun with other settings, some of which cannot change within a study, not even "
            f"with --adopt, since its designs are made for them.{choices} Begin a new study with another --run: it "
            "trains afresh, and what is finished here stays as it is:\n"
            + _indented(fixed)
            + (f"\nWith --adopt these could differ:\n{_indented(others)}" if others else "")
        )
    if lines and not adopt:
        raise StudyError(
            f"study {name!r} was begun with other settings; repeat those, choose another --run, or continue "
            f"all the same with --adopt:\n{_indented(lines)}"
        )
    return tuple(lines)


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _show(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
