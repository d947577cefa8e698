"""Resized crops, policies and erasing against torchvision and timm, and that they depend on their seeds alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import v2

from reborn_nas.data import Augmentation, Resident
from reborn_nas.data.augment.draws import Draws
from reborn_nas.data.augment.erasing import draw_boxes, erase
from reborn_nas.data.augment.policies import apply_policy, make_policy
from reborn_nas.data.augment.resized import Rectangles, _at_once, draw_places, resized_crop
from reborn_nas.errors import ConfigError
from reborn_nas.training.recipe.recipe import Recipe
from tests.training.toys import squares

MEAN = (0.5, 0.4, 0.3)


def pictures(count: int = 30, channels: int = 3, size: tuple[int, int] = (20, 26)) -> torch.Tensor:
    """Smooth, with every level."""
    draws = torch.Generator().manual_seed(0)
    small = torch.rand(count, channels, 5, 6, generator=draws)
    large = torch.nn.functional.interpolate(small, size=size, mode="bicubic") * 300 - 20
    return large.clamp(0, 255).to(torch.uint8)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_resized_crop_is_torchvisions(channels: int) -> None:
    images = pictures(channels=channels)
    places = draw_places(30, (20, 26), (0.08, 1.0), (3 / 4, 4 / 3), stream(1))
    mirror, upside = (torch.randint(2, (30,), generator=stream(k)).bool() for k in (2, 3))
    rows = torch.randperm(30, generator=stream(4))
    got = resized_crop(images, rows, Rectangles(places, mirror, upside))
    for k in range(30):
        top, left, h, w = places[k].tolist()
        expected = v2.functional.resized_crop(images[rows[k]], top, left, h, w, [20, 26], antialias=True)
        expected = v2.functional.horizontal_flip(expected) if mirror[k] else expected
        expected = v2.functional.vertical_flip(expected) if upside[k] else expected
        assert torch.equal(got[k], expected), k
    # as on a GPU
    assert (
        int(
            (_at_once(images, rows, Rectangles(places, mirror, upside), (20, 26)).int() - got.int())
            .abs()
            .max()
        )
        <= 1
    )


def test_rectangles_follow_torchvisions_law() -> None:
    count, size, scale, ratio = 4000, (24, 40), (0.1, 0.8), (0.5, 1.5)
    places = draw_places(count, size, scale, ratio, stream(1)).numpy()
    image = torch.zeros(1, *size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array(
            [v2.RandomResizedCrop.make_params(crop(scale, ratio), [image]) for _ in range(count)]
        )
    for column, name in enumerate(("top", "left", "height", "width")):
        found = stats.ks_2samp(places[:, column], [int(one[name]) for one in theirs])
        assert found.pvalue > 1e-3, name
    assert (places[:, 0] + places[:, 2] <= 24).all()
    assert (places[:, 1] + places[:, 3] <= 40).all()


def crop(scale: tuple[float, float], ratio: tuple[float, float]) -> v2.RandomResizedCrop:
    return v2.RandomResizedCrop(8, scale=scale, ratio=ratio)


def test_a_rectangle_that_never_fits_is_the_central_one() -> None:
    assert draw_places(2, (10, 40), (1, 1), (1.0, 1.0), stream(0)).tolist() == [[0, 15, 10, 10]] * 2
    assert draw_places(1, (40, 10), (1, 1), (1.0, 1.0), stream(0)).tolist() == [[15, 0, 10, 10]]


POLICIES: dict[str, Any] = {
    "randaugment": v2.RandAugment,
    "trivialaugment": v2.TrivialAugmentWide,
    "autoaugment": v2.AutoAugment,
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_is_torchvisions_image_by_image(name: str, channels: int) -> None:
    images = pictures(channels=channels)
    policy = make_policy(Augmentation(aa=name), (20, 26), MEAN[:channels])
    got = images.clone()
    seeds = torch.arange(30) + 100
    apply_policy(got, seeds, policy)
    with torch.random.fork_rng():
        for k, image in enumerate(images):
            torch.manual_seed(100 + k)
            picture = Image.fromarray(image[0].numpy() if channels == 1 else image.permute(1, 2, 0).numpy())
            expected = np.asarray(POLICIES[name]()(picture)).reshape(20, 26, channels)
            assert np.array_equal(got[k].permute(1, 2, 0).numpy(), expected), k
    assert len({tuple(image.flatten().tolist()) for image in got}) > 20


@pytest.mark.parametrize(
    "name", ["rand-m6-mstd0.5-inc1", "rand-m9-n3", "original", "v0r", "3a", "augmix-m5-w2-d2"]
)
def test_a_policy_of_timms(name: str) -> None:
    """What timm's own transform gives after the same seeds."""
    from timm.data.transforms_factory import transforms_imagenet_train

    images = pictures(12, size=(24, 24))
    got = images.clone()
    apply_policy(got, torch.arange(12) + 50, make_policy(Augmentation(aa=name), (24, 24), MEAN))
    _, theirs, _ = transforms_imagenet_train(
        24, auto_augment=name, color_jitter=None, mean=MEAN, separate=True
    )
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    compared = 0
    for k, image in enumerate(images):
        random.seed(50 + k)
        np.random.seed(50 + k)  # noqa: NPY002
        try:
            expected = np.asarray(theirs(Image.fromarray(image.permute(1, 2, 0).numpy())))
        except ValueError as error:  # Pillow 12 refuses timm's 0 bits
            if "bits" not in str(error):
                raise
            continue
        compared += 1
        assert np.array_equal(got[k].permute(1, 2, 0).numpy(), expected), k
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    assert compared > 6


