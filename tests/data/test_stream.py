"""Images read from a cache on disk: the same bits as in memory, from caches in any state, by several processes."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import reborn_nas.data.cache.folder as caching
import reborn_nas.data.cache.write as writing
import reborn_nas.data.files.decode as decoding
import reborn_nas.data.undecoded as undecoded
from reborn_nas.data import Augmentation, ImageSet, Resident, load_dataset, split
from reborn_nas.data.cache import Records, cache_root, clean_cache, list_caches
from reborn_nas.data.cache.lock import shared, unused
from reborn_nas.data.files.settle import decode
from reborn_nas.errors import DataError, MachineError
from reborn_nas.training import Checkpoint, get_recipe, train
from reborn_nas.training.checkpoint import TrainingState

COUNT = 90


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 JPEGs and PNGs of three classes, of two sizes, one of them turned by its EXIF."""
    root = tmp_path_factory.mktemp("photos")
    draws = np.random.default_rng(0)
    for k in range(COUNT):
        size = (14, 18) if k % 10 else (20, 20)
        own = root / "train" / "abc"[k % 3]
        own.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(draws.integers(0, 256, (*size, 3), dtype=np.uint8))
        if k % 2:
            image.save(own / f"{k:03d}.png")
        else:
            exif = Image.Exif()
            exif[0x0112] = 1 if k % 4 else 2
            image.save(own / f"{k:03d}.jpg", quality=90, exif=exif)
    return root


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def streamed(photos: Path, place: Path, **more: Any) -> ImageSet:
    return load_dataset(f"folder:{photos}", stream=True, cache_dir=place, **more)


def in_memory(photos: Path, **more: Any) -> ImageSet:
    return load_dataset(f"folder:{photos}", stream=False, **more)


def records(images: ImageSet) -> Records:
    assert isinstance(images.images, Records)
    return images.images


def only(place: Path, kind: str) -> Path:
    (found,) = place.glob(f"*/*{kind}")
    return found


# -- the same bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"image_size": 11}, {"fraction": 0.5, "seed": 3}])
def test_a_streamed_set_is_the_one_in_memory(photos: Path, place: Path, more: dict[str, Any]) -> None:
    disk, memory = streamed(photos, place, **more), in_memory(photos, **more)
    again = streamed(photos, place, **more)
    assert isinstance(memory.images, torch.Tensor)
    assert torch.equal(records(disk)[:], memory.images)
    rows = torch.tensor([7, 3, 4, 5, 0, 7])
    assert torch.equal(records(again)[rows], memory.images[rows])
    for one in (disk, again):
        assert (one.fingerprint, one.mean, one.std) == (memory.fingerprint, memory.mean, memory.std)
        assert torch.equal(one.labels, memory.labels)
        assert one.memory == 0
        assert one.notes[:-1] == memory.notes
        assert f"are read from the cache {place}" in one.notes[-1]
        for block in (0, 1):  # other parts of the same records
            ours, theirs = split(one, block=block, seed=1), split(memory, block=block, seed=1)
            assert torch.equal(ours.train, theirs.train)
            for x, y in zip(
                Resident(one, ours.train).epoch([8, 8], seed=2, epoch=3),
                Resident(memory, theirs.train).epoch([8, 8], seed=2, epoch=3),
                strict=True,
            ):
                assert torch.equal(x[0], y[0])
                assert torch.equal(x[1], y[1])


class Remembered(Checkpoint):
    """Keeps one state; ends the training after `last` epochs."""

    def __init__(self, last: int) -> None:
        self.last, self.kept = last, None

    def load(self) -> TrainingState | None:
        return self.kept

    def save(self, state: TrainingState) -> None:
        self.kept = state
        if state.epoch == self.last:
            raise KeyboardInterrupt

    def due(self) -> bool:
        return True


