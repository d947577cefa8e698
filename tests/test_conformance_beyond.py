"""A sample of the second sweep, one network of each kind, and what its table promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests import beyond, checks
from tests.conformance_beyond import COLUMNS, TABLE, check, read_table, summary

SAMPLE = [
    "torchvision.segmentation:lraspp_mobilenet_v3_large",
    "torchvision.detection:fasterrcnn_mobilenet_v3_large_fpn",
    "torchvision.video:r3d_18",
]


@pytest.mark.parametrize("name", SAMPLE)
def test_sample(name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    row = check(beyond.network(name))
    torch.set_num_threads(threads)
    counts = {key: str(row[key]) for key in ("sites", "reborn", "doubled", "refused", "why")}
    assert counts == {key: read_table()[name][key] for key in counts}


def test_the_table_holds_networks_of_each_kind_and_no_failure() -> None:
    rows = read_table()
    for family, count in {"segmentation": 6, "detection": 12, "video": 9, "optical_flow": 2}.items():
        assert sum(name.startswith(f"torchvision.{family}:") for name in rows) >= count
    for library, count in {"segmentation_models_pytorch": 8, "monai": 9}.items():
        assert sum(name.startswith(library) for name in rows) >= count
    assert not [name for name, row in rows.items() if "FAILED" in row["why"]]
    for row in rows.values():
        assert set(row) == set(COLUMNS)
        assert int(row["sites"]) == int(row["reborn"]) + int(row["refused"]) > 0
        assert bool(row["why"]) == (row["refused"] != "0")


def test_the_readme_says_what_the_table_says() -> None:
    readme = (TABLE.parents[2] / "README.md").read_text(encoding="utf-8")
    assert summary(read_table().values()) in readme


def test_the_summary_by_hand() -> None:
    rows = [
        {"sites": "1000", "reborn": "990", "doubled": "800", "why": "10 sites: tokens"},
        {"sites": "60", "reborn": "50", "doubled": "30", "why": "FAILED x"},
    ]
    assert summary(rows) == (
        "1,040 of 1,060 sites of 2 segmentation, detection, video and optical flow networks take the reborn block, "
        "830 can double their channels, 1 networks fail"
    )


class Wrong(nn.Module):
    """Stands for a conversion that changes what is returned a little."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {key: value * 1.0001 for key, value in self.model(x).items()}


@pytest.mark.slow
def test_a_wrong_conversion_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = checks.apply
    monkeypatch.setattr(checks, "apply", lambda *args, **kwargs: Wrong(right(*args, **kwargs)))
    assert "FAILED AssertionError: converted to its own" in str(check(beyond.network(SAMPLE[0]))["why"])
