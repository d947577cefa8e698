"""The acceptance table: simulated studies from planted truth to printed text, every sentence held against the truth.

    python -m tests.benchmarks.sentences --studies 1000 --minutes 30 --out tests/benchmarks/results/sentences.csv
    python -m tests.benchmarks.sentences --only null/5/32 five/33/96

One row a cell of scenario, sites, runs of the screen and the phases behind it. Cells that are in the file already with
as many studies and of this `EDITION` are kept, so that the table can be made in portions; what time or `--only` leaves
out stays as it was. A row names the machine that made it, though figures depend on a machine by their last bits alone.
"""

from __future__ import annotations

import argparse
import csv
import gc
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from reborn_nas.analysis import smallest_screen
from reborn_nas.files import write_atomic
from tests.benchmarks.harness import processor
from tests.sentences.studies import Mix
from tests.sentences.tally import Row, measures, read_many, rows_of

EDITION = 4
"""Of what is printed and of the studies behind it; one more where a change moves the table's figures. 1: a sentence
gives the interval of its largest estimate alone. 2: of every site that it names, `blocks.ALLOWED` .97, not .95. 3:
`blocks.ALLOWED` .955. 4: collapses count in both arms or in none, and those far below on the scale
of log(1 − accuracy); a site may keep trainings from failing; no sum is held against what collapsed runs are in."""

SITES = (2, 3, 5, 10, 19, 33, 60)
RUNS = (8, 16, 32, 96, 144)
NAMED = (
    "null", "one", "five", "many", "small", "depth", "pairs", "triples", "ceiling", "tails", "drift", "slow", "unequal",
    "split", "collapses", "diverges",
)  # fmt: skip
"""The scenarios of the table's grid; others of `SCENARIOS` have cells of their own."""

PHASES = {
    "screen": {},
    "retest": {"retest": 32},
    "candidate": {"candidate": 16},
    "control": {"control": 48},
    "checks": {"checks": 64},
    "all": {"baseline": 16, "candidate": 16, "retest": 32, "control": 48, "checks": 64},
}
COLUMNS = (
    "scenario", "sites", "runs", "phases", "studies", "seconds", "false_site", "false_candidate", "false_trend",
    "false_kernel", "false_sum", "false_failure", "false_other", "false_any", "false_bound", "coverage",
    "coverage_shrunk", "fcr", "named", "covered_named", "power", "found", "exaggeration", "exaggeration_shrunk", "rmse",
    "rmse_shrunk", "top5_n", "top5_said", "top5_true", "failing_named", "failing_false", "edition", "machine",
)  # fmt: skip


FIRST = ("null", "split", "many", "one", "five", "collapses", "diverges")
"""The scenarios that are run first, where time may end before the table."""
MAIN = ((5, 32), (33, 96), (2, 8), (10, 32), (3, 16), (19, 96))
"""Sites and runs that are run first of each scenario."""


def cells() -> list[tuple[str, Mix, str]]:
    """Every cell of the table, the most wanted first: scenario, mix, and what its phases are called."""

    def rank(cell: tuple[str, Mix, str]) -> tuple[int, int]:
        scenario, mix, _ = cell
        size = (mix.sites, mix.runs)
        return (
            FIRST.index(scenario) if scenario in FIRST else len(FIRST),
            MAIN.index(size) if size in MAIN else len(MAIN),
        )

    return sorted(_all_cells(), key=rank)


def _all_cells() -> Iterator[tuple[str, Mix, str]]:
    for sites in SITES:
        for runs in RUNS:
            if runs < smallest_screen(sites) or (runs == 8 and sites > 3) or not _whole(sites, runs):
                continue
            for scenario in NAMED:
                yield scenario, Mix(sites, runs, **PHASES["all"]), "all"
    for sites, runs in ((2, 8), (5, 32), (10, 32), (19, 96), (33, 96)):
        for phases in PHASES:
            if phases != "all":
                yield "null", Mix(sites, runs, **PHASES[phases]), phases
    for sites, runs in ((5, 32), (10, 48), (33, 96), (33, 72)):
        for scenario in ("harm", "weak", "scatter", "triples", "diverges_often", "capacity", "phase"):
            yield scenario, Mix(sites, runs, **PHASES["all"]), "all"
        for scenario in ("null", "kernel"):
            yield scenario, Mix(sites, runs, kernels=True, **PHASES["all"]), "all, 3 kernels"


def _whole(sites: int, runs: int) -> bool:
    from reborn_nas.analysis import screen_sizes

    return runs in screen_sizes(sites, runs)