def test_nothing_left_of_a_channel_is_black() -> None:
    """timm's largest posterising keeps 0 bits."""
    from timm.data import auto_augment

    policy: Any = make_policy(Augmentation(aa="rand-m10-inc1"), (24, 24), MEAN)
    (ops,) = (cell.cell_contents[0].ops for cell in policy.__closure__)
    op = next(op for op in ops if op.name == "PosterizeIncreasing")
    assert op.aug_fn.__module__ != auto_augment.__name__
    assert not np.asarray(op.aug_fn(Image.new("RGB", (4, 4), (200, 100, 7)), 0)).any()


def test_colour_jitter_is_torchvisions() -> None:
    images = pictures(8)
    got = images.clone()
    jitter = Augmentation(color_jitter=(0.4, 0.3, 0.2, 0.1), color_jitter_prob=0.5)
    apply_policy(got, torch.arange(8), make_policy(jitter, (20, 26), MEAN))
    theirs = v2.RandomApply([v2.ColorJitter(0.4, 0.3, 0.2, 0.1)], p=0.5)
    with torch.random.fork_rng():
        for k, image in enumerate(images):
            torch.manual_seed(k)
            expected = np.asarray(theirs(Image.fromarray(image.permute(1, 2, 0).numpy())))
            assert np.array_equal(got[k].permute(1, 2, 0).numpy(), expected)
    changed = [not torch.equal(one, other) for one, other in zip(got, images, strict=True)]
    assert 0 < sum(changed) < 8


def test_a_policy_leaves_the_global_generators_alone() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    images = pictures(4)
    apply_policy(images, torch.arange(4), make_policy(Augmentation(aa="augmix-m5"), (20, 26), MEAN))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_erased_rectangles_follow_timms_law() -> None:
    """Area and place against timm's own, drawn by Python's generator."""
    from timm.data.random_erasing import RandomErasing

    boxes = draw_boxes(3000, (32, 24), 0.6, 1, stream(0))[:, 0]
    hit = boxes[:, 2] > 0
    assert float(hit.float().mean()) == pytest.approx(0.6, abs=0.03)
    theirs = RandomErasing(1.0, mode="const", device="cpu")
    state = random.getstate()
    random.seed(1)
    image = torch.ones(1, 32, 24)
    areas, tops = [], []
    for _ in range(2000):
        erased = (theirs(image.clone())[0] == 0).nonzero()
        areas.append(len(erased))
        tops.append(int(erased[:, 0].min()))
    random.setstate(state)
    assert stats.ks_2samp((boxes[:, 2] * boxes[:, 3])[hit].numpy(), areas).pvalue > 1e-3
    assert stats.ks_2samp(boxes[hit, 0].numpy(), tops).pvalue > 1e-3


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_what_is_erased(mode: str) -> None:
    images = torch.full((3, 2, 16, 16), 7.0)
    boxes = torch.tensor(
        [[[2, 3, 5, 6], [0, 0, 0, 4]], [[0, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 16, 15], [1, 1, 2, 2]]]
    )
    erase(images, boxes, mode, stream(0))
    untouched = images == 7
    assert untouched[1].all()
    assert int((~untouched[0]).sum()) == 2 * 5 * 6
    assert not untouched[0, :, 2:7, 3:9].any()
    inside = images[0, :, 2:7, 3:9]
    if mode == "const":
        assert not inside.any()
    else:
        assert len(inside[0].unique()) == (1 if mode == "rand" else 30)
        assert float(images[2, :, 3:, :15].std()) < 2


