"""Images beyond memory: 30,000 of 224 px with 1 GiB allowed, decoded once, streamed, against the same in memory.

Run `python -m tests.benchmarks.streaming --place DIR --out FILE.json` (7 GB of disk, about 30 minutes of two cores; as
root a control group bounds the memory, else what is measured is not bounded, which the result says). Each part is a
process of its own; `--images 2000 --side 64` is a quick share.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

GIB = 2**30
GROUP = Path("/sys/fs/cgroup/memory/reborn-nas-streaming")
CLASSES = 30
BATCH = 8


def make_photos(place: Path, count: int, height: int, width: int) -> Path:
    """A folder of `count` JPEGs in 30 classes: smooth colours and noise, about as large as photos of that size."""
    from PIL import Image

    root = place / f"photos-{count}-{height}x{width}"
    if (root / "complete").exists():
        return root
    rng = np.random.default_rng(0)
    noise = rng.integers(-14, 15, (height + 64, width + 64, 3))
    for c in range(CLASSES):
        (root / "train" / f"{c:02d}").mkdir(parents=True, exist_ok=True)
    for k in range(count):
        base = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize((width, height), 3)
        top, left = rng.integers(0, 64, 2)
        pixels = np.asarray(base).astype(np.int16) + noise[top : top + height, left : left + width]
        pixels[:, :, 1] += k % CLASSES
        name = root / "train" / f"{k % CLASSES:02d}" / f"{k:07d}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(name, quality=90)
    (root / "complete").touch()
    return root


@contextlib.contextmanager
def allowed(gib: float | None) -> Iterator[str]:
    """Child processes started inside may take so much memory; how it is bounded, in words."""
    if gib is None:
        yield "unbounded"
        return
    try:
        GROUP.mkdir(exist_ok=True)
        (GROUP / "memory.limit_in_bytes").write_text(str(int(gib * GIB)))
    except OSError as error:
        yield f"not bounded ({error.strerror})"
        return
    try:
        yield f"control group of {gib:g} GiB, files in memory included"
    finally:
        with contextlib.suppress(OSError):
            (GROUP / "memory.force_empty").write_text("1")
            GROUP.rmdir()


def in_child(part: str, settings: dict[str, Any], bounded: bool) -> dict[str, Any]:
    """What a part returns, run in a process of its own, inside of the control group where `bounded`."""
    here = str(GROUP / "cgroup.procs") if bounded else ""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.streaming",
        "--part",
        part,
        "--settings",
        json.dumps(settings),
    ]

    def enter() -> None:
        if here:
            Path(here).write_text(str(os.getpid()))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=enter)
    if done.returncode:
        raise SystemExit(f"{part} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(part, json.dumps(found), file=sys.stderr, flush=True)
    return found


# -- parts, each in a process of its own -------------------------------------------------------------------------


def decode_rate(root: str, count: int, side: int) -> dict[str, Any]:
    """Images a second of all cores in a plain pool of threads: Pillow, and torchvision, to the wanted size."""
    from concurrent.futures import ThreadPoolExecutor

    import torch
    import torch.nn.functional as F
    import torchvision.io as tio
    from PIL import Image, ImageOps

    torch.set_num_threads(1)
    files = sorted(Path(root).rglob("*.jpg"))[:count]

    def pillow(file: Path) -> None:
        with Image.open(file) as image:
            plain = image.convert("RGB")
            np.asarray(
                plain if plain.size == (side, side) else ImageOps.fit(plain, (side, side), Image.BILINEAR)
            )

    def torchvision(file: Path) -> None:
        image = tio.decode_jpeg(tio.read_file(str(file)), mode=tio.ImageReadMode.RGB)
        H, W = image.shape[1:]
        if (side, side) != (H, W):
            least = min(H, W)
            cut = image[:, (H - least) // 2 :, (W - least) // 2 :][:, :least, :least]
            F.interpolate(cut[None], size=(side, side), mode="bilinear", antialias=True)

    rates: dict[str, list[float]] = defaultdict(list)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in range(2):
            for name, work in (("pillow", pillow), ("torchvision", torchvision)):
                began, cpu = time.perf_counter(), time.process_time()
                list(pool.map(work, files, chunksize=16))
                rates[name].append(len(files) / (time.perf_counter() - began))
                rates[f"{name}_per_cpu_second"].append(len(files) / (time.process_time() - cpu))
    return {name: max(found) for name, found in rates.items()}


def decode_cold(root: str, cache: str, side: int) -> dict[str, Any]:
    """From nothing to a data set that can be trained on."""
    from reborn_nas.data import load_dataset
    from reborn_nas.data.cache import write

    seconds: list[float] = []
    cpu: list[float] = []
    real = write.write_records

    def timed(*arguments: Any) -> None:
        began, used = time.perf_counter(), time.process_time()
        real(*arguments)
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)

    from reborn_nas.data.cache import folder

    folder.write_records = timed  # type: ignore[assignment]
    base, began = _memory(), time.perf_counter()
    images = load_dataset(f"folder:{root}", image_size=side, stream=True, cache_dir=cache)
    whole = time.perf_counter() - began
    return {
        "images": len(images.images), "decoding_seconds": seconds[0],
        "images_per_second": len(images.images) / seconds[0],
        "images_per_cpu_second": len(images.images) / cpu[0], "seconds_to_data_set": whole, **_peak(base),
    }  # fmt: skip


def read(root: str, cache: str, side: int, stream: bool, passes: int) -> dict[str, Any]:
    """Batches of an epoch without training, augmented and normalised."""
    from reborn_nas.data import Resident, load_dataset

    images = load_dataset(
        f"folder:{root}", image_size=side, stream=stream or None, cache_dir=cache, **_share(stream)
    )
    part = Resident(images, images.pool)
    sizes = [BATCH] * min(len(part) // BATCH, 60)
    rates = []
    for epoch in range(passes):
        began = time.perf_counter()
        for _ in part.epoch(sizes, seed=0, epoch=epoch):
            pass
        rates.append(sum(sizes) / (time.perf_counter() - began))
    return {"images_per_second": rates, "kind": type(images.images).__name__}


def training(
    root: str, cache: str, side: int, stream: bool, steps: int, network: str, threads: int
) -> dict[str, Any]:
    """A second run of the same data: seconds to the first batch, images a second of training, peak memory."""
    import timm
    import torch

    from reborn_nas.data import Resident, load_dataset

    torch.set_num_threads(threads)
    model = timm.create_model(network, num_classes=CLASSES)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    pixels = torch.zeros(2, 3, side, side)
    model(pixels).sum().backward()
    base, began = _memory(), time.perf_counter()
    images = load_dataset(
        f"folder:{root}", image_size=side, stream=stream or None, cache_dir=cache, **_share(stream)
    )
    part = Resident(images, images.pool)
    batches = part.epoch([BATCH] * (steps + 1), seed=0, epoch=0)
    first = next(batches)
    start = time.perf_counter() - began
    seconds = []
    for x, y in [first]:
        torch.nn.functional.cross_entropy(model(x), y).backward()
    mark, used = time.perf_counter(), time.process_time()
    for x, y in batches:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        now = time.perf_counter()
        seconds.append(now - mark)
        mark = now
    return {
        "kind": type(images.images).__name__, "seconds_to_first_batch": start,
        "images_per_second": BATCH / float(np.median(seconds)),
        "images_per_cpu_second": BATCH * len(seconds) / (time.process_time() - used),
        "fingerprint": images.fingerprint, **_peak(base),
    }  # fmt: skip


def _share(stream: bool) -> dict[str, float]:
    """What is held in memory is a part, so that a small machine can compare: which batches come is all the same."""
    return {} if stream else {"fraction": 0.3}


def _memory() -> int:
    """Bytes of this process that are in memory and its own."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    return 1024 * int(fields["RssAnon"].split()[0])


