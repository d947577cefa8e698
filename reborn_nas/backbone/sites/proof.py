"""What the proof of a network found, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WRITTEN = "written"
"""What is copied where an activation works in place on a map that is read under another name too."""


@dataclass(frozen=True)
class Proof:
    """What the proof of a network found.

    Args:
        faults: site → why nothing but its original can stand there.
        clones: site → "input", "output" or "both": what something later overwrites, and conversion has to copy;
            "written": its result is written over its map, which somebody reads under another name.
        spare: paths of activation modules with parameters that nothing uses once all their sites are replaced.
        proved: sites that were put to the proof and passed.
        varying: sites that run, or are read, for some numbers and sizes of images only, or by chance.
    """

    faults: Mapping[str, str] = field(default_factory=dict)
    clones: Mapping[str, str] = field(default_factory=dict)
    spare: tuple[str, ...] = ()
    proved: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()

    @property
    def written(self) -> frozenset[str]:
        """Sites whose result is written over their map."""
        return frozenset(site for site, what in self.clones.items() if what == WRITTEN)

    @property
    def digest(self) -> str:
        """Twelve hex digits of all that was found."""
        data = list(self.to_dict().values())
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "faults": dict(self.faults),
            "clones": dict(self.clones),
            "spare": list(self.spare),
            "proved": list(self.proved),
            "varying": list(self.varying),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Proof:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for what is none."""
        faults, clones = (
            {str(k): str(v) for k, v in dict(data[key]).items()} for key in ("faults", "clones")
        )
        spare, proved, varying = (tuple(map(str, data[key])) for key in ("spare", "proved", "varying"))
        return cls(faults, clones, spare, proved, varying)
