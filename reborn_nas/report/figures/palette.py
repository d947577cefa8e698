"""The report's colours: one name per tone, with a light and a dark value.

Effects range from orange (harm) over grey to blue (gain), which all common colour-vision deficiencies can distinguish;
verdicts and phases also differ in shape, so that nothing depends on colour only.
"""

from __future__ import annotations

TONES: dict[str, tuple[str, str]] = {
    "paper": ("#fbfbf9", "#13171b"),
    "panel": ("#ffffff", "#1a1f24"),
    "ink": ("#1c2228", "#e8ebee"),
    "muted": ("#56616c", "#a7b1bb"),
    "faint": ("#98a2ab", "#6c7783"),
    "rule": ("#e2e5e6", "#2d343b"),
    "band": ("#f3f5f5", "#20262c"),
    "gain": ("#1f5fa8", "#7db7e8"),
    "harm": ("#a9520f", "#f0a35e"),
    "flat": ("#8b959e", "#7d8893"),
    "other": ("#0f7b62", "#5cc4a6"),
    "third": ("#8a4f93", "#c99ad3"),
    "warn": ("#8a5a00", "#e6b450"),
    "plus0": ("#e9ecee", "#2a3138"),
    "plus1": ("#d3e3f3", "#1e354b"),
    "plus2": ("#a3c6e6", "#25507a"),
    "plus3": ("#69a4d6", "#316c99"),
    "plus4": ("#1f5fa8", "#7db7e8"),
    "minus1": ("#f8e2cf", "#40301f"),
    "minus2": ("#f0bf95", "#6c4520"),
    "minus3": ("#dd8d4c", "#99581f"),
    "minus4": ("#a9520f", "#f0a35e"),
    "onpale": ("#1c2228", "#e8ebee"),
    "onfull": ("#ffffff", "#13171b"),
}

PHASE_TONES = {
    "baseline": "flat",
    "screen": "gain",
    "exploration": "third",
    "candidate": "harm",
    "retest": "other",
    "control": "warn",
    "checks": "ink",
}
PHASE_SHAPES = {
    "baseline": "square",
    "screen": "circle",
    "exploration": "diamond",
    "candidate": "triangle",
    "retest": "ring",
    "control": "cross",
    "checks": "square",
}
VERDICT_SHAPES = {"confirmed": "circle", "suggestive": "ring", "harmful": "cross", "unresolved": "none"}


def tone_of(verdict: object) -> str:
    """The tone of a verdict: blue if it helps, orange if it does harm, else grey."""
    return {"confirmed": "gain", "suggestive": "gain", "harmful": "harm"}.get(str(verdict), "flat")


def effect_tone(verdict: object, effect: float, scale: float) -> str:
    """The tone of a site's tile: grey without a verdict, else deeper for larger effects.

    `scale` (> 0) is the largest effect in the drawing.
    """
    side = {"gain": "plus", "harm": "minus"}.get(tone_of(verdict))
    if side is None or effect != effect or scale <= 0:
        return "plus0"
    share = abs(effect) / scale
    return f"{side}{1 if share < 0.3 else 2 if share < 0.55 else 3 if share < 0.8 else 4}"


def on_tone(tone: str) -> str:
    """The tone for text on `tone`."""
    return "onfull" if tone.endswith("4") else "onpale"


def css_variables(dark: bool) -> str:
    """The tones as CSS custom properties."""
    return "".join(f"--{name}:{pair[int(dark)]};" for name, pair in TONES.items())
