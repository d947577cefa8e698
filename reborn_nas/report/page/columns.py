"""The columns of the page's tables (of the frame, heading, words for a number), and what the page may not claim."""

from __future__ import annotations

import math

from reborn_nas.report.results.words import added, count, duration, p_value, percent, signed

SITE_TABLE = (
    ("site", "site", None), ("stage", "stage", lambda v: f"{v + 1:.0f}"),
    ("runs_with", "runs with", count), ("runs_without", "without", count),
    ("failed_with", "failed with", count), ("failed_without", "without", count),
    ("effect", "effect, pp", signed), ("ci", "95 % interval", str),
    ("said_ci", "corrected", str), ("p_value", "p", p_value), ("q_value", "BH q", p_value),
    ("shrunk", "shrunk", signed), ("shrunk_ci", "95 % interval", str),
    ("p_top5", "P(top 5)", lambda v: percent(v, 0)), ("ranks", "rank, 90 %", str),
    ("confirmed", "confirmed", signed), ("confirmed_ci", "95 % interval", str),
    ("control", "− positive twin", signed), ("control_ci", "95 % interval", str),
    ("added_params", "Δ parameters", added), ("added_macs", "Δ MACs", added), ("verdict", "verdict", None),
)  # fmt: skip
TRIAL_TABLE = (
    ("key", "training", None), ("arm", "arm", None), ("state", "state", None),
    ("accuracy", "accuracy", lambda v: percent(v, 2)), ("part", "of", None),
    ("test_accuracy", "test", lambda v: percent(v, 2)), ("changed_sites", "sites changed", count),
    ("params", "parameters", count), ("macs", "MACs", count), ("epochs", "epochs", count),
    ("seconds", "time", duration), ("split", "split", count), ("seed", "seed", str), ("device", "device", None),
    ("reason", "note", None),
)  # fmt: skip
PHASE_TABLE = (
    ("phase", "phase", None), ("planned", "planned", count), ("complete", "done", count),
    ("diverged", "diverged", count), ("failed", "failed", count), ("rejected", "over budget", count),
    ("pruned", "pruned", count), ("running", "running", count), ("mean_seconds", "mean time", duration),
    ("total_seconds", "total time", lambda v: duration(v or math.nan)), ("note", "note", None),
)  # fmt: skip
PRUNED_TABLE = (
    ("choice", "choice", None), ("runs", "finished at sites", count), ("pruned", "of these stopped", count),
    ("share", "share", lambda v: percent(v, 0)),
)  # fmt: skip
MAY_NOT = (
    "importance or effects read off the sampler's own trials: they enter no estimate here",
    "a strict order of sites whose rank intervals overlap",
    "a best kernel or compression for a single site: only pooled effects are estimated",
    "the best observed accuracy as the one to expect: the best of many is lucky",
    "“no effect” where a verdict is missing: unresolved means that the runs could not tell",
    "anything about other data sets, recipes or learning rates than this study's",
    "“because of the negative phase” or “beyond its parameters”, except from the control against the positive twin",
)
