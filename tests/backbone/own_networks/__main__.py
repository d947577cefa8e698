"""The table of hand-written networks: what becomes of each."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.backbone.own_networks.table import NETWORKS, RECORD, judged, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names that hold this text")
    parser.add_argument("--write", action="store_true", help=f"record the table in {RECORD.name}")
    args = parser.parse_args()
    start, verdicts = time.process_time(), {}
    for name, verdict in judged(args.only):
        verdicts[name] = verdict
        print(
            f"{name:32} {verdict.outcome:8} {verdict.converted} of {NETWORKS[name].sites}, {verdict.listed} listed | "
            + " || ".join(verdict.reasons)[:400],
            flush=True,
        )
    print(Counter(v.outcome for v in verdicts.values()), f"{time.process_time() - start:.0f} s CPU")
    if args.write:
        write(verdicts)
    sys.exit(any(v.outcome == "wrong" for v in verdicts.values()))


if __name__ == "__main__":
    main()
