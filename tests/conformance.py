"""The coverage sweep: `python -m tests.conformance [--workers N] [SOURCE …]`.

Every CNN of torchvision and each CNN family of timm goes through `tests.checks`; the table goes to
`tests/golden/coverage.csv`. With sources named, only these are checked and no table is written.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import resource
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.backbones import sweep_names
from tests.checks import Report, check

TABLE = Path(__file__).parent / "golden" / "coverage.csv"
COLUMNS = ("model", "sites", "converted", "widenable", "refused", "why")


def run(source: str) -> tuple[Report, int]:
    """One network, in a worker; with the worker's peak memory in KiB."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return check(source), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table(reports: Sequence[Report]) -> str:
    """The coverage table as CSV text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for report in reports:
        writer.writerow([*(getattr(report, column) for column in COLUMNS[:-1]), "; ".join(report.why)])
    return text.getvalue()


def summary(reports: Sequence[Report]) -> list[str]:
    """What the sweep found, in lines."""
    lines = []
    for library in ("timm", "torchvision"):
        part = [report for report in reports if report.model.startswith(library)]
        sites, converted = sum(r.sites for r in part), sum(r.converted for r in part)
        wide, whole = sum(r.widenable for r in part), sum(r.sites == r.converted for r in part)
        if part:
            lines.append(
                f"{library}: {len(part)} models, {sites} sites, "
                f"{converted} converted ({converted / max(sites, 1):.1%}), "
                f"{wide} can double their channels ({wide / max(sites, 1):.1%}); all sites of {whole} models"
            )
    failed = [report.model for report in reports if any(line.startswith("FAILED") for line in report.why)]
    found = [report.discovery_seconds for report in reports]
    done = [report.conversion_seconds for report in reports if report.conversion_seconds]
    lines.append(f"failed: {', '.join(failed) or 'none'}")
    lines.append(f"discovery: median {statistics.median(found):.2f} s, worst {max(found):.2f} s of CPU time")
    if done:
        lines.append(
            f"conversion: median {statistics.median(done):.2f} s, worst {max(done):.2f} s of CPU time"
        )
    return lines


def main() -> None:
    """Check, print, and write the table where the whole list was checked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", help="such as timm:resnet18; all of the list by default")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    names = args.sources or sweep_names()
    begin = time.monotonic()
    reports: list[Report] = []
    memory: dict[int, int] = {}
    with multiprocessing.get_context("spawn").Pool(args.workers, maxtasksperchild=16) as pool:
        for report, peak in pool.imap(run, names):
            reports.append(report)
            memory[len(reports)] = peak
            counts = f"{report.converted}/{report.sites} converted, {report.widenable} widenable"
            print(f"{len(reports)}/{len(names)} {report.model}: {counts} {'; '.join(report.why)}", flush=True)
    print("\n".join(summary(reports)))
    peak = max(memory.values()) * args.workers / 2**20
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes, at most {peak:.1f} GiB in {args.workers} workers")
    if not args.sources:
        TABLE.write_text(table(reports), encoding="utf-8")
        print(TABLE)


if __name__ == "__main__":
    main()
