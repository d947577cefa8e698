"""A fixed sample of the coverage sweep: each network passes every check and keeps its counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reborn_nas.backbone.find import discover
from tests import checks
from tests.backbone import networks
from tests.backbones import SAMPLE, sweep_names
from tests.conformance import TABLE, read_table, summary
from tests.substitution import substituted

LONG = (
    *(
        "mobileone_s0",
        "densenet121",
        "repvit_m1",
        "res2next50",
        "hrnet_w18_small",
        "ghostnet_050",
        "rexnet_100",
    ),
    *("nf_regnet_b0", "mobilevitv2_050", "googlenet", "vgg11_bn"),
)
"""Networks of the sample that take ten seconds or more each."""


@pytest.mark.parametrize(
    "source",
    [pytest.param(one, marks=pytest.mark.slow) if one.endswith(LONG) else one for one in SAMPLE],
)
def test_sample(source: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    report = checks.check(source)
    torch.set_num_threads(threads)
    assert not [line for line in report.why if line.startswith("FAILED")]
    row = read_table()[source]
    counts = {name: str(getattr(report, name)) for name in ("sites", "converted", "widenable", "refused")}
    assert counts == {name: row[name] for name in counts}


def test_coverage_is_what_is_promised() -> None:
    rows = list(read_table().values())
    assert not [row["model"] for row in rows if "FAILED" in row["why"]]
    assert all(row["why"] for row in rows if row["refused"] != "0" or row["sites"] == "0")
    assert set(sweep_names()) <= {row["model"] for row in rows}
    whole = [row for row in rows if row["sites"] == row["converted"]]
    assert len(whole) >= 0.98 * len(rows)
    for library, share in (("timm", 0.81), ("torchvision", 0.87)):
        part = [row for row in rows if row["model"].startswith(library)]
        assert sum(int(row["widenable"]) for row in part) >= share * sum(int(row["sites"]) for row in part)


def test_the_readme_says_what_the_table_says() -> None:
    readme = (TABLE.parents[2] / "README.md").read_text(encoding="utf-8")
    assert summary(read_table().values()) in readme


def test_the_summary_by_hand() -> None:
    rows = [
        {"model": "timm:a", "sites": "1000", "converted": "1000", "widenable": "800", "why": ""},
        {"model": "timm:b", "sites": "0", "converted": "0", "widenable": "0", "why": "no sites"},
        {"model": "torchvision:c", "sites": "60", "converted": "50", "widenable": "30", "why": "FAILED x"},
    ]
    assert summary(rows) == (
        "1,050 of 1,060 sites of 3 networks take the reborn block, all sites of 2 networks "
        "(66.7%; 1 of them have none), 1 networks fail; "
        "80.0% of timm's 1,000 sites and 50.0% of torchvision's 60 sites can double their channels"
    )


class Wrong(nn.Module):
    """Applies one factor too many; stands for a conversion gone wrong."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.model(x) * 1.0001
        return result


def test_the_checks_notice_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = networks.Functional(), torch.randn(2, 3, 16, 16)
    found = discover(model, (3, 16, 16))
    checks.randomise(model, inputs)
    own = checks.outputs(model, inputs)
    checks.identity(model, found, inputs, own)
    checks.in_flight(model, found, inputs, own)
    right = checks.apply
    monkeypatch.setattr(checks, "apply", lambda *args, **kwargs: Wrong(right(*args, **kwargs)))
    with pytest.raises(AssertionError, match="own activations"):
        checks.identity(model, found, inputs, own)
    with pytest.raises(AssertionError, match="in flight"):
        checks.in_flight(model, found, inputs, own)
    with pytest.raises(AssertionError, match="changes by"):
        checks.widened(model, found, inputs, own)


def test_substitution_in_flight_by_hand() -> None:
    """Against the same network written out with other activations."""
    model = networks.Shared()
    found = discover(model, (3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad(), substituted(model, found, {"relu@0": torch.tanh, "relu@2": torch.neg}):
        result = model(x)
    with torch.no_grad():
        out = model.conv1(x).tanh()
        expected = -(model.conv2(out) + x).relu().flatten(1)
    assert torch.equal(result, expected)
