"""Every file that a user or a third party can provide ends in a result or a typed error: no traceback, hang or file."""

from __future__ import annotations

import json
import random
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from reborn_nas.architecture import Architecture, Choice
from reborn_nas.data import load_dataset
from reborn_nas.errors import RebornError
from reborn_nas.models.exported import folded_pairs, stored_plan, vet_folder
from reborn_nas.space import load_space
from reborn_nas.study import load_config, load_run, status
from reborn_nas.study.config.config import split_contrast
from reborn_nas.training import FileCheckpoint, Recipe
from tests.study.conftest import FakeSite

ROOT = Path(__file__).parents[1]
SITES = tuple(FakeSite(f"layer{index}.act", index, stage=index // 2) for index in range(4))
SECONDS = 20.0

MANY = {
    "spaces": 2600,
    "studies": 2600,
    "architectures": 2400,
    "configs": 1000,
    "tensors": 1200,
    "folders": 300,
}
"""Inputs of the slow run: more than 10,000."""

FEW = {"spaces": 30, "studies": 30, "architectures": 40, "configs": 10, "tensors": 25, "folders": 5}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.sampled_from([0, -1, 10**30, 2**63]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=12),
    st.sampled_from(
        ["reborn", "original", "relu", "reborn(kernel_size=3)", "crelu", "layer*", "../..", "/etc/passwd",
         "stage", "site", "timm:resnet18", "x.py:make", "2h", "cuda:99", "!!python/object:os.system", "~", "\x00",
         "reborn(kernel_size=(", "folder:..", "file:///etc", "=cmd()", "1e400", "postgresql://u:pw@h/d"]
    ),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8) | scalars, inner, max_size=4)
    ),
    max_leaves=12,
)


@cache
def shipped(pattern: str) -> tuple[str, ...]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob(pattern))]
    return tuple(text for text in texts if not text.startswith("kind: replication"))


def damaged(texts: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """One of `texts` with lines or characters lost, doubled, or replaced by something else."""

    def damage(text: str, seed: int, word: Any) -> bytes:
        chance = random.Random(seed)
        lines = text.splitlines()
        for _ in range(chance.randrange(1, 4)):
            line = chance.randrange(len(lines))
            kind = chance.randrange(6)
            if kind == 0:
                del lines[line]
            elif kind == 1:
                lines.insert(line, lines[chance.randrange(len(lines))])
            elif kind == 2:
                key, sign, _ = lines[line].partition(":")
                lines[line] = f"{key}{sign} {word!r}" if chance.random() < 0.5 else f"{key}{sign} {word}"
            elif kind == 3:
                place = chance.randrange(len(lines[line]) + 1)
                lines[line] = (
                    lines[line][:place] + chance.choice("{}[]&*!|>%@`\t\"':,-\x00#") + lines[line][place:]
                )
            elif kind == 4:
                lines[line] = " " * chance.randrange(9) + lines[line].strip()
            else:
                lines[line] = lines[line][: chance.randrange(len(lines[line]) + 1)]
            lines = lines or [""]
        return "\n".join(lines).encode("utf-8", errors="surrogatepass")

    return st.builds(damage, st.sampled_from(texts), st.integers(0, 2**32), scalars)


def documents(pattern: str) -> st.SearchStrategy[bytes]:
    made = values.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode(errors="surrogatepass"))
    keys = sorted({key for text in shipped(pattern) for key in (yaml.safe_load(text) or {})})
    alike = st.dictionaries(st.sampled_from(keys), values, max_size=6).map(
        lambda value: yaml.safe_dump(value).encode(errors="surrogatepass")
    )
    return st.one_of(damaged(shipped(pattern)), alike, made, st.binary(max_size=60))


class Hangs(BaseException):
    """Not caught by whatever catches Exception."""


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def settle(call: Callable[[], Any]) -> Any:
    """What `call` gives, or its typed error; anything else fails the test."""
    with in_time():
        try:
            return call()
        except RebornError as error:
            found = error
    assert str(found).strip()
    return found


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REBORN_NAS_DATA", str(tmp_path / "no-data"))
    return tmp_path


