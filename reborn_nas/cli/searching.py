"""Flags of the search phase: what it is for, what it may cost, how it saves trainings."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["SEARCH_FLAGS", "add_search_phase"]

SEARCH_FLAGS = (
    "sampler",
    "objectives",
    "max_params",
    "max_macs",
    "max_latency",
    "max_memory",
    "latency_batch",
    "pruner",
    "init",
    "parent",
    "warm_epochs",
)
"""By the names of `StudyConfig`."""


def add_search_phase(parser: argparse.ArgumentParser) -> None:
    """The flags in a group of their own; faults in their values are the configuration's to find."""
    group: Any = parser.add_argument_group("the search phase")
    group.add_argument(
        "--sampler", metavar="NAME", help="tpe (default), additive, nsga2, gp, random, or a plug-in's"
    )
    group.add_argument(
        "--objectives",
        metavar="LIST",
        help="accuracy (default), or with costs: accuracy,params; macs, latency, memory",
    )
    for name, example, what in (
        ("params", "1.2x", "parameters; 1.2x: of the parent's; 12M"),
        ("macs", "1.5G", "multiply-accumulates of one image"),
        ("latency", "5ms", "of a forward pass on the study's device, folded"),
        ("memory", "2GB", "of one training step, estimated"),
    ):
        group.add_argument(
            f"--max-{name}", metavar=example, help=f"reject architectures above, untrained: {what}"
        )
    group.add_argument(
        "--latency-batch", type=int, metavar="N", help="images of the pass whose latency is measured (1)"
    )
    group.add_argument(
        "--pruner",
        metavar="NAME",
        help="stop hopeless trainings at rungs: none (default), halving, hyperband, median",
    )
    group.add_argument(
        "--init",
        choices=("scratch", "parent"),
        help="start from fresh weights (default) or a trained parent's",
    )
    group.add_argument(
        "--parent", metavar="FILE", help="trained parent for --init parent; else it is trained once"
    )
    group.add_argument(
        "--warm-epochs", type=int, metavar="N", help="epochs of a training that starts from the parent"
    )
