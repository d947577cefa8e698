"""Planted problems for samplers: on the sites of real networks, as an objective in anybody's study."""

from __future__ import annotations

import collections

import optuna
import pytest

from reborn_nas.analysis.simulated.simulate import SITE_TABLES, plant_problem
from reborn_nas.backbone import build, discover, resolve

SOURCES = {"vgg16": "torchvision:vgg16", "mobilenet_v2": "torchvision:mobilenet_v2"}


@pytest.mark.parametrize("table", SITE_TABLES)
def test_site_tables_are_those_of_the_networks(table: str) -> None:
    size = 224 if table in SOURCES else 32
    spec = resolve(SOURCES.get(table, table), input_size=(3, size, size), num_classes=10)
    sites = discover(build(spec, device="meta"), spec.input_size).sites
    stages = collections.Counter(site.stage for site in sites)
    assert tuple(stages[stage] for stage in sorted(stages)) == SITE_TABLES[table]


def test_an_ordinary_study_with_pruning_and_conditional_choices() -> None:
    problem = plant_problem("interactions", table="resnet18", conditional=True, epochs=6, seed=1)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    study.optimize(problem, n_trials=40)
    states = collections.Counter(trial.state.name for trial in study.trials)
    assert states["PRUNED"] > 3
    assert states["COMPLETE"] > 3
    assert len({len(trial.params) for trial in study.trials}) > 3  # kernels only where a site is reborn
    assert all(trial.intermediate_values for trial in study.trials)
    for trial in study.trials:
        assignment = {
            name: f"reborn(k={trial.params[f'{name}.kernel_size']})" if label == "reborn" else label
            for name, label in trial.params.items()
            if not name.endswith(".kernel_size")
        }
        assert problem.value(assignment) <= problem.optimum + 1e-9
