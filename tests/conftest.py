"""Shared fixtures. Real data that a checkout may have beside it is used where it is, and skipped where not."""

from __future__ import annotations

import gc
import os
from pathlib import Path

# read when NumPy is loaded: on small matrices its threads mostly wait for each other
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

from reborn_nas.machine import available_cores

# looking for garbage after each 700 objects takes an eighth of the suite's time
gc.set_threshold(20_000, 5, 5)
torch.set_num_threads(1)

# timings say nothing on a busy machine: no deadline, and slow generation is no failure
settings.register_profile("reborn", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reborn")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """All cores for whole folders; this process alone for files that are named, which are done before others start."""
    if any(Path(str(one).partition("::")[0]).suffix == ".py" for one in config.args):
        return 0
    return available_cores()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs an accelerator is skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # not keywords, which hold the names of folders too
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(scope="session", autouse=True)
def _a_state_folder_of_the_tests_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Searches mark what they use: not in the folder of whoever runs the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real MNIST and a JPEG copy of CIFAR-10, where a checkout has one beside it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
