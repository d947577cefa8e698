"""Example inputs of every structure: what becomes an argument, how many images there are, and the same for more."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reborn_nas as rn
from reborn_nas.backbone.trace.inputs import arguments, images_in, moved, resized
from reborn_nas.backbone.trace.replica import tensors_in
from reborn_nas.errors import ConversionError

FLAT, LINE, SOLID = nn.Conv2d(3, 4, 3), nn.Conv1d(3, 4, 3), nn.Conv3d(3, 4, 3)
Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Record:
    """Images with what belongs to them."""

    image: Tensor
    scale: float


class Images:
    """Images in an object with attributes, as torchvision's `ImageList` holds them."""

    def __init__(self, tensors: Tensor) -> None:
        self.tensors = tensors


class Slots:
    """Images in an object without a `__dict__`."""

    __slots__ = ("scale", "tensors")

    def __init__(self, tensors: Tensor) -> None:
        self.tensors, self.scale = tensors, 2


def image(*sizes: int) -> Tensor:
    """Zeros."""
    return torch.zeros(sizes)


def shapes(tree: Any) -> list[tuple[int, ...]]:
    """The shape of each tensor."""
    return [tuple(tensor.shape) for tensor in tensors_in(tree)]


def test_a_tuple_is_positional_a_dict_is_keywords_and_anything_else_is_one_argument() -> None:
    x = image(1, 3, 8, 8)
    assert arguments((x, 2)) == ((x, 2), {})
    assert arguments({"x": x}) == ((), {"x": x})
    for one in (x, [x, x], Pair(x, x), Record(x, 1.0)):
        args, kwargs = arguments(one)
        assert args[0] is one
        assert (len(args), kwargs) == (1, {})
    args, kwargs = arguments(({"x": x},))
    assert list(args[0]) == ["x"]
    assert kwargs == {}


def target(count: int, height: int, width: int) -> dict[str, Tensor]:
    """What torchvision's detection networks train on."""
    return {
        "boxes": image(count, 4),
        "labels": torch.ones(count, dtype=torch.int64),
        "masks": torch.zeros(count, height, width, dtype=torch.uint8),
    }


