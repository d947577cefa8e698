"""What the additive sampler takes for a proposal inside the product, in a study that holds many trials.

The study's own engine claims a waiting training, has it proposed, and tells a result, on a journal: a fresh sampler for
each, as always. Timed is `Proposals.propose`, CPU time of one thread; first and later ones apart, since a worker
reads a finished trial once.

    python -m tests.benchmarks.proposals --json FILE [--trials 1000 --sites 33 --rounds 25]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from reborn_nas.architecture import Architecture
from reborn_nas.files import write_atomic
from reborn_nas.study.store.queue import Claim
from reborn_nas.study.store.storage import connect, open_run
from reborn_nas.study.worker.loop import Worker
from reborn_nas.study.worker.progress import SilentProgress
from reborn_nas.study.worker.proposals import Proposals
from reborn_nas.study.worker.stop import Stopper
from tests.benchmarks.harness import hardware, print_table
from tests.benchmarks.scale import fill, instant, plan, put
from tests.study.conftest import make_bench

SPACE = "choices: [original, leaky_relu, prelu, elu, selu, celu, gelu, silu, reborn]\n"  # nine


def measure(trials: int, sites: int, rounds: int) -> list[float]:
    """CPU seconds of each of `rounds` proposals."""
    taken: list[float] = []
    propose = Proposals.propose

    def timed(self: Proposals, claim: Claim) -> Architecture:
        began = time.process_time()
        architecture = propose(self, claim)
        taken.append(time.process_time() - began)
        return architecture

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "nine.yaml").write_text(SPACE)
        context = make_bench(folder, sites=sites, space=str(folder / "nine.yaml"), sampler="additive")
        url = f"journal://{folder / 'study.journal'}"
        put(connect(url), fill(context, trials))
        store = open_run(connect(url), "scale", create=True)
        engine = Worker(context, store, plan(trials + rounds), instant, SilentProgress(), Stopper())
        engine.schedule.lead()
        Proposals.propose = timed  # type: ignore[method-assign]
        try:
            for _ in range(rounds):
                assert engine.step(lead=True)
        finally:
            Proposals.propose = propose  # type: ignore[method-assign]
    return taken


def main() -> None:
    """Measure and print, with `--json` write it too."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sites", type=int, default=33)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: CPU time of several threads is no time of a proposal")
    taken = [1000 * seconds for seconds in measure(options.trials, options.sites, options.rounds)]
    row: dict[str, Any] = {
        "trials": options.trials,
        "sites": options.sites,
        "choices": 9,
        "first, ms": round(taken[0], 1),
        "later, median ms": round(statistics.median(taken[1:]), 1),
        "later, least ms": round(min(taken[1:]), 1),
        "later, most ms": round(max(taken[1:]), 1),
        "proposals": len(taken),
    }
    print_table([row], "proposals")
    if options.json:
        record = {"benchmark": "proposals", "hardware": hardware(), **row}
        write_atomic(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
