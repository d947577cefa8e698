"""Data sets by name: digits, torchvision's, and what is said when they are not there."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import reborn_nas.data.standard as network
import reborn_nas.data.standard as standard
from reborn_nas.data import Augmentation, Resident, dataset_names, load_dataset, resize
from reborn_nas.data.images import as_rgb
from reborn_nas.errors import DataError, UnknownNameError


def write_idx(path: Path, array: np.ndarray, packed: bool = False) -> None:
    """The format as its author describes it: two zero bytes, 8 for bytes, the rank, the sizes, the values."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(header + array.tobytes()))
    else:
        path.write_bytes(header + array.tobytes())


def fake_mnist(
    root: Path, folder: str = "MNIST", train: int = 200, test: int = 50, packed: bool = False
) -> np.ndarray:
    rng = np.random.default_rng(0)
    raw = root / folder / "raw"
    pictures = rng.integers(0, 256, (train + test, 28, 28), dtype=np.uint8)
    labels = (np.arange(train + test) % 10).astype(np.uint8)
    write_idx(raw / "train-images-idx3-ubyte", pictures[:train], packed)
    write_idx(raw / "train-labels-idx1-ubyte", labels[:train], packed)
    write_idx(raw / "t10k-images-idx3-ubyte", pictures[train:], packed)
    write_idx(raw / "t10k-labels-idx1-ubyte", labels[train:], packed)
    return pictures


def test_digits_are_scikit_learns_with_their_levels_spread() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = load_dataset("digits")
    assert images.images.shape == (1797, 1, 8, 8)
    # 255/16 = 15.9375 a level, rounded
    levels = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    expected = np.array([levels[int(value)] for value in bunch.images.flat])
    assert np.array_equal(images.images.numpy().ravel(), expected)
    assert np.array_equal(images.labels.numpy(), bunch.target)
    assert (len(images.pool), len(images.reserve), len(images.test)) == (1077, 360, 360)
    assert images.input_size == (1, 8, 8)
    assert not images.augmentation.active


def test_digits_without_the_file_come_through_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    import reborn_nas.data.digits as digits

    direct = load_dataset("digits")
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    assert load_dataset("digits").fingerprint == direct.fingerprint


def test_parts_of_a_set_are_disjoint() -> None:
    images = load_dataset("digits")
    everything = torch.cat([images.pool, images.reserve, images.test])
    assert everything.sort().values.tolist() == list(range(1797))


def test_statistics_are_of_the_pool_only() -> None:
    images = load_dataset("digits")
    pool = images.images[images.pool].double() / 255
    assert images.mean[0] == pytest.approx(float(pool.mean()), abs=1e-12)
    assert images.std[0] == pytest.approx(float(pool.std(correction=0)), abs=1e-12)
    everything = images.images.double() / 255
    assert images.mean[0] != pytest.approx(float(everything.mean()), abs=1e-6)


def test_a_fingerprint_is_of_images_labels_and_parts() -> None:
    one, same = load_dataset("digits"), load_dataset("digits")
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != load_dataset("digits", seed=1).fingerprint
    assert one.fingerprint != load_dataset("digits", fraction=0.5).fingerprint
    assert one.fingerprint != load_dataset("digits", image_size=9).fingerprint


def test_image_size_resizes() -> None:
    images = load_dataset("digits", image_size=(16, 12))
    assert images.input_size == (1, 16, 12)


def test_resizing_a_flat_picture_keeps_it_and_halving_averages() -> None:
    flat = torch.full((3, 2, 6, 6), 77, dtype=torch.uint8)
    assert torch.equal(resize(flat, (9, 4)), torch.full((3, 2, 9, 4), 77, dtype=torch.uint8))
    stripes = torch.tensor([200, 0, 0, 0] * 4, dtype=torch.uint8).expand(1, 1, 16, 16).contiguous()
    # a quarter of the columns is bright: antialiased, a quarter of the size shows their mean, about 50; without,
    # it would be blended from the dark middle columns alone
    inner = resize(stripes, (4, 4))[0, 0, 1:-1, 1:-1].int()
    assert int((inner - 50).abs().max()) <= 15


def test_unknown_names_are_told_with_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean cifar10"):
        load_dataset("cifar-10x")
    assert dataset_names()[0] == "digits"