CASES: dict[str, tuple[nn.Module, Any, int, list[tuple[int, ...]]]] = {
    "a batch": (FLAT, image(2, 3, 16, 24), 2, [(3, 3, 32, 48)]),
    "a large batch": (FLAT, image(2, 3, 64, 80), 2, [(3, 3, 96, 112)]),
    "channels last": (FLAT, image(2, 16, 24, 3), 2, [(3, 32, 48, 3)]),
    "two images": (FLAT, (image(2, 3, 16, 24), image(2, 3, 16, 24)), 2, [(3, 3, 32, 48)] * 2),
    "a pyramid": (FLAT, [image(2, 3, 16, 24), image(2, 3, 8, 12)], 2, [(3, 3, 32, 48), (3, 3, 16, 24)]),
    "a mask of labels": (
        FLAT,
        {"x": image(4, 3, 16, 24), "mask": image(4, 16, 24), "y": image(4), "n": 4},
        4,
        [(5, 3, 32, 48), (5, 32, 48), (5,)],
    ),
    "a list of images": (
        FLAT,
        [image(3, 16, 24), image(3, 8, 8)],
        2,
        [(3, 32, 48), (3, 16, 16), (3, 32, 48)],
    ),
    "with targets": (
        FLAT,
        ([image(3, 16, 24)], [target(2, 16, 24)]),
        1,
        [(3, 32, 48), (3, 32, 48), *[(2, 4), (2,), (2, 32, 48)] * 2],
    ),
    "mappings of one image": (FLAT, [{"id": 7, "image": image(3, 8, 8)}], 1, [(3, 16, 16)] * 2),
    "a batch with a list of targets": (
        FLAT,
        (image(2, 3, 8, 8), [{"labels": image(3)}, {"labels": image(5)}]),
        2,
        [(3, 3, 16, 16), (3,), (5,), (3,)],
    ),
    "a dataclass": (FLAT, Record(image(2, 3, 8, 8), 1.0), 2, [(3, 3, 16, 16)]),
    "an object": (FLAT, Images(image(2, 3, 8, 8)), 2, [(3, 3, 16, 16)]),
    "an object with slots": (FLAT, Slots(image(2, 3, 8, 8)), 2, [(3, 3, 16, 16)]),
    "a named tuple": (FLAT, Pair(image(2, 3, 8, 8), 1), 2, [(3, 3, 16, 16)]),
    "signals": (LINE, image(2, 3, 100), 2, [(3, 3, 132)]),
    "points": (LINE, image(2, 10, 3), 2, [(3, 20, 3)]),
    "waves": (nn.Conv1d(1, 4, 3), image(2, 100), 2, [(3, 132)]),
    "frame by frame": (FLAT, image(2, 5, 3, 16, 24), 2, [(3, 5, 3, 32, 48)]),
    "videos": (SOLID, image(2, 3, 4, 64, 64), 2, [(3, 3, 8, 96, 96)]),
    "scalars on a map": (FLAT, (image(2, 3, 8, 8), image(2, 3, 1, 1)), 2, [(3, 3, 16, 16), (3, 3, 1, 1)]),
    "rows": (nn.Linear(3, 4), image(2, 3), 2, [(3, 6)]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_inputs_for_more_and_larger_images(name: str) -> None:
    model, inputs, images, expected = CASES[name]
    before = shapes(inputs)
    assert images_in(model, inputs) == images
    assert shapes(resized(model, inputs)) == expected
    assert shapes(resized(model, inputs, images=0, pixels=0)) == before == shapes(inputs)
    assert type(resized(model, inputs)) is type(inputs)


def test_what_is_no_tensor_stays_and_labels_stay_labels() -> None:
    inputs = [{"image": image(3, 8, 8), "id": "a", "mask": torch.arange(64).reshape(8, 8) % 3}]
    grown = resized(FLAT, inputs)
    assert [item["id"] for item in grown] == ["a", "a"]
    assert set(grown[1]["mask"].unique().tolist()) == {0, 1, 2}


def test_one_image_without_a_batch_can_only_change_its_size() -> None:
    assert images_in(FLAT, image(3, 8, 8)) == 1
    assert shapes(resized(FLAT, image(3, 8, 8), images=0)) == [(3, 16, 16)]
    with pytest.raises(ConversionError, match="without a batch dimension"):
        resized(FLAT, image(3, 8, 8))
    with pytest.raises(ConversionError, match="no other size"):
        resized(nn.Linear(3, 4), image(2))


@pytest.mark.parametrize(
    ("model", "size"), [(LINE, r"\(3, length\)"), (SOLID, r"\(3, depth, height, width\)")]
)
def test_signals_and_volumes_have_no_usual_size(model: nn.Module, size: str) -> None:
    with pytest.raises(ConversionError, match=f"give input_size={size}"):
        rn.find_sites(nn.Sequential(model, nn.ReLU()))


class Asks(nn.Module):
    """Wants a key that a mapping may lack."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["image"].relu()


def test_an_error_without_words_of_its_own_is_named() -> None:
    with pytest.raises(ConversionError, match="KeyError: 'image'"):
        rn.find_sites(Asks(), example_inputs=({"picture": image(1, 3, 8, 8)},))


def test_moved_inputs_are_copies() -> None:
    x, mapping = torch.ones(1, 3, 4, 4), OrderedDict(a=torch.ones(2))
    copied = moved((x, mapping, "text"), "cpu")
    copied[0].zero_()
    copied[1]["a"].zero_()
    assert float(x.sum()) == 48
    assert float(mapping["a"].sum()) == 2
    assert isinstance(copied[1], OrderedDict)
    assert copied[2] == "text"
    assert all(tensor.is_meta for tensor in tensors_in(moved((x, mapping), "meta")))


class Listed(nn.Module):
    """Takes images of any sizes in a list and an option by keyword; answers in a dict of an object."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)

    def forward(self, images: list[Tensor], *, scale: float = 1.0) -> dict[str, Any]:
        size = [max(x.shape[dim] for x in images) for dim in (1, 2)]
        batch = torch.stack([F.pad(x, (0, size[1] - x.shape[2], 0, size[0] - x.shape[1])) for x in images])
        return {"maps": [Images(x) for x in self.head(self.act(self.conv(batch * scale)))], "scale": scale}


def test_a_list_of_images_of_different_sizes_is_one_argument() -> None:
    inputs = [image(3, 8, 8), image(3, 12, 10)]
    assert [site.name for site in rn.find_sites(Listed(), example_inputs=inputs)] == ["act"]
    new = rn.convert(Listed(), "reborn", example_inputs={"images": inputs, "scale": 2.0})
    assert isinstance(new(inputs)["maps"][1], Images)
    assert isinstance(new.get_submodule("act"), type(rn.build_activation("reborn", 4)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"example_inputs": {0: image(1, 3, 8, 8)}}, r"keyword arguments.*\[0\]"),
        ({"example_inputs": [3, "x"]}, "at least one tensor"),
        ({"example_inputs": image(1, 3, 8, 8), "input_size": (3, 8, 8)}, "not both"),
        ({"example_inputs": {"picture": image(1, 3, 8, 8)}}, "unexpected keyword argument 'picture'"),
        ({"example_inputs": (image(1, 3, 8, 8), 1)}, "takes 2 positional arguments but 3 were given"),
        ({"example_inputs": image(1, 5, 8, 8)}, r"called with \(1, 5, 8, 8\).*5 channels"),
        ({"example_inputs": [image(3, 8, 8)] * 2}, r"called with \[\(3, 8, 8\), .*several go into a tuple"),
        (
            {"example_inputs": {"input": image(1, 5, 8, 8), "n": [{"y": 2}]}},
            r"called with input=\(1, 5, 8, 8\), n=\[\{'y': 2\}\]",
        ),
    ],
)
def test_inputs_that_the_network_does_not_take_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        rn.find_sites(nn.Sequential(FLAT, nn.ReLU()), **given)