def test_a_training_and_its_resume_are_the_same_bits(photos: Path, place: Path) -> None:
    recipe = get_recipe("fast", dataset="digits", epochs=3, batch_size=16)

    def trained(images: ImageSet, checkpoint: Checkpoint | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        C, H, W = images.input_size
        model = torch.nn.Sequential(
            torch.nn.Conv2d(C, 4, 3),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(4 * (H - 2) * (W - 2), 3),
        )
        parts = split(images, block=0, seed=0)
        train(
            model, images, train_indices=parts.train, evaluate={"validation": parts.validation}, recipe=recipe,
            seed=5, checkpoint=checkpoint,
        )  # fmt: skip
        return model.state_dict()

    disk = streamed(photos, place)
    whole, ours = trained(in_memory(photos)), trained(disk)
    kept = Remembered(2)
    with pytest.raises(KeyboardInterrupt):
        trained(disk, kept)
    kept.last = -1
    resumed = trained(streamed(photos, place), kept)
    for name, tensor in whole.items():
        assert torch.equal(tensor, ours[name])
        assert torch.equal(tensor, resumed[name])


def test_chunks_are_read_one_ahead(photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = streamed(photos, place)
    begun = []
    real = Records.begin

    def begin(self: Records, rows: torch.Tensor, **more: Any) -> Any:
        begun.append(len(rows))
        return real(self, rows, **more)

    monkeypatch.setattr(Records, "begin", begin)
    monkeypatch.setattr("reborn_nas.data.resident.CHUNK_BYTES", {"cpu": 1, "cuda": 1})
    part = Resident(images, images.pool, augmentation=Augmentation())
    for k, _ in enumerate(part.epoch([8, 8, 8, 8], seed=0, epoch=0), start=1):
        assert len(begun) == min(k + 1, 4)


def test_jpegs_are_the_same_by_both_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour and grey, every kind of chroma subsampling, progressive or not, odd sizes."""
    draws = np.random.default_rng(1)
    files = []
    for k, (mode, sub, progressive) in enumerate(
        (mode, sub, progressive)
        for mode in ("RGB", "L")
        for sub in (0, 1, 2)
        for progressive in (False, True)
    ):
        small = Image.fromarray(draws.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((37, 29))
        files.append(tmp_path / f"{k}.jpg")
        small.convert(mode).save(files[-1], quality=60 + 3 * k, subsampling=sub, progressive=progressive)
    colour, grey = files[:6], files[6:]
    fast = [decode(each, "x", None, []) for each in (colour, grey)]
    monkeypatch.setattr("reborn_nas.data.files.raw.torchvision_io", None)
    for each, found in zip((colour, grey), fast):
        assert torch.equal(decode(each, "x", None, []), found)


def test_a_cut_jpeg_is_broken_by_both_decoders(tmp_path: Path) -> None:
    draws = np.random.default_rng(2)
    Image.fromarray(draws.integers(0, 256, (90, 80, 3), dtype=np.uint8)).save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(DataError, match="truncated"):
        decode([tmp_path / "cut.jpg"], "x", None, [])


# -- when ---------------------------------------------------------------------------------------------------------


def test_memory_decides(photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> ImageSet:
        return load_dataset(f"folder:{photos}", cache_dir=place)

    assert isinstance(load().images, torch.Tensor)
    assert not place.exists()
    needed = COUNT * 3 * 14 * 18
    monkeypatch.setattr(decoding, "available_memory", lambda: int(needed / decoding.MEMORY_SHARE) - 1)
    assert isinstance(load().images, Records)
    monkeypatch.setattr(decoding, "available_memory", lambda: int(needed / decoding.MEMORY_SHARE) + 2)
    monkeypatch.setattr(decoding, "pixels_of", None)  # what fits is read from the cache, not decoded again
    images = load()
    assert isinstance(images.images, torch.Tensor)
    assert images.fingerprint == streamed(photos, place).fingerprint


def test_named_sets_are_not_streamed() -> None:
    with pytest.raises(DataError, match=r"digits.*only images of your own are streamed"):
        load_dataset("digits", stream=True)


def test_the_cache_lies_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REBORN_NAS_CACHE", raising=False)
    assert cache_root().parts[-3:] == (".cache", "reborn-nas", "decoded")
    monkeypatch.setenv("REBORN_NAS_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert cache_root(tmp_path / "own") == tmp_path / "own"


# -- caches in any state ------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded into caches."""
    found: list[Path] = []
    real = caching.pixels_of
    monkeypatch.setattr(caching, "pixels_of", lambda file, *a: (found.append(file), real(file, *a))[1])
    return found


def test_files_are_decoded_once_whatever_part_is_used(photos: Path, place: Path, decoded: list[Path]) -> None:
    streamed(photos, place, fraction=0.4)
    first = len(decoded)
    assert 0 < first < COUNT
    streamed(photos, place, fraction=0.4, seed=1)
    streamed(photos, place)
    assert len(decoded) == len(set(decoded)) == COUNT
    streamed(photos, place, image_size=9)
    assert len(decoded) == 2 * COUNT
    assert len(list_caches(place)) == 1


def test_changed_files_are_another_cache(
    photos: Path, place: Path, decoded: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "photos"
    subprocess.run(["cp", "-a", photos, copy], check=True)
    before = streamed(copy, place)
    Image.new("RGB", (18, 14), (200, 0, 0)).save(copy / "train" / "a" / "003.png")
    after = streamed(copy, place)
    assert before.fingerprint != after.fingerprint == in_memory(copy).fingerprint
    assert len(decoded) == 2 * COUNT
    assert "of another state of" in caplog.text


def test_another_version_of_pillow_is_another_cache(
    photos: Path, place: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed(photos, place)
    monkeypatch.setattr("PIL.__version__", "1.1.7")
    streamed(photos, place)
    assert len(decoded) == 2 * COUNT


def test_broken_images_do_not_cost_a_second_decoding(
    photos: Path, place: Path, decoded: list[Path], tmp_path: Path
) -> None:
    copy = tmp_path / "photos"
    subprocess.run(["cp", "-a", photos, copy], check=True)
    cut = copy / "train" / "b" / "001.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"001\.png cannot be read"):
        streamed(copy, place)
    images = streamed(copy, place, skip_broken=True)
    assert images.fingerprint == in_memory(copy, skip_broken=True).fingerprint
    assert len(images.labels) == COUNT - 1
    assert len(set(decoded)) == COUNT
    assert len(decoded) == COUNT + 1  # the broken one was tried twice


def test_what_a_failing_writer_marked_is_kept(
    photos: Path, place: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reborn_nas.data.files.opening.BATCH", 8)
    real, done = writing._write_at, []

    def full(handle: int, data: memoryview, at: int) -> None:
        done.append(at)
        if len(done) == 41:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle, data, at)

    monkeypatch.setattr(writing, "_write_at", full)
    with pytest.raises(MachineError, match=r"cache .*\.raw: .*space"):
        streamed(photos, place)
    (entry,) = list_caches(place)
    (marked,) = entry.images.values()
    assert 16 <= marked < COUNT
    decoded.clear()
    assert streamed(photos, place).fingerprint == in_memory(photos).fingerprint
    assert len(decoded) == COUNT - marked


def test_a_damaged_record_is_noticed(photos: Path, place: Path) -> None:
    streamed(photos, place)
    raw = only(place, ".raw")
    with raw.open("r+b") as stream:
        stream.seek(3 * 14 * 18 * 50 + 7)
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 1]))
    images = streamed(photos, place)
    with pytest.raises(
        DataError, match=r"image 50 in the cache .*checksum.*reborn-nas cache .*--clean photos"
    ):
        list(Resident(images, torch.arange(COUNT)).epoch([30, 30, 30], seed=0, epoch=0))


def test_a_cache_that_is_cut_or_gone_is_noticed(photos: Path, place: Path) -> None:
    images = streamed(photos, place)
    raw = only(place, ".raw")
    os.truncate(raw, 3 * 14 * 18 * 60 + 1)
    with pytest.raises(DataError, match="has become shorter"):
        images.images[:]
    with pytest.raises(DataError, match=r"shorter than its marks: `reborn-nas cache"):
        streamed(photos, place)
    raw.unlink()
    with pytest.raises(DataError, match="shorter than its marks"):
        streamed(photos, place)
    del images
    clean_cache(["all"], place)
    assert streamed(photos, place).fingerprint == in_memory(photos).fingerprint


def test_damaged_sums_are_noticed(photos: Path, place: Path) -> None:
    """Mean and deviation would be wrong without a word, though every image is what it was."""
    streamed(photos, place)
    sums = only(place, ".sums")
    data = bytearray(sums.read_bytes())
    data[8 * 7 * 50 + 3] ^= 1  # of image 50: 2 sums of 3 channels and a checksum
    sums.write_bytes(data)
    with pytest.raises(
        DataError, match=r"\.sums is not what was written .*reborn-nas cache .*--clean photos"
    ):
        streamed(photos, place)
    sums.write_bytes(data[:100])
    with pytest.raises(DataError, match=r"\.sums is shorter than its marks: `reborn-nas cache"):
        streamed(photos, place)


def test_a_cache_whose_description_is_damaged_is_listed_and_removed(photos: Path, place: Path) -> None:
    streamed(photos, place)
    only(place, "cache.json").write_text("junk")
    (entry,) = list_caches(place)
    assert entry.source == "unknown: cache.json is damaged"
    assert entry.images == {"3x14x18-uint8": COUNT}
    clean_cache([entry.path.name], place)
    assert list_caches(place) == ()


def test_a_failing_disk_is_the_machines_fault(
    photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = streamed(photos, place)

    def preadv(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(OSError, match=r"Input/output error: .*\.raw"):
        list(Resident(images, images.pool).epoch([16], seed=0, epoch=0))


def test_a_disk_too_small_is_refused_before(
    photos: Path, place: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = (64 << 20) + 68_039

    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: Usage)
    refused = r"take 0\.1 MiB more on .*, which has 0\.1 MiB free.*--cache-dir"
    with pytest.raises(DataError, match=r"90 images of 3×14×18, decoded, " + refused):
        streamed(photos, place)
    assert not decoded
    assert not place.exists()
    Usage.free += 1  # 90 · 3 · 14 · 18 = 68,040 bytes
    streamed(photos, place)


def test_a_place_that_cannot_be_written_is_named(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .*--cache-dir"):
        streamed(photos, tmp_path / "file")


# -- plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False, None])
def test_a_plan_looks_at_a_sample_and_writes_nothing(
    photos: Path, place: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch, stream: bool | None
) -> None:
    monkeypatch.setattr(undecoded, "SAMPLE", 8)

    def load(**more: Any) -> ImageSet:
        return load_dataset(f"folder:{photos}", stream=stream, cache_dir=place, **more)

    plan = load(decode=False)
    assert plan.planned
    assert plan.fingerprint == ""
    assert len(decoded) == 8
    assert not place.exists()
    whole = in_memory(photos)
    assert plan.memory == (0 if stream else whole.memory)
    assert plan.input_size == whole.input_size
    for part in ("labels", "pool", "reserve", "test"):
        assert torch.equal(getattr(plan, part), getattr(whole, part))
    rows = torch.tensor([7, 3, 80])
    assert torch.equal(plan.images[rows], whole.images[rows])
    x, _ = next(Resident(plan, plan.pool).epoch([5], seed=0, epoch=0))
    assert x.shape == (5, *whole.input_size)
    if stream:
        (note,) = (note for note in plan.notes if "will be read from the cache" in note)
        where = records(streamed(photos, place)).path.parent
        assert f"cache {where} (key {where.name.rpartition('-')[2]})" in note
        assert "90 images of 3×14×18, decoded 0.1 MiB," in note
        assert "90 of them are decoded once, into 0.1 MiB of a disk with" in note
        again = load(decode=False)  # all is there
        assert not again.planned
        assert again.fingerprint == whole.fingerprint


def test_a_plan_of_many_reads_some_headers(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reborn_nas.data.folder.PLANNED", 20)
    plan = in_memory(photos, decode=False)
    assert "so far the headers of 20 of the 90 images are read" in plan.notes
    assert plan.input_size == (3, 14, 18)
    assert len(plan.images) == COUNT


def test_a_plan_refuses_a_disk_that_is_too_small(
    photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 64 << 20}))
    with pytest.raises(
        DataError, match=r"90 images of 3×14×18, decoded, take 0\.1 MiB more .* has 0\.0 MiB free"
    ):
        streamed(photos, place, decode=False)


def test_a_search_decodes_what_its_plan_did_not(photos: Path, place: Path, tmp_path: Path) -> None:
    from reborn_nas.study import StudyConfig, plan_search
    from reborn_nas.study.setup.planning import with_images

    config = StudyConfig(
        backbone="convnet8", dataset=f"folder:{photos}", stream=True, cache_dir=place, trials=4, device="cpu",
        run=tmp_path / "run",
    )  # fmt: skip
    plan = plan_search(config, measure=False)
    assert not place.exists()
    assert not (tmp_path / "run").exists()
    whole = with_images(plan)
    assert whole.context.images.fingerprint == in_memory(photos).fingerprint
    assert whole.phases == plan.phases
    assert with_images(whole) is whole


# -- several processes --------------------------------------------------------------------------------------------

CHILD = """
import sys, time
import reborn_nas.data.cache.folder as caching
import reborn_nas.data.cache.write as writing
from reborn_nas.data import load_dataset
real, count = caching.pixels_of, []
def slow(*a):
    count.append(1)
    time.sleep(float(sys.argv[3]))
    return real(*a)
caching.pixels_of = slow
writing.SAFE_SECONDS = 0.0
import reborn_nas.data.files.opening as opening
opening.BATCH = 4
images = load_dataset(f"folder:{sys.argv[1]}", stream=True, cache_dir=sys.argv[2])
print(images.fingerprint, len(count))
"""


def child(photos: Path, place: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(photos), str(place), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def marked(place: Path) -> int:
    return sum(sum(entry.images.values()) for entry in list_caches(place))


@pytest.mark.slow
def test_a_killed_writer_is_taken_over_and_two_decode_once(photos: Path, place: Path) -> None:
    victim = child(photos, place, 0.2)
    until = time.monotonic() + 120
    while not marked(place) and time.monotonic() < until:
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    before = marked(place)
    assert 0 < before < COUNT
    pair = [child(photos, place, 0.005) for _ in range(2)]
    answers = [one.communicate()[0].split() for one in pair]
    assert {answer[0] for answer in answers} == {in_memory(photos).fingerprint}
    assert sum(int(answer[1]) for answer in answers) == COUNT - before


SHARE = """
import sys
from pathlib import Path
import torch
from reborn_nas.data import Resident, load_dataset

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

warm = load_dataset("digits")
for _ in Resident(warm, warm.pool).epoch([8], seed=0, epoch=0):
    pass
before = own()
images = load_dataset(f"folder:{sys.argv[1]}", stream=True, cache_dir=sys.argv[2])
peak, seen = own(), 0
part = Resident(images, images.pool)
for x, _ in part.epoch([8] * (len(part) // 8), seed=0, epoch=0):
    peak, seen = max(peak, own()), seen + len(x)
print(peak - before, images.images.nbytes, seen)
"""
"""The memory of a process's own, and of no file, at every batch of a streamed epoch, beside what it took before."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's count of memory")
def test_a_streamed_epoch_takes_a_small_part_of_its_images_memory(tmp_path: Path) -> None:
    """1,500 images of 224 px, the twentieth part of what tests/benchmarks/streaming.py measures."""
    from tests.benchmarks.streaming import make_photos

    root = make_photos(tmp_path, 1500, 224, 224)
    for _ in range(2):  # it decodes, then it does not
        command = [sys.executable, "-c", SHARE, str(root), str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        took, whole, seen = map(int, done.stdout.split())
        assert whole == 1500 * 3 * 224 * 224
        assert seen >= 900
        assert took < whole / 3
    assert "decoded in" not in done.stderr


# -- the verb -----------------------------------------------------------------------------------------------------


def test_the_verb_lists_and_cleans(photos: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from reborn_nas.cli.main import main

    def verb(*words: str) -> Any:
        code = main(["cache", "--cache-dir", str(place), "--json", *words])
        out = capsys.readouterr()
        return json.loads(out.out)["caches"] if code == 0 else out.err

    assert verb() == []
    images = streamed(photos, place)
    (found,) = verb()
    assert found["images"] == {"3x14x18-uint8": COUNT}
    assert found["bytes"] >= images.images.nbytes
    assert found["in_use"]
    assert "is in use" in verb("--clean", found["name"])
    assert verb("--clean", "all") == []
    del images
    (other := place / "mine").mkdir()
    (other / "thesis.txt").write_text("x")
    assert "there is no cache 'mine'" in verb("--clean", "mine")
    assert [one["name"] for one in verb("--clean", found["name"])] == [found["name"]]
    assert verb() == []
    assert (other / "thesis.txt").exists()


def test_the_printed_command_removes_the_cache_that_it_names(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from reborn_nas.cli.main import main

    elsewhere = tmp_path / "a place of its own"
    streamed(photos, elsewhere)
    assert main(["cache", "--cache-dir", str(elsewhere)]) == 0
    line = capsys.readouterr().out.rpartition("To remove the first: ")[2].strip()
    program, *words = shlex.split(line)
    assert program == "reborn-nas"
    assert main(words) == 0
    assert "removed 1 cache," in capsys.readouterr().out
    assert list_caches(elsewhere) == ()


def test_a_cache_that_is_being_removed_is_not_taken_into_use(tmp_path: Path) -> None:
    guard = tmp_path / "cache" / "in-use"
    os.close(shared(guard))
    with ThreadPoolExecutor(1) as other, unused(guard) as free:
        assert free
        taking = other.submit(shared, guard)
        with pytest.raises(TimeoutError):
            taking.result(timeout=0.5)
        shutil.rmtree(guard.parent)
        file = taking.result(timeout=60)  # a new one, in the place of what was removed
    with unused(guard) as free:
        assert not free
    os.close(file)
