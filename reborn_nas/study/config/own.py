"""A training of the user's own in a study's configuration: which settings belong to it, and which do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.metric.classification import METRICS, read_metric

__all__ = ["OWN_SETTINGS", "metric_of", "own_faults"]

OWN_SETTINGS = ("evaluate", "example_inputs", "version")
"""Settings that mean something beside `train` alone."""

BUILT_IN = (
    "dataset", "data_dir", "image_size", "stored_size", "fraction", "stem", "recipe", "batch_size", "learning_rate",
    "momentum", "weight_decay", "label_smoothing", "optimizer", "optimizer_args", "decay_norms_and_biases", "clip_grad",
    "ema", "schedule", "schedule_args", "layer_decay", "loss", "loss_args", "class_weights", "augment",
    "skip_broken", "rgb", "resize", "stream", "cache_dir", "precision", "init", "parent", "warm_epochs", "compile",
    "max_memory",
)  # fmt: skip
"""Settings of the built-in training of classifiers, which a training of one's own decides by itself."""


def metric_of(config: Mapping[str, Any]) -> Metric:
    """The metric of a stored configuration; the accuracy where none is named."""
    text = config.get("metric")
    return ACCURACY if text is None else read_metric(text)


def own_faults(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    """What does not go together.

    Args:
        settings: setting → its value.
        defaults: setting → its default.
    """
    if settings["train"] is None:
        for name in OWN_SETTINGS:
            if settings[name] is not None:
                yield f"{name}: belongs to a training of your own; name its function with train"
        metric = settings["metric"]
        if metric is not None and metric not in METRICS:
            yield (
                f"metric: the built-in training of classifiers is judged by one of {', '.join(METRICS)}, by its name; "
                f"{metric} belongs to a training of your own: name its function with train"
            )
        return
    if settings["metric"] is None:
        yield (
            "metric: a training of your own needs one, such as rn.Metric('miou', higher_is_better=True), on the "
            "command line --metric miou:higher"
        )
        return
    for name in BUILT_IN:
        if settings[name] not in (defaults.get(name), {}):
            yield f"{name}: belongs to the built-in training of classifiers; a training of your own decides it itself"
    metric = read_metric(settings["metric"])
    costs = [name for name in settings["objectives"] if name == "memory"]
    if costs:
        yield "objectives: memory is estimated from the built-in training's batch size; leave it out"
    if metric.worst is None and not _learns_pruned(settings["sampler"]):
        yield (
            f"sampler: {settings['sampler']} learns from finished trainings alone, so that a failed one must count as "
            f"the worst there is; give the metric {metric.name!r} its worst value, or take another sampler, such as tpe"
        )


def _learns_pruned(sampler: str) -> bool:
    from reborn_nas.samplers.registry import learns_from_pruned, make_sampler

    return learns_from_pruned(make_sampler(sampler, 0))