def fuzz(place: Path, count: int, inputs: st.SearchStrategy[Any], check: Callable[[Any], Any]) -> None:
    """Run `check` on `count` inputs; the working folder must be as it was."""
    before = tree(place)

    @settings(max_examples=count, database=None, derandomize=True, deadline=None)
    @given(inputs)
    def run(value: Any) -> None:
        check(value)

    run()
    assert tree(place) == before


sizes = pytest.mark.parametrize(
    "counts", [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]
)


@sizes
def test_search_spaces(place: Path, counts: dict[str, int]) -> None:
    path = place / "space.yaml"
    path.touch()

    def check(content: bytes) -> None:
        path.write_bytes(content)

        def use() -> None:
            space = load_space(path)
            space.check(SITES)
            assert all(labels for labels in space.parameters(SITES).values())

        settle(use)

    fuzz(place, counts["spaces"], documents("search_spaces/*.yaml"), check)


@sizes
def test_studies(place: Path, counts: dict[str, int]) -> None:
    path = place / "study.yaml"
    path.touch()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        config = settle(lambda: load_config(path))
        if isinstance(config, RebornError):
            assert (
                b"storage:" not in content
                or "pw@" not in str(config).partition("storage: ")[2].split("\n")[0]
            )
        else:
            assert json.dumps(config.to_dict())
            assert "/" not in config.study_name
            split_contrast(config.contrast)

    fuzz(place, counts["studies"], documents("studies/*.yaml"), check)


def architecture() -> str:
    choices = {"layer1.0.act1": Choice("reborn", kernel_size=3), "act1": Choice("relu")}
    return Architecture("resnet18", choices).to_json()


@sizes
def test_architectures(place: Path, counts: dict[str, int]) -> None:
    good = json.loads(architecture())
    changed = st.builds(
        lambda key, value: json.dumps({**good, key: value}), st.sampled_from(sorted(good)) | st.text(max_size=5), values
    )  # fmt: skip
    deep = st.integers(1, 100_000).map(lambda depth: "[" * depth)
    texts = st.one_of(
        damaged((json.dumps(good, indent=1),)).map(lambda data: data.decode("utf-8", errors="replace")),
        changed,
        values.map(lambda value: json.dumps(value, default=str)),
        st.text(max_size=40),
        deep,
    )

    def check(text: str) -> None:
        found = settle(lambda: Architecture.from_json(text))
        if isinstance(found, Architecture):
            assert Architecture.from_json(found.to_json()) == found

    fuzz(place, counts["architectures"], texts, check)
    labels = st.text(max_size=30) | scalars.map(str)
    fuzz(place, counts["architectures"] // 4, labels, lambda text: settle(lambda: Choice.parse(text)))


@sizes
def test_configs_of_runs_and_exports(place: Path, counts: dict[str, int]) -> None:
    (place / "run").mkdir()
    path = place / "run" / "config.json"
    path.touch()
    good = {
        "study": "mine", "storage": None, "architecture": "reborn_model",
        "model_args": {"architecture": json.loads(architecture()), "plan": None},
        "reborn_nas": {"version": 1}, "pretrained_cfg": {"classifier": "fc"},
    }  # fmt: skip
    changed = st.builds(
        lambda key, value: json.dumps({**good, key: value}, default=str).encode(),
        st.sampled_from(sorted(good)),
        values,
    )
    inputs = st.one_of(
        damaged((json.dumps(good, indent=1),)),
        changed,
        st.binary(max_size=40),
        values.map(lambda value: json.dumps(value, default=str).encode()),
    )

    def check(content: bytes) -> None:
        path.write_bytes(content)
        settle(lambda: status(path.parent))
        settle(lambda: load_run(path.parent))
        folder = settle(lambda: vet_folder({"source": "local-dir", "file": str(path.parent)}, True))
        if isinstance(folder, Path):
            stored = json.loads(content).get("model_args")
            arguments = stored if isinstance(stored, dict) else {}
            settle(lambda: Architecture.from_dict(arguments.get("architecture")))
            settle(lambda: stored_plan(arguments.get("plan")))
            settle(lambda: folded_pairs(arguments.get("folded", [])))

    fuzz(place, counts["configs"], inputs, check)


@sizes
def test_tensors(place: Path, counts: dict[str, int]) -> None:
    path = place / "model.safetensors"
    path.touch()
    (place / "config.json").write_text("{}")
    state = {"version": 1, "epoch": 2, "curve": [], "identity": "x", "seconds": 1.0}
    good = save({"model/w": torch.ones(3), "momentum/0": torch.ones(3)}, {"training": json.dumps(state)})

    def cut(seed: int) -> bytes:
        chance = random.Random(seed)
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.4 else data)

    def headed(header: Any, body: bytes) -> bytes:
        text = json.dumps(header, default=str).encode()
        return struct.pack("<Q", len(text)) + text + body

    entry = st.fixed_dictionaries(
        {"dtype": scalars | st.just("F32"), "shape": values, "data_offsets": values}
    )
    headers = st.dictionaries(st.sampled_from(["model/w", "__metadata__", "x"]), entry | values, max_size=3)
    told = st.dictionaries(st.sampled_from(sorted(state)), values, max_size=5).map(
        lambda change: save(
            {"model/w": torch.ones(1)}, {"training": json.dumps({**state, **change}, default=str)}
        )
    )
    sizes = st.integers(0, 2**64 - 1).map(lambda size: struct.pack("<Q", size) + b"{}")
    inputs = st.one_of(
        st.integers(0, 2**32).map(cut),
        st.builds(headed, headers, st.binary(max_size=24)),
        told,
        sizes,
        st.binary(max_size=40),
    )

    def check(content: bytes) -> None:
        path.write_bytes(content)
        settle(FileCheckpoint(path).load)
        settle(lambda: vet_folder({"source": "local-dir", "file": str(place)}, True))

    fuzz(place, counts["tensors"], inputs, check)


