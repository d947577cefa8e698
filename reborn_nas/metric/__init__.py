"""What trainings are judged by: `Metric`, and in `classification` those of classifiers."""

from reborn_nas.metric.metric import (
    ACCURACY,
    HUNDRED,
    Metric,
    as_number,
    speaking,
    spoken,
    unknown_chance,
)

__all__ = ["ACCURACY", "HUNDRED", "Metric", "as_number", "speaking", "spoken", "unknown_chance"]
