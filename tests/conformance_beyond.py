"""The sweep of what is not an image classifier: `python -m tests.conformance_beyond [--missing | NAME …]`.

All of torchvision's segmentation, detection, video and optical flow networks, and those of segmentation_models_pytorch
and MONAI where they are installed, go one after the other through the checks below; the table goes to
`tests/golden/coverage-beyond.csv`. A name may be the beginning of several, such as `torchvision.video`.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import reborn_nas as rn
from reborn_nas.activations import Reborn
from reborn_nas.backbone.find import discover
from reborn_nas.backbone.sites.site import Discovery
from reborn_nas.backbone.trace.record import trace
from reborn_nas.errors import RebornError
from reborn_nas.files import write_atomic
from tests import checks
from tests.beyond import Network, left_out, network, networks
from tests.sweep import each, read_rows, written

TABLE = Path(__file__).parent / "golden" / "coverage-beyond.csv"
COLUMNS = ("network", "sites", "reborn", "doubled", "refused", "why", "seconds")
FORM = "reborn(kernel_size=3,deconv=depthwise)"


def check(one: Network) -> dict[str, object]:
    """One row of the table. A check that fails is named in `why`; nothing is raised."""
    begin = time.process_time()
    row: dict[str, object] = dict.fromkeys(("sites", "reborn", "doubled", "refused"), 0)
    why: list[str] = []
    try:
        torch.manual_seed(0)
        model, inputs = one.make(), one.inputs()
        found = discover(model, example_inputs=inputs)
        row["sites"] = len(found.sites)
        reasons = Counter(site.refusal(FORM) for site in found.sites)
        refused = sum(count for reason, count in reasons.items() if reason is not None)
        why += [f"{count} sites: {reason}" for reason, count in reasons.items() if reason is not None]
        row.update(refused=refused, reborn=len(found.sites) - refused)
        if one.on_meta:
            _on_meta(model, found, inputs)
        else:
            row["doubled"] = _on_cpu(model, found, inputs)
    except (AssertionError, RebornError, RuntimeError, TypeError, ValueError) as error:
        lines = str(error).strip().splitlines() or [""]
        why.append(f"FAILED {type(error).__name__}: {lines[0][:300]}")
    seconds = round(time.process_time() - begin, 1)
    return {"network": one.name, **row, "why": "; ".join(why), "seconds": seconds}


def _on_meta(model: nn.Module, found: Discovery, inputs: Any) -> None:
    """Every site converted to a Leaky ReLU, the network runs in both modes and returns the same shapes."""
    new = rn.convert(model, "leaky_relu", example_inputs=inputs)
    for before in (found.eval_trace, found.train_trace):
        assert before is not None, "it does not run in train mode"
        after = trace(new, inputs, training=before.training)
        shapes = [[run.values[value].shape for value in run.outputs] for run in (before, after)]
        assert shapes[0] == shapes[1], "converted, its outputs have other shapes"


def _on_cpu(model: nn.Module, found: Discovery, inputs: Any) -> int:
    """Train and eval mode with real numbers; how many sites can double their channels."""
    if any(site.admits(FORM) for site in found.sites):
        new = rn.convert(model, FORM, example_inputs=inputs, seed=1)
        blocks = sum(isinstance(module, Reborn) for module in new.modules())
        admitted = sum(site.admits(FORM) for site in found.sites)
        assert blocks == admitted, f"{admitted} sites admit the block and {blocks} have one"
        checks.training_step(model, new, inputs)
        results = checks.outputs(new, inputs)
        assert results, "converted, it returns nothing"
        assert all(bool(result.isfinite().all()) for result in results), (
            "converted, its outputs are not finite"
        )
        del new
    checks.randomise(model, inputs)
    own = checks.outputs(model, inputs)
    assert any(result.numel() and result.is_floating_point() for result in own), "it returns no numbers"
    checks.identity(model, found, inputs, own)
    checks.in_flight(model, found, inputs, own)
    return checks.widened(model, found, inputs, own)


def check_named(name: str) -> dict[str, object]:
    """`check` of the network of this name."""
    return check(network(name))


def read_table(path: Path = TABLE) -> dict[str, dict[str, str]]:
    """The rows of the table by network."""
    return read_rows(path, "network")


def summary(rows: Iterable[Mapping[str, str]]) -> str:
    """What the table says, in the sentence that stands in the README."""
    kept = list(rows)
    sites, reborn, doubled = (sum(int(row[key]) for row in kept) for key in ("sites", "reborn", "doubled"))
    failed = sum("FAILED" in row["why"] for row in kept)
    return (
        f"{reborn:,} of {sites:,} sites of {len(kept)} segmentation, detection, video and optical flow networks "
        f"take the reborn block, {doubled:,} can double their channels, {failed} networks fail"
    )


def main() -> None:
    """Check, print, and write each row as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="such as torchvision.detection; all by default")
    parser.add_argument("--missing", action="store_true", help="only what the table does not hold yet")
    parser.add_argument("--table", type=Path, default=TABLE, help="where the rows go")
    args = parser.parse_args()
    for library in left_out():
        print(f"{library} is not installed; its rows stay as they are")
    rows: dict[str, Mapping[str, object]] = dict(read_table(args.table))
    names = [each.name for each in networks()]
    if args.names:
        names = [name for name in names if name.startswith(tuple(args.names))]
    if args.missing:
        names = [name for name in names if name not in rows]
    highest = 0.0
    for row, peak in each(check_named, names, workers=1, tasks=8):
        highest = max(highest, peak)
        name = str(row["network"])
        rows[name] = row
        write_atomic(args.table, written(COLUMNS, rows.values()))
        counts = f"{row['reborn']}/{row['sites']} reborn, {row['doubled']} doubled"
        print(f"{name}: {counts}, {row['seconds']} s, {peak:.1f} GiB {row['why']}", flush=True)
    print(f"at most {highest:.1f} GiB")
    print(summary(read_table(args.table).values()))


if __name__ == "__main__":
    main()