def tally(scenario: str, mix: Mix, studies: int, workers: int) -> dict[str, float]:
    """The measures of one cell, its studies shared among processes."""
    share = math.ceil(studies / workers)
    parts = [(scenario, mix, min(share, studies - k * share), k * share) for k in range(workers)]
    if workers == 1:
        return measures(rows_of(read_many(*parts[0])))
    with ProcessPoolExecutor(workers) as pool:
        return measures([row for rows in pool.map(_part, parts) for row in rows])


def _unwatched() -> None:
    """What stands in memory stands there to the end: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


def _part(arguments: tuple[str, Mix, int, int]) -> list[Row]:
    warnings.simplefilter("ignore")
    return rows_of(read_many(*arguments))


def _key(row: dict[str, str]) -> str:
    return "/".join(row[name] for name in ("scenario", "sites", "runs", "phases"))


def _is_made(row: dict[str, str], studies: int) -> bool:
    return int(row["studies"]) >= studies and row.get("edition") == str(EDITION)


def _read(path: Path | None) -> dict[str, dict[str, str]]:
    if path is None or not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {_key(row): row for row in csv.DictReader(file)}


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    lines = [",".join(COLUMNS)]
    lines += [
        ",".join(
            f'"{row.get(name, "")}"' if "," in row.get(name, "") else row.get(name, "") for name in COLUMNS
        )
        for row in rows
    ]
    write_atomic(path, "\n".join(lines) + "\n")
    write_atomic(path.with_suffix(".md"), markdown(rows))


SHOWN = {
    "false_site": "false, site", "false_candidate": "candidate", "false_any": "any", "coverage": "coverage",
    "fcr": "FCR", "power": "power", "exaggeration": "exaggeration", "exaggeration_shrunk": "shrunk",
    "failing_named": "failing named", "top5_said": "P(top 5) said", "top5_true": "true",
}  # fmt: skip
"""Column → heading of the table for people."""
SHARES = ("false_site", "false_candidate", "false_any", "fcr")


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table for people: shares with their standard errors, cells in the table's order."""
    heads = ["scenario", "sites/runs", "phases", "studies", *SHOWN.values(), "edition"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["scenario"], f"{row['sites']}/{row['runs']}", row["phases"], row["studies"]]
        lines.append(
            "| " + " | ".join([*cells, *(_cell(row, name) for name in SHOWN), row["edition"]]) + " |"
        )
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, str], name: str) -> str:
    if not row.get(name):
        return ""
    value = float(row[name])
    if name not in SHARES:
        return f"{value:.3f}".removeprefix("0") if abs(value) < 1 else f"{value:.2f}"
    error = math.sqrt(value * (1 - value) / int(row["studies"]))
    return f"{value:.3f} ({error:.3f})".replace("0.", ".")


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def main() -> int:
    """Fill the table as far as the time allows; 0 always, for a figure is no failure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1000, help="studies a cell (1000)")
    parser.add_argument("--minutes", type=float, default=30.0, help="begin no cell after (30)")
    parser.add_argument("--machine", default=processor(), help="what the rows say made them (this processor)")
    parser.add_argument("--workers", type=int, default=1, help="processes (1)")
    parser.add_argument("--out", type=Path, help="CSV to fill; a table for people beside it")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        help="words of scenario/sites/runs/phases from the left: null/5",
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    _unwatched()
    begun = time.monotonic()
    done = _read(options.out)
    for scenario, mix, phases in cells():
        key = f"{scenario}/{mix.sites}/{mix.runs}/{phases}"
        if options.only and not any(f"{key}/".startswith(f"{one}/") for one in options.only):
            continue
        if key in done and _is_made(done[key], options.studies):
            continue
        if time.monotonic() - begun > 60 * options.minutes:
            print("time is over", file=sys.stderr)
            break
        start = time.monotonic()
        found = tally(scenario, mix, options.studies, max(1, min(options.workers, os.cpu_count() or 1)))
        found["seconds"] = time.monotonic() - start
        row = {name: _text(found[name]) for name in COLUMNS if name in found}
        row |= {"scenario": scenario, "sites": str(mix.sites), "runs": str(mix.runs), "phases": phases}
        row |= {"edition": str(EDITION), "machine": options.machine}
        done[key] = row
        print(key, {name: row[name] for name in COLUMNS[4:] if row.get(name)}, flush=True)
        if options.out:
            _write(options.out, list(done.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
