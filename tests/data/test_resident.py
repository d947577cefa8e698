"""Batches on the device: normalised, complete, reproducible, and the same when streamed."""

from __future__ import annotations

import pytest
import torch

import reborn_nas.data.resident as resident
from reborn_nas.data import Augmentation, ImageSet, Resident, load_dataset
from reborn_nas.data.images import assemble
from reborn_nas.data.parts import plan_parts


@pytest.fixture(scope="module")
def colours() -> ImageSet:
    """120 random colour images of 3 classes."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (120, 3, 10, 12), generator=draws, dtype=torch.uint8)
    labels = torch.arange(120) % 3
    parts = plan_parts(labels, "abc", name="toy", train=torch.arange(120))
    return assemble("toy", lambda kept: pixels[kept], labels, "abc", parts, Augmentation(2, True))


def test_ordered_batches_are_the_normalised_images(colours: ImageSet) -> None:
    indices = torch.tensor([5, 3, 99, 0, 7])
    batches = list(Resident(colours, indices).ordered(2))
    assert [len(y) for _, y in batches] == [2, 2, 1]
    got = torch.cat([x for x, _ in batches])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (colours.mean, colours.std))
    torch.testing.assert_close(
        got, (colours.images[indices].float() / 255 - mean) / std, atol=1e-5, rtol=1e-5
    )
    assert torch.equal(torch.cat([y for _, y in batches]), colours.labels[indices])


def test_the_pool_is_standardised(colours: ImageSet) -> None:
    pool = torch.cat([x for x, _ in Resident(colours, colours.pool).ordered(16)])
    torch.testing.assert_close(pool.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(pool.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_an_epoch_shows_every_image_once_in_a_new_order() -> None:
    digits = load_dataset("digits")
    rows = digits.pool[:100]
    part = Resident(digits, rows)
    whole = next(part.ordered(100))[0]

    def order(epoch: int, seed: int = 0) -> list[int]:
        shown = torch.cat([x for x, _ in part.epoch([30, 30, 40], seed=seed, epoch=epoch)])
        same = (shown[:, None] == whole[None]).flatten(2).all(2)
        assert same.any(1).all()
        return [int(k) for k in same.int().argmax(1)]

    first = order(0)
    assert sorted(first) == list(range(100))
    assert first == order(0)
    assert first != order(1)
    assert first != order(0, seed=1)


def test_labels_stay_with_their_images(colours: ImageSet) -> None:
    part = Resident(colours, colours.pool, augmentation=Augmentation())
    whole, labels = next(part.ordered(200))
    for pictures, own in part.epoch([20, 20], seed=0, epoch=0):
        same = (pictures[:, None] == whole[None]).flatten(2).all(2)
        assert torch.equal(labels[same.int().argmax(1)], own)


def test_shorter_epochs_leave_images_out(colours: ImageSet) -> None:
    batches = list(Resident(colours, colours.pool).epoch([16, 16], seed=0, epoch=0))
    assert [len(y) for _, y in batches] == [16, 16]


@pytest.mark.parametrize("chunk", [1, 700, 1 << 20])
@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(2, True)])
def test_streaming_and_chunks_change_nothing(
    colours: ImageSet, augmentation: Augmentation, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches(streamed: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
        part = Resident(colours, colours.pool, augmentation=augmentation, streamed=streamed)
        return [*part.epoch([16, 16, 9], seed=4, epoch=2), *part.ordered(16)]

    usual = batches(False)
    monkeypatch.setitem(resident.CHUNK_BYTES, "cpu", chunk * 4 * 3 * 10 * 12)
    for streamed in (False, True):
        got = batches(streamed)
        assert len(got) == len(usual)
        for (x, y), (p, q) in zip(got, usual, strict=True):
            assert torch.equal(x, p)
            assert torch.equal(y, q)


def test_black_padding_is_black_after_normalising(colours: ImageSet) -> None:
    part = Resident(colours, colours.pool, augmentation=Augmentation(40))  # nearly everything is padding
    pictures = torch.cat([x for x, _ in part.epoch([40], seed=0, epoch=0)])
    black = -torch.tensor(colours.mean) / torch.tensor(colours.std)
    values = pictures.permute(1, 0, 2, 3).flatten(1)
    for channel in range(3):
        assert float(values[channel].median()) == pytest.approx(float(black[channel]), abs=1e-6)


def test_the_set_is_placed_once_for_all_parts(colours: ImageSet) -> None:
    one, two = Resident(colours, colours.pool), Resident(colours, colours.test)
    assert one._source.data_ptr() == two._source.data_ptr()


def test_channels_last_batches(colours: ImageSet) -> None:
    batch, _ = next(Resident(colours, colours.pool, channels_last=True).ordered(8))
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_a_set_larger_than_its_share_of_the_device_streams(
    colours: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_needed = colours.images.numel()
    for free, expected in ((bytes_needed * 2 + 2, False), (bytes_needed * 2 - 2, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * free))
        assert resident._too_large(colours, torch.device("cuda", 0)) is expected
    assert resident._too_large(colours, torch.device("cpu")) is False
