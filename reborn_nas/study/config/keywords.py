"""The settings as keyword arguments, for type checkers and editors; a test holds them against `StudyConfig`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from reborn_nas.metric import Metric

__all__ = ["Settings"]


class Settings(TypedDict, total=False):
    """What `reborn_nas.search` takes by name; described where `StudyConfig` defines them."""

    backbone: str
    backbone_arguments: Mapping[str, Any]
    stem: str | None
    pretrained: bool
    checkpoint: str | os.PathLike[str] | None
    dataset: Any
    data_dir: str | os.PathLike[str] | None
    image_size: int | None
    stored_size: int | None
    fraction: float
    skip_broken: bool
    resize: str
    rgb: bool
    stream: bool | None
    cache_dir: str | os.PathLike[str] | None
    space: str
    contrast: str
    sites: Sequence[str] | str
    recipe: str | Mapping[str, Any]
    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    optimizer: str | None
    optimizer_args: Mapping[str, Any]
    momentum: float | None
    weight_decay: float | None
    decay_norms_and_biases: bool | None
    clip_grad: float | None
    ema: float | None
    schedule: str | None
    schedule_args: Mapping[str, Any]
    layer_decay: float | None
    loss: str | None
    loss_args: Mapping[str, Any]
    class_weights: str | Sequence[float] | None
    augment: Mapping[str, Any]
    label_smoothing: float | None
    precision: str | None
    train: str | Callable[..., Any] | None
    evaluate: str | Callable[..., Any] | None
    example_inputs: Any | None
    metric: Metric | Mapping[str, Any] | str | None
    version: str | None
    sampler: str
    objectives: Sequence[str] | str
    max_params: str | float | None
    max_macs: str | float | None
    max_latency: str | float | None
    max_memory: str | float | None
    latency_batch: int | None
    pruner: str
    init: str | None
    parent: str | os.PathLike[str] | None
    warm_epochs: int | None
    trials: int | None
    baseline: int | None
    screen: int | None
    exploration: int | None
    candidate: int | None
    retest: int | None
    control: int | None
    checks: int | None
    seed: int
    name: str | None
    run: str | os.PathLike[str] | None
    storage: str | None
    timeout: float | str | None
    gpu_hours: float | None
    hang_after: float | str | None
    adopt: bool
    device: str
    devices: Sequence[str] | str
    workers: int | str
    threads: int | None
    compile: bool
    recompute: bool
    deterministic: bool
    artifacts: str | os.PathLike[str] | None
