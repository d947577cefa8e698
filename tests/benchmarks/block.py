"""The reborn block, forward and backward: ours against the literal Eq. 2, at the four map shapes of a ResNet-34.

    python -m tests.benchmarks.block [--device cuda] [--batch 128] [--kernel 3] [--seconds 120] [--json FILE]

Arithmetic for one H200 (790 TFLOP/s bf16, 4.3 TB/s), batch 128, k = 3, maps of N bytes in bf16. FLOPs are the same in
both forms: 3 · 2 · (9 + 2) · C² a pixel. At C = 64, 32×32: 35 GFLOP, 0.045 ms at the peak, 0.1 ms at 45 % of it; a
pass over a map of 16.8 MB is 3.9 µs. Passes over maps, forward / backward:

| | literal | ours |
|---|---|---|
| σ(x), −σ(−x) | 2 + 2 + 2 + 2 / 3 + 2 + 3 + 2 + 3 | 3 / 4 |
| Φ | 2 / 4 | 2 / 4 |
| κ | 3 / 5 | 3 / 5 |
| Ψ (cat) and Γ | 4 + 3 / 4 + 6 | 2 + 2 + 3 / 2·2 + 2·2 |
| sum | 20 / 32 | 15 / 21 |

52 against 36 passes: at C = 64, 0.20 against 0.14 ms of traffic beside 0.1 ms of arithmetic, and the transposed
convolution of the literal form runs on cuDNN's data-gradient kernels. Goals: at least 1.8× at C = 64, 1.2× at C =
512, where arithmetic (equal in both) outweighs traffic. On a CPU the form is another one (see `deconvolve`): never
slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from reborn_nas.activations import Reborn
from tests.benchmarks.harness import Row, alternate, arguments, begin, goal, print_table, save
from tests.benchmarks.networks import LiteralReborn

SHAPES = ((64, 32), (128, 16), (256, 8), (512, 4))
GOALS = {64: 1.8, 512: 1.2}


def step(block: nn.Module, x: torch.Tensor, weights: torch.Tensor, precision: str) -> Callable[[], None]:
    """Forward and backward, the gradient of x included."""

    def run() -> None:
        block.zero_grad(set_to_none=True)
        own = x.detach().requires_grad_()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            y = block(own)
        y.backward(weights)

    return run


def captured(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """On a GPU the same as a graph, so that no launch is waited for; both rivals get one."""
    if device.type != "cuda":
        return run
    from reborn_nas.training.step.graph import CudaRecorder

    recorder = CudaRecorder(device)
    recorder.warm_up([run] * 3)
    return recorder.record(run)


def measure(
    channels: int,
    size: int,
    batch: int,
    kernel: int,
    precision: str,
    device: torch.device,
    repeats: int,
    clock: str,
) -> Row:
    """One shape: milliseconds of both forms and how much faster ours is."""
    torch.manual_seed(0)
    last = device.type == "cuda"
    form = torch.channels_last if last else torch.contiguous_format
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    block = Reborn(channels, kernel_size=kernel).to(device).to(memory_format=form).train()
    x, weights = (
        torch.randn(batch, channels, size, size, device=device).to(dtype).contiguous(memory_format=form)
        for _ in range(2)
    )
    rivals = {
        "literal": captured(step(LiteralReborn(block), x, weights, precision), device),
        "ours": captured(step(block, x, weights, precision), device),
    }
    many = 20 if last else 1
    found = alternate(
        {name: (lambda run=run: [run() for _ in range(many)]) for name, run in rivals.items()},
        repeats=repeats,
        warmup=2,
        device=device,
        clock=time.process_time if clock == "cpu" else time.perf_counter,
    )
    literal, ours = found["literal"], found["ours"]
    return {
        "C": channels,
        "map": f"{size}×{size}",
        "k": kernel,
        "batch": batch,
        "precision": precision,
        "literal ms": 1e3 * literal.median / many,
        "literal low..high": f"{1e3 * literal.low / many:.3g}..{1e3 * literal.high / many:.3g}",
        "ours ms": 1e3 * ours.median / many,
        "ours low..high": f"{1e3 * ours.low / many:.3g}..{1e3 * ours.high / many:.3g}",
        "faster": literal.median / ours.median,
    }


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, help="128 on a GPU, 16 on a CPU")
    parser.add_argument("--kernel", type=int, nargs="+", default=[3])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: of one busy machine's thread"
    )
    options = parser.parse_args()
    device, until = begin(options)
    batch = options.batch or (128 if device.type == "cuda" else 16)
    rows: list[Row] = []
    for precision in options.precision:
        for kernel in options.kernel:
            for channels, size in SHAPES:
                if time.monotonic() > until:
                    break
                rows.append(
                    measure(channels, size, batch, kernel, precision, device, options.repeats, options.clock)
                )
    print_table(rows, f"reborn block, forward + backward on {device}, {options.clock} time")
    goals = []
    for row in rows:
        if device.type == "cuda" and row["precision"] == "bf16" and row["C"] in GOALS and row["k"] == 3:
            goals.append(goal(f"C = {row['C']}, bf16: times the literal", row["faster"], GOALS[row["C"]]))
        elif device.type == "cpu":
            goals.append(goal(f"C = {row['C']}, {row['precision']}: times the literal", row["faster"], 1.0))
    save(options.json, "block", rows, goals, clock=options.clock)


if __name__ == "__main__":
    main()