@pytest.mark.parametrize("size", [0, -3, 5000, (8, 8, 8), "8", 2.5, (True, 8)])
def test_impossible_sizes_are_refused(size: object) -> None:
    with pytest.raises(DataError, match="image_size"):
        load_dataset("digits", image_size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, "half", float("nan")])
def test_impossible_fractions_are_refused(fraction: object) -> None:
    with pytest.raises(DataError, match="fraction"):
        load_dataset("digits", fraction=fraction)  # type: ignore[arg-type]


def test_real_mnist(shared_data: Path) -> None:
    images = load_dataset("mnist", data_dir=shared_data)
    assert images.images.shape == (70_000, 1, 28, 28)
    assert (len(images.pool), len(images.reserve), len(images.test)) == (54_000, 6_000, 10_000)
    assert images.validation_size == 6_000
    assert images.test.tolist() == list(range(60_000, 70_000))
    # published: mean 0.1307, deviation 0.3081 of all 60,000 training images
    assert images.mean[0] == pytest.approx(0.1307, abs=5e-4)
    assert images.std[0] == pytest.approx(0.3081, abs=5e-4)
    assert images.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(images.labels[images.test]).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    raw = (shared_data / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert hashlib.sha256(images.images[60_000:].numpy().tobytes()).digest() == hashlib.sha256(raw).digest()


def test_a_share_of_real_mnist(shared_data: Path) -> None:
    images = load_dataset("mnist", data_dir=shared_data, fraction=0.05, image_size=32)
    assert images.images.shape == (3_500, 1, 32, 32)
    assert (len(images.pool), len(images.reserve), len(images.test), images.validation_size) == (
        2700,
        300,
        500,
        300,
    )


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("kmnist", "KMNIST"), ("fashion_mnist", "FashionMNIST")]
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_as_they_lie(tmp_path: Path, name: str, folder: str, packed: bool) -> None:
    pictures = fake_mnist(tmp_path, folder, packed=packed)
    images = load_dataset(name, data_dir=tmp_path)
    assert np.array_equal(images.images[:, 0].numpy(), pictures)
    assert images.test.tolist() == list(range(200, 250))
    assert images.augmentation == (Augmentation(4, True) if name == "fashion_mnist" else Augmentation())


def test_the_data_folder_may_be_named_after_the_set(tmp_path: Path) -> None:
    fake_mnist(tmp_path / "mnist")
    assert len(load_dataset("mnist", data_dir=tmp_path).test) == 50


def test_the_environment_names_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mnist(tmp_path)
    monkeypatch.setenv("REBORN_NAS_DATA", str(tmp_path))
    assert len(load_dataset("mnist").test) == 50
    assert standard.data_root("elsewhere") == Path("elsewhere")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    fake_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is cut short"):
        load_dataset("mnist", data_dir=tmp_path)
    file.write_bytes(b"<html>not here</html>")
    with pytest.raises(DataError, match=r"is not an IDX file"):
        load_dataset("mnist", data_dir=tmp_path)


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    fake_mnist(tmp_path)
    write_idx(tmp_path / "MNIST/raw/train-labels-idx1-ubyte", np.full(200, 200, dtype=np.uint8))
    with pytest.raises(DataError, match="labels are 0 … 9"):
        load_dataset("mnist", data_dir=tmp_path)


def write_cifar10(root: Path) -> np.ndarray:
    """Batches as the published archive has them, and torchvision's table of their checksums made to fit."""
    import pickle

    rng = np.random.default_rng(1)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows = rng.integers(0, 256, (120, 3072), dtype=np.uint8)
    for k, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        data = {"data": rows[20 * k : 20 * k + 20], "labels": [j % 10 for j in range(20)]}
        (folder / name).write_bytes(pickle.dumps(data))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(standard.CIFAR10)}))
    return rows