pictures = st.sampled_from(["png", "jpeg", "gray", "rgba", "tiny", "bomb", "text", "empty", "cut"])
names = st.sampled_from(["a.png", "b.jpg", "..", "c.PNG", "no ending", ".hidden.png", "é.png", "d.gif"])
folders = st.dictionaries(
    st.sampled_from(["train/cat", "train/dog", "val/cat", "test/dog", "train", "train/..", "cat", "x/y/z"]),
    st.lists(st.tuples(names, pictures), max_size=5),
    max_size=5,
)


def draw(path: Path, kind: str) -> None:
    size, mode = {"gray": ((9, 7), "L"), "rgba": ((8, 8), "RGBA"), "tiny": ((1, 1), "RGB")}.get(
        kind, ((12, 12), "RGB")
    )
    if kind in ("text", "empty"):
        path.write_bytes(b"no picture" if kind == "text" else b"")
        return
    if kind == "bomb":  # a header that promises 30,000 × 30,000 pixels
        header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + b"\x00" * 40)
        return
    with open(path, "wb") as stream:
        Image.new(mode, size).save(stream, "JPEG" if kind == "jpeg" else "PNG")
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-20])


@sizes
def test_image_folders(place: Path, counts: dict[str, int]) -> None:
    import shutil

    def check(layout: dict[str, list[tuple[str, str]]]) -> None:
        root = place / "images"
        (root / "train").mkdir(parents=True)
        for folder, files in layout.items():
            inside = root / folder
            inside.mkdir(parents=True, exist_ok=True)
            for index, (name, kind) in enumerate(files):
                if name != "..":
                    draw(inside / f"{index}{name}", kind)
        before = tree(place)
        settle(lambda: load_dataset(f"folder:{root}", data_dir=None, image_size=8, seed=0, fraction=1.0))
        assert tree(place) == before
        shutil.rmtree(root)

    fuzz(place, counts["folders"], folders, check)


def test_recipes(place: Path) -> None:
    known = sorted(Recipe().to_dict())
    inputs = st.dictionaries(st.sampled_from(known) | st.text(max_size=5), scalars, max_size=4)
    fuzz(place, 100, inputs, lambda data: settle(lambda: Recipe.from_dict(data)))


def test_the_slow_run_has_ten_thousand() -> None:
    assert sum(MANY.values()) >= 10_000