FULL = Augmentation(
    scale=(0.3, 1.0), hflip=0.3, vflip=0.2, aa="rand-m9-mstd0.5-inc1", color_jitter=(0.2,) * 3, reprob=0.5,
    remode="pixel", recount=2,
)  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 16, 1000])
@pytest.mark.parametrize("streamed", [False, True])
def test_neither_chunks_nor_streams_nor_threads_change_an_image(chunk: int, streamed: bool) -> None:
    images = squares(60, side=12)
    expected = list(Resident(images, images.pool, augmentation=FULL).epoch([20, 18], seed=1, epoch=3))
    other = Resident(images, images.pool, augmentation=FULL, streamed=streamed)
    other._chunk = chunk
    threads = torch.get_num_threads()
    torch.set_num_threads(1 + threads)
    try:
        got = list(other.epoch([20, 18], seed=1, epoch=3))
    finally:
        torch.set_num_threads(threads)
    for (one, labels), (two, same) in zip(expected, got, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(labels, same)
    again = list(other.epoch([20, 18], seed=1, epoch=4))
    assert not torch.equal(again[0][0], got[0][0])


def test_switching_one_on_leaves_the_others_as_they_were() -> None:
    plain = Draws(40, Augmentation(2, True), (12, 12), (0.5,), seed=1, epoch=0)
    more = Draws(40, Augmentation(2, True, vflip=1.0, reprob=1.0), (12, 12), (0.5,), seed=1, epoch=0)
    source = pictures(40, 1, (12, 12))
    rows, here = torch.arange(40), slice(0, 40)
    assert torch.equal(more.pixels(source, rows, here), plain.pixels(source, rows, here).flip(2))


def test_probabilities_of_flips() -> None:
    draws = Draws(20_000, Augmentation(hflip=0.2, vflip=0.9), (4, 4), (0.5,), seed=0, epoch=0)
    assert draws._offsets is not None
    assert draws._upside is not None
    assert float(draws._offsets.mirror.float().mean()) == pytest.approx(0.2, abs=0.012)
    assert float(draws._upside.float().mean()) == pytest.approx(0.9, abs=0.009)
    fair = Draws(20_000, Augmentation(hflip=0.5), (4, 4), (0.5,), seed=0, epoch=0)
    same = Draws(20_000, Augmentation(flip=True), (4, 4), (0.5,), seed=0, epoch=0)
    assert torch.equal(fair._offsets.mirror, same._offsets.mirror)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"aa": "randaugmnt"}, "did you mean randaugment"),
        ({"aa": "rand-m9-zz1"}, "is not a policy that timm can read"),
        ({"scale": [0.5, 0.2]}, "two shares of the area"),
        ({"scale": 0.5}, "two shares of the area"),
        ({"hflip": 1.5}, r"probability in \[0, 1\]"),
        ({"ratio": [0.5, 2]}, "with scale only"),
        ({"color_jitter": [1, 1, 1, 0.7]}, "the last at most 0.5"),
        ({"remode": "pixel"}, "with reprob only"),
        ({"reprob": True}, r"probability in \[0, 1\]"),
        ([1], "a map from names to values"),
    ],
)
def test_what_is_refused(augment: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe(augment=augment)


def test_contradictions() -> None:
    with pytest.raises(ConfigError, match="two kinds of random crop"):
        Recipe(crop_padding=2, augment={"scale": [0.5, 1]})
    with pytest.raises(ConfigError, match="mirror the same way"):
        Recipe(flip=True, augment={"hflip": 0.5})
