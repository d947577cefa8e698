"""What a training costs before its first step and between steps: start-up, capture, compilation, fallbacks.

    python -m tests.benchmarks.step_overhead [--backbone resnet34] [--form "reborn k=3"] [--compile] [--json FILE]

On any machine: importing the package and `reborn-nas --help` against importing torch and timm alone (fresh processes
that take turns; goal: at most 1.15×), and what a training costs before its first step. On a GPU: the same with the
capture (goal: at most 1 s more; three warm-up steps and one recorded step), a step as a graph against an eager one, and
for networks of other kinds whether they are captured or why not. With `--compile`: compiling the blocks cold and with a
warm cache on disk.

Arithmetic: a capture is four eager steps of 900 launches at about 10 µs, 36 ms, and cuDNN's choice of kernels, 36
layers × 3 directions × about 5 ms. Compiling (measured elsewhere, two CPU cores): 4 to 6 s of tracing a network, 0.4
s a graph from a warm cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from tests.benchmarks.harness import Row, Timing, alternate, arguments, begin, goal, print_table, save
from tests.benchmarks.loops import OurLoop
from tests.benchmarks.networks import network, pictures

OTHERS = (
    "convnet13",
    "mobilenetv3_small_100",
    "densenet121",
    "regnetx_002",
    "efficientnet_b0",
    "convnext_atto",
)
STARTS = {
    "import torch, timm": "import torch, timm",
    "import reborn_nas": "import reborn_nas",
    "reborn-nas --help": "from reborn_nas.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
}


def start_times(repeats: int, clock: str) -> dict[str, Timing]:
    """Seconds of fresh processes that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in STARTS}
    for turn in range(repeats + 1):
        for name in STARTS if turn % 2 else reversed(STARTS):
            seconds = start_seconds(STARTS[name], clock)
            if turn:  # the first round fills the file cache
                taken[name].append(seconds)
    return {name: Timing.of(seconds) for name, seconds in taken.items()}


def start_seconds(code: str, clock: str) -> float:
    """Of a fresh process that runs `code`: wall seconds, or those of its CPU time."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    if clock == "cpu":
        return after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start


def device_rows(backbone: str, form: str, batch: int, device: torch.device, repeats: int) -> list[Row]:
    """What a training costs before its first step, with a capture and without, and ten of its steps in both forms."""
    images, model = pictures(16 * batch), network(backbone, form)
    kinds = {"graph": True, "eager": False} if device.type == "cuda" else {"eager": False}
    loops: dict[str, OurLoop] = {}

    def start(kind: str) -> None:
        loops.pop(kind, None)
        loops[kind] = OurLoop(model, images, batch, device, graph=kinds[kind])

    starts = alternate({kind: partial(start, kind) for kind in kinds}, repeats=repeats, device=device)
    steps = alternate({kind: partial(loops[kind], 10) for kind in kinds}, repeats=repeats, device=device)
    rows = []
    for what, found in (("before the first step", starts), ("10 steps", steps)):
        for kind, timing in found.items():
            spread = f"{timing.low:.3g}..{timing.high:.3g}"
            rows.append({"what": what, "s": timing.median, "low..high": spread, "how": loops[kind].form})
    return rows


def fallback_rows(batch: int, device: torch.device) -> list[Row]:
    """How networks of other kinds run: captured, or eagerly and why."""
    rows: list[Row] = []
    for backbone in OTHERS if device.type == "cuda" else ():
        loop = OurLoop(network(backbone, "ReLU"), pictures(4 * batch), batch, device)
        rows.append({"what": f"{backbone} runs", "how": loop.form})
    return rows


def compile_rows(backbone: str, form: str, batch: int) -> list[Row]:
    """Compiling the blocks and one step, cold and with what the first left on disk, in fresh processes."""
    code = (
        "import sys, time, torch\n"
        "from tests.benchmarks.loops import OurLoop\nfrom tests.benchmarks.networks import network, pictures\n"
        f"device = torch.device({'cuda' if torch.cuda.is_available() else 'cpu'!r})\n"
        f"loop = OurLoop(network({backbone!r}, {form!r}), pictures({4 * batch}), {batch}, device, graph=False)\n"
        "start = time.perf_counter()\nloop.run.compile(None, 'inductor')\n"
        "print(time.perf_counter() - start, loop.run.form, sep='|')\n"
    )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm cache"):
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(Path(cache))},
                capture_output=True,
                text=True,
            )
            said = done.stdout.strip() or "failed: " + (done.stderr.strip().splitlines() or ["?"])[-1][:200]
            seconds, _, how = said.rpartition("|")
            rows.append(
                {"what": f"compile, {state}", "s": float(seconds) if seconds else None, "how": how or said}
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--backbone", help="resnet34 on a GPU, convnet8 on a CPU")
    parser.add_argument("--form", default="reborn k=3")
    parser.add_argument("--batch", type=int, help="128 on a GPU, 16 on a CPU")
    parser.add_argument("--compile", action="store_true", help="also compile; minutes")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="of the start-up")
    options = parser.parse_args()
    device, _ = begin(options)
    gpu = device.type == "cuda"
    backbone, batch = (
        options.backbone or ("resnet34" if gpu else "convnet8"),
        options.batch or (128 if gpu else 16),
    )
    starts = start_times(max(options.repeats, 5), options.clock)
    base = starts["import torch, timm"].median
    rows: list[Row] = [
        {
            "what": name,
            "s": t.median,
            "low..high": f"{t.low:.3g}..{t.high:.3g}",
            "× torch, timm": t.median / base,
        }
        for name, t in starts.items()
    ]
    inside = device_rows(backbone, options.form, batch, device, options.repeats)
    rows += inside + fallback_rows(batch, device)
    if options.compile:
        rows += compile_rows(backbone, options.form, batch)
    print_table(rows, f"{backbone} {options.form}, batch {batch}, on {device}")
    goals = [
        goal(f"{name}, × torch and timm", starts[name].median / base, 1.15, at_least=False)
        for name in list(STARTS)[1:]
    ]
    capture = inside[0]["s"] - inside[1]["s"] if gpu else None
    goals.append(goal("s of a capture", capture, 1.0, at_least=False))
    save(options.json, "step_overhead", rows, goals, clock=options.clock)


if __name__ == "__main__":
    main()
