"""The coverage sweep: `python -m tests.conformance [--workers N] [--missing | SOURCE …]`.

Every CNN of torchvision and each CNN family of timm goes through `tests.checks`; the table goes to
`tests/golden/coverage.csv`. With sources named, only their rows are written anew; with `--missing`, those of
networks that the table does not hold yet, so that a sweep that was broken off goes on.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reborn_nas.files import write_atomic
from tests.backbones import sweep_names
from tests.checks import Report, check
from tests.sweep import each, read_rows, written

TABLE = Path(__file__).parent / "golden" / "coverage.csv"
COLUMNS = ("model", "sites", "converted", "widenable", "refused", "why")


def read_table(path: Path = TABLE) -> dict[str, dict[str, str]]:
    """The rows of the coverage table by model."""
    return read_rows(path, "model")


def table(rows: Mapping[str, Mapping[str, object]]) -> str:
    """The coverage table as CSV text, in the order of the list."""
    return written(COLUMNS, (rows[name] for name in sweep_names() if name in rows))


def row_of(report: Report) -> dict[str, object]:
    """One network's row."""
    row: dict[str, object] = {column: getattr(report, column) for column in COLUMNS}
    return {**row, "why": "; ".join(report.why)}


def summary(rows: Iterable[Mapping[str, str]]) -> str:
    """What the table says, in the sentence that stands in the README."""
    kept = list(rows)
    sites, converted = (sum(int(row[key]) for row in kept) for key in ("sites", "converted"))
    whole = [row for row in kept if row["sites"] == row["converted"]]
    bare = sum(row["sites"] == "0" for row in whole)
    failed = sum("FAILED" in row["why"] for row in kept)
    shares = []
    for library in ("timm", "torchvision"):
        part = [row for row in kept if row["model"].startswith(library)]
        wide, all_sites = (sum(int(row[key]) for row in part) for key in ("widenable", "sites"))
        shares.append(f"{wide / max(all_sites, 1):.1%} of {library}'s {all_sites:,} sites")
    return (
        f"{converted:,} of {sites:,} sites of {len(kept)} networks take the reborn block, all sites of {len(whole)} "
        f"networks ({len(whole) / max(len(kept), 1):.1%}; {bare} of them have none), {failed} networks fail; "
        f"{' and '.join(shares)} can double their channels"
    )


def timing(reports: Sequence[Report]) -> list[str]:
    """How long discovery, proof and conversion took, in lines."""
    found = [report.discovery_seconds for report in reports]
    lines = [f"discovery: median {statistics.median(found):.2f} s, worst {max(found):.2f} s of CPU time"]
    proved = [report.proof_seconds for report in reports]
    lines.append(f"proof: median {statistics.median(proved):.2f} s, worst {max(proved):.2f} s of CPU time")
    done = [report.conversion_seconds for report in reports if report.conversion_seconds]
    if done:
        lines.append(
            f"conversion: median {statistics.median(done):.2f} s, worst {max(done):.2f} s of CPU time"
        )
    return lines


def main() -> None:
    """Check, print, and write each row as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", help="such as timm:resnet18; all of the list by default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--missing", action="store_true", help="only what the table does not hold yet")
    parser.add_argument("--table", type=Path, default=TABLE, help="where the rows go")
    args = parser.parse_args()
    rows: dict[str, Mapping[str, object]] = (
        dict(read_table(args.table)) if args.sources or args.missing else {}
    )
    names = args.sources or [name for name in sweep_names() if name not in rows]
    if not names:
        print(f"{args.table} holds every network of the list")
        return
    begin = time.monotonic()
    reports: list[Report] = []
    highest = 0.0
    for report, peak in each(check, names, workers=args.workers, tasks=16):
        reports.append(report)
        rows[report.model] = row_of(report)
        write_atomic(args.table, table(rows))
        highest = max(highest, peak)
        counts = f"{report.converted}/{report.sites} converted, {report.widenable} widenable"
        took = f"proof {report.proof_seconds:.1f} s"
        print(
            f"{len(reports)}/{len(names)} {report.model}: {counts}, {took} {'; '.join(report.why)}",
            flush=True,
        )
    print("\n".join(timing(reports)))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{(time.monotonic() - begin) / 60:.1f} minutes, {(spent.ru_utime + spent.ru_stime) / 60:.1f} of CPU time; "
        f"at most {highest * args.workers:.1f} GiB in {args.workers} workers"
    )
    print(summary(read_table(args.table).values()))
    print(args.table)


if __name__ == "__main__":
    main()
