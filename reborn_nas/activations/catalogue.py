"""The activations that come with reborn-nas, registered in the order in which tables show them."""

from __future__ import annotations

from reborn_nas.activations import controls, pointwise
from reborn_nas.activations.base import family_names, get_family, register
from reborn_nas.activations.crelu import CReLUFamily
from reborn_nas.activations.reborn import RebornFamily

for _family in (*pointwise.FAMILIES, CReLUFamily(), RebornFamily(), *controls.FAMILIES):
    register(_family)


def registry_rows() -> list[dict[str, str]]:
    """The registry as rows for a table: name, aliases, options with their values, layouts and summary of each."""
    rows = []
    for name in family_names():
        family = get_family(name)
        options = []
        for key, option in family.options.items():
            values = [f"{value}*" if value == option.default else str(value) for value in option.values]
            options.append(
                f"{key}: {' '.join(values) or f'{option.low:g} … {option.high:g}, {option.default}*'}"
            )
        rows.append(
            {
                "name": name,
                "aliases": ", ".join(family.aliases),
                "options": "; ".join(options),
                "layouts": " ".join(sorted(family.layouts())),
                "summary": family.summary,
            }
        )
    return rows