def _peak(base: int) -> dict[str, float]:
    """Memory beside what was there before: the process's peak, in GiB."""
    import resource

    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0]
    return {"peak_gib": peak / GIB, "peak_beside_torch_gib": (peak - 1024 * int(files) - base) / GIB}


PARTS = {"decode_rate": decode_rate, "decode_cold": decode_cold, "read": read, "training": training}


# -- all of it -----------------------------------------------------------------------------------------------------


def measure(
    place: Path, count: int, side: int, network: str, steps: int, gib: float, threads: int
) -> dict[str, Any]:
    """Every part in order; what each gave."""
    root = make_photos(place, count, side, side)
    wide = make_photos(place, max(CLASSES * 10, count // 15), 375, 500)
    cache = place / "cache"
    found: dict[str, Any] = {
        "images": count,
        "side": side,
        "network": network,
        "batch": BATCH,
        "threads": threads,
    }
    own = {"root": str(root), "cache": str(cache), "side": side}
    for name, folder in (("native", root), ("from 500×375", wide)):
        rates = in_child("decode_rate", {"root": str(folder), "count": 2000, "side": side}, False)
        with allowed(gib) as how:
            settings = {"root": str(folder), "cache": str(cache), "side": side}
            cold = in_child("decode_cold", settings, how.startswith("control"))
        found[f"decode, {name}"] = {
            "bound": how, "plain_loop": rates, **cold, "share_per_cpu_second": cold["images_per_cpu_second"]
            / max(rate for name, rate in rates.items() if name.endswith("_per_cpu_second")),
        }  # fmt: skip
    run = {**own, "steps": steps, "network": network, "threads": threads}
    pairs = []
    for _ in range(3):
        with allowed(gib) as how:
            _drop_caches()
            streamed = in_child(
                "training",
                {**own, "stream": True, "steps": steps, "network": network, "threads": threads},
                how.startswith("control"),
            )
        inside = in_child("training", {**run, "stream": False}, False)
        pairs.append({"streamed": streamed, "in_memory": inside,
                      "ratio": streamed["images_per_second"] / inside["images_per_second"],
                      "ratio_per_cpu_second": streamed["images_per_cpu_second"]
                      / inside["images_per_cpu_second"]})  # fmt: skip
    found["training"] = {"bound": how, "pairs": pairs}
    with allowed(gib) as how:
        _drop_caches()
        found["reading alone, bounded"] = in_child(
            "read", {**own, "stream": True, "passes": 2}, how.startswith("control")
        )
    found["reading alone, streamed"] = in_child("read", {**own, "stream": True, "passes": 3}, False)
    found["reading alone, in memory"] = in_child("read", {**own, "stream": False, "passes": 3}, False)
    return found


def _drop_caches() -> None:
    with contextlib.suppress(OSError):
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")


def main() -> None:
    """Measure, or run one part for `in_child`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, default={}, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help="a folder with 7 GB of room")
    parser.add_argument("--out", type=Path, help="JSON of the results")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--network", default="mobilenetv3_small_050")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the trainings")
    parser.add_argument("--gib", type=float, default=1.0, help="memory that is allowed")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](**options.settings)))
        return
    if options.place is None:
        parser.error("name a folder with --place")
    from tests.benchmarks.harness import hardware

    found = measure(
        options.place,
        options.images,
        options.side,
        options.network,
        options.steps,
        options.gib,
        options.threads,
    )
    text = json.dumps({"hardware": hardware(), **found}, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
