"""Verdicts: the four words a site may get, and the words for when it gets none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from reborn_nas.errors import ConfigError

CONFIRMED, SUGGESTIVE, UNRESOLVED, HARMFUL = "confirmed", "suggestive", "unresolved", "harmful"
NO_VERDICT = "no verdict"
"""The data cannot carry one: a screen smaller than one foldover, or lost runs on which the verdict depends."""

VERDICTS = (CONFIRMED, SUGGESTIVE, UNRESOLVED, HARMFUL, NO_VERDICT)
LEVEL = 0.05


def screen_verdicts(
    effect: npt.NDArray[np.float64], q_value: npt.NDArray[np.float64]
) -> npt.NDArray[np.object_]:
    """Verdicts from the screen alone: suggestive or harmful where q ≤ .05, by the sign, else unresolved."""
    found = np.asarray(q_value) <= LEVEL
    words = np.where(np.asarray(effect) > 0, SUGGESTIVE, HARMFUL)
    return np.where(found, words, UNRESOLVED).astype(object)


def verdicts(screen: pd.DataFrame, confirmation: pd.DataFrame | None = None) -> pd.Series:
    """The verdict of each site of `screen`, in its order.

    confirmed: q ≤ .05 in the screen and the confirmation's 95 % interval on the same side, above 0.
    suggestive: one of the two. harmful: either, below 0. unresolved: else. A screen without verdict keeps
    none, whatever the confirmation says: it chose what was confirmed.

    Args:
        screen: what `site_effects` returned.
        confirmation: what `confirmation_effects` returned; sites that it lacks were not confirmed.
    """
    missing = {"site", "effect", "q_value", "verdict"} - set(screen.columns)
    if missing:
        raise ConfigError(f"screen: a table of site_effects is needed; it lacks {', '.join(sorted(missing))}")
    first = screen_verdicts(screen["effect"].to_numpy(), screen["q_value"].to_numpy())
    above = np.zeros(len(screen), dtype=bool)
    below = np.zeros(len(screen), dtype=bool)
    if confirmation is not None and len(confirmation):
        low = screen["site"].map(dict(zip(confirmation["site"], confirmation["ci_low"], strict=True)))
        high = screen["site"].map(dict(zip(confirmation["site"], confirmation["ci_high"], strict=True)))
        above, below = (low > 0).to_numpy(bool), (high < 0).to_numpy(bool)
    words = np.where(
        (first == HARMFUL) | below,
        HARMFUL,
        np.where(
            (first == SUGGESTIVE) & above,
            CONFIRMED,
            np.where((first == SUGGESTIVE) | above, SUGGESTIVE, UNRESOLVED),
        ),
    )
    words = np.where((screen["verdict"] == NO_VERDICT).to_numpy(bool), NO_VERDICT, words)
    return pd.Series(words, index=screen.index, name="verdict", dtype=object)