def test_cifar10_in_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    rows = write_cifar10(tmp_path)

    def checked(name: str) -> list[str]:
        return [name, hashlib.md5((tmp_path / "cifar-10-batches-py" / name).read_bytes()).hexdigest()]

    monkeypatch.setattr(CIFAR10, "train_list", [checked(f"data_batch_{k}") for k in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [checked("test_batch")])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": checked("batches.meta")[1]})
    images = load_dataset("cifar10", data_dir=tmp_path)
    # a row is 1024 red, 1024 green, 1024 blue values
    assert np.array_equal(images.images.numpy().reshape(120, 3072), rows)
    assert images.input_size == (3, 32, 32)
    assert images.augmentation == Augmentation(crop_padding=4, flip=True)
    assert not load_dataset("cifar10", data_dir=tmp_path, flip=False).augmentation.flip


def test_cifar10_that_is_not_the_published_one_is_not_unpickled(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_svhn_in_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    rng = np.random.default_rng(2)
    pictures = {part: rng.integers(0, 256, (32, 32, 3, 60), dtype=np.uint8) for part in ("train", "test")}
    table = {}
    for part, array in pictures.items():
        file = tmp_path / f"{part}_32x32.mat"
        labels = (np.arange(60) % 10) + 1  # SVHN writes 10 for the digit 0
        savemat(file, {"X": array, "y": labels[:, None]})
        table[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", table)
    images = load_dataset("svhn", data_dir=tmp_path)
    assert torch.equal(images.images[70], torch.from_numpy(pictures["test"][..., 10]).permute(2, 0, 1))
    assert images.labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert not images.augmentation.active


@pytest.mark.parametrize("name", standard.PUBLISHED)
def test_an_absent_set_without_a_network_is_told_without_trying(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(*arguments: object) -> None:
        raise AssertionError("a connection is tried")

    monkeypatch.setattr(standard, "reachable", lambda url: False)
    monkeypatch.setattr("socket.create_connection", tried)
    monkeypatch.setattr("socket.getaddrinfo", tried)
    with pytest.raises(DataError) as caught:
        load_dataset(name, data_dir=tmp_path / "none")
    text = str(caught.value)
    assert str(tmp_path / "none") in text
    assert "cannot be reached" in text
    assert "--data-dir" in text
    assert "digits" in text
    assert not (tmp_path / "none").exists()


def test_a_host_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    gone, answered = threading.Event(), threading.Event()

    def never(*arguments: object) -> None:
        gone.wait(120)
        answered.set()
        raise OSError

    monkeypatch.setattr(network.socket, "create_connection", never)
    monkeypatch.setattr(network.urllib.request, "getproxies", dict)
    assert not network.reachable("https://example.org/x", seconds=0.2)
    assert not answered.is_set()
    gone.set()


def test_an_open_port_is_reachable_directly_or_as_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(network.urllib.request, "getproxies", dict)
        assert network.reachable(f"http://127.0.0.1:{port}/file")
        monkeypatch.setattr(
            network.urllib.request, "getproxies", lambda: {"https": f"http://127.0.0.1:{port}"}
        )
        monkeypatch.setattr(network.urllib.request, "proxy_bypass", lambda host: False)
        assert network.reachable("https://no-such-host.invalid/file")


def test_a_failed_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, root: object) -> None:
        raise OSError("HTTP Error 403: Forbidden")

    monkeypatch.setattr(standard, "reachable", lambda url: True)
    monkeypatch.setattr(standard, "_download", refuse)
    with pytest.raises(DataError, match=r"download from .* failed: HTTP Error 403"):
        load_dataset("mnist", data_dir=tmp_path)


def test_a_download_is_read_where_it_was_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard, "reachable", lambda url: True)
    monkeypatch.setattr(standard, "_download", lambda source, root: fake_mnist(root))
    assert len(load_dataset("mnist", data_dir=tmp_path / "new").test) == 50


def test_grey_images_as_rgb() -> None:
    grey, rgb = load_dataset("digits"), load_dataset("digits", rgb=True)
    assert rgb.input_size == (3, 8, 8)
    assert torch.equal(rgb.images, grey.images)  # kept once
    ours, theirs = (next(Resident(one, one.test).ordered(20))[0] for one in (rgb, grey))
    assert ours.shape == (20, 3, 8, 8)
    assert all(torch.equal(ours[:, channel], theirs[:, 0]) for channel in range(3))
    assert (rgb.mean, rgb.std) == (grey.mean * 3, grey.std * 3)
    assert rgb.fingerprint != grey.fingerprint
    assert rgb.notes[-1] == "grey images are read as RGB: three equal channels"
    assert as_rgb(rgb) is rgb
    two = replace(grey, images=grey.images.repeat(1, 2, 1, 1))
    with pytest.raises(DataError, match="these have 2 channels"):
        as_rgb(two)
