"""Inputs of a network: the caller's example, or meta tensors of a given size.

`example_inputs` follows `torch.export` and `torch.onnx`: a tuple holds positional arguments and a dict keyword
arguments; anything else (a tensor, a list of images, a dataclass) is the only argument of the forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reborn_nas.backbone.trace.replica import rebuilt, replace_tensors, tensors_in
from reborn_nas.errors import ConversionError


def inputs_of(model: nn.Module, input_size: Any = None, example_inputs: Any = None) -> Any:
    """`example_inputs` if given, else meta tensors of a batch of two images of `input_size`.

    Args:
        input_size: (C, H, W) of one image, or one such per input; by default the model's own (timm), else 224×224
            pixels. (C, L) of a signal and (C, D, H, W) of a volume are also sizes.
        example_inputs: a tuple of positional arguments, a dict of keyword arguments, or a single argument.

    Raises:
        ConversionError: `model` is not a model, `input_size` is not a size, the examples hold no tensor, or both are
            given.
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(
            f"a network is an nn.Module, not {_shown(model)}; build it first, as in timm.create_model('resnet18')"
        )
    if example_inputs is not None:
        if input_size is not None:
            raise ConversionError(
                "give input_size or example_inputs, not both: the examples have their sizes"
            )
        return _checked(example_inputs)
    if input_size is None:
        config = getattr(model, "default_cfg", None) or {}
        input_size = config.get("input_size") if isinstance(config, Mapping) else None
    if input_size is None:
        input_size = _usual_size(model)
    dtypes = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    dtype = next(dtypes, torch.float32)
    return tuple(torch.empty((2, *size), dtype=dtype, device="meta") for size in _sizes(input_size))


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments in `inputs`."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple) and not hasattr(inputs, "_fields"):
        return inputs, {}
    return (inputs,), {}


def call_text(inputs: Any) -> str:
    """The arguments of a call as text, with the shape of each tensor: `(2, 3, 8, 8), scale=2`."""
    args, kwargs = arguments(inputs)
    text = ", ".join([*map(_text, args), *(f"{name}={_text(item)}" for name, item in kwargs.items())])
    return text if len(text) <= 200 else f"{text[:197]}…"


def _text(item: Any) -> str:
    if isinstance(item, Tensor):
        return str(tuple(item.shape))
    if isinstance(item, Mapping):
        return "{" + ", ".join(f"{key!r}: {_text(value)}" for key, value in item.items()) + "}"
    if isinstance(item, list | tuple):
        return f"[{', '.join(map(_text, item))}]"
    return _shown(item)


def moved(inputs: Any, device: str) -> Any:
    """A copy of `inputs` with every tensor on `device`; meta tensors become zeros elsewhere."""

    def change(tensor: Tensor) -> Tensor:
        if device != "meta" and tensor.is_meta:
            return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
        # a copy: a forward may change its arguments in place
        return tensor.detach().to(device, copy=device != "meta")

    return replace_tensors(inputs, change)


def images_in(model: nn.Module, inputs: Any) -> int:
    """The number of images (or signals, or volumes) in a call with `inputs`."""
    return _Form(model, inputs).images or 1


def resized(model: nn.Module, inputs: Any, *, images: int = 1, pixels: int = 32) -> Any:
    """The same inputs with `images` more images, each up to `pixels` larger in every spatial dimension.

    The structure, dtypes, devices and everything that is not a tensor are kept. A dimension grows by `pixels`, or
    doubles if it is smaller: 16 frames become 32. Rows and pixels are repeated, so that labels remain labels and boxes
    lie within their images. Masks and targets grow with the images to which they belong. The caller must try whether
    the network accepts the result: a head for one size does not.

    Images are: tensors (B, C, …) with the spatial dimensions of one of the network's convolutions, or (B, T, C, …); or
    a list of images (C, …), or of mappings with one image each; or a single image (C, …); else rows (B, …), whose last
    dimension grows. Channels-last tensors are recognised by the input channels of the convolution.

    Args:
        model: the network, of which only the convolutions are considered.
        images, pixels: 0 keeps the number of images, or their size.

    Raises:
        ConversionError: `inputs` hold no images, or have no batch dimension.
    """
    form = _Form(model, inputs)
    if form.images is None and images:
        raise ConversionError(
            "the example inputs hold one image without a batch dimension, so there is no other batch size"
        )
    if not form.extents and pixels:
        raise ConversionError(
            "the example inputs hold no tensor with spatial dimensions, so there is no other size"
        )
    return form.grown(inputs, images, pixels)


class _Form:
    """Finds the images in a structure.

    Args:
        images: number of images; None for one image without a batch dimension.
        extents: the spatial size of each image, (H, W) in two dimensions, or of all images together if they share
            tensors.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.images: int | None = None
        self.extents: list[tuple[int, ...]] = []
        self._listed = False
        self._rank = self._channels = 0
        args, kwargs = arguments(inputs)
        tree = [*args, *kwargs.values()]
        for self._rank, self._channels in _convolutions(model):
            if self._find(tree):
                return
        self._rank = 0
        rows = next((tensor for tensor in tensors_in(tree) if tensor.dim()), None)
        if rows is not None:
            self.images = rows.shape[0]
            self.extents = [(rows.shape[-1],)] if rows.dim() > 1 else []

    def _find(self, tree: list[Any]) -> bool:
        """Whether `tree` holds images with the number of dimensions of a convolution."""
        batch = next(filter(self._is_batch, tensors_in(tree)), None)
        if batch is not None:
            self.images, self.extents = batch.shape[0], [self._sizes(batch)]
            return True
        lists = [each for item in tree for each in _lists(item)]
        found = next((each for each in lists if all(self._image(item) is not None for item in each)), None)
        images = [image for image in map(self._image, found or [tree]) if image is not None]
        if found is None:  # a single image has the convolution's input channels, rows do not
            images = [image for image in images if self._channels in (image.shape[0], image.shape[-1])]
        self._listed, self.images = found is not None, None if found is None else len(found)
        self.extents = [self._sizes(image) for image in images]
        return bool(images)

    def _is_batch(self, tensor: Tensor) -> bool:
        """(B, C, …), or (B, T, C, …) for a network that works frame by frame."""
        dims = tensor.dim() - self._rank
        return dims == 2 or (dims > 2 and tensor.shape[dims - 1] == self._channels)

    def _image(self, item: Any) -> Tensor | None:
        """The first image (C, …) in `item`."""
        return next((tensor for tensor in tensors_in(item) if tensor.dim() == self._rank + 1), None)

    def _sizes(self, tensor: Tensor) -> tuple[int, ...]:
        return tuple(tensor.shape[dim] for dim in self._places(tensor))

    def _places(self, tensor: Tensor) -> range:
        """The spatial dimensions of an image or a batch of them."""
        dim, rank = tensor.dim() - self._rank, tensor.dim()
        is_last = tensor.shape[dim - 1] != self._channels == tensor.shape[-1]
        return range(dim - 1, rank - 1) if is_last else range(dim, rank)

    def grown(self, tree: Any, images: int, pixels: int) -> Any:
        """A copy of `tree` with more and larger images."""
        if isinstance(tree, Tensor):
            return self._larger(tree, 0, images, pixels)
        if not (isinstance(tree, list) and len(tree) == self.images and self._is_of_images(tree)):
            return rebuilt(tree, lambda item: self.grown(item, images, pixels))
        return [self._grown_item(tree[n % len(tree)], n, pixels) for n in range(len(tree) + images)]

    def _grown_item(self, item: Any, place: int, pixels: int) -> Any:
        """A copy of an item that belongs to one image."""
        return replace_tensors(item, lambda tensor: self._larger(tensor, place, 0, pixels))

    def _is_of_images(self, items: list[Any]) -> bool:
        """Whether a list holds an item per image, rather than a pyramid of batches."""
        return self._listed or not any(
            tensor.dim() and tensor.shape[0] == self.images for tensor in tensors_in(items)
        )

    def _larger(self, tensor: Tensor, place: int, images: int, pixels: int) -> Tensor:
        rank = tensor.dim()
        extents = self.extents[place % len(self.extents)] if self.extents else ()
        apart = self._listed or self.images is None
        if self._rank and (rank == self._rank + 1 if apart else self._is_batch(tensor)):
            dims = self._places(tensor)  # an image of any size
        elif extents and rank >= len(extents) and tuple(tensor.shape[-len(extents) :]) == extents:
            dims = range(rank - len(extents), rank)  # a mask
        else:
            dims = range(0)
        more = {dim: min(pixels, tensor.shape[dim]) for dim in dims if tensor.shape[dim] > 1}
        if images and rank and tensor.shape[0] == self.images:
            more[0] = images
        for dim, count in more.items():
            size = tensor.shape[dim]
            tensor = tensor.index_select(dim, torch.arange(size + count, device=tensor.device) % max(size, 1))
        return tensor


def _usual_size(model: nn.Module) -> tuple[int, int, int]:
    """An image of 224×224 pixels. Raises ConversionError for networks of signals or volumes."""
    convolutions = dict(_convolutions(model))
    if not convolutions or 2 in convolutions:
        return convolutions.get(2, 3), 224, 224
    rank, channels = next(iter(convolutions.items()))
    size = {1: "length", 3: "depth, height, width"}.get(rank, "…")
    raise ConversionError(
        f"{type(model).__name__} has convolutions of {rank} dimension{'s' * (rank > 1)}, for which there is no usual "
        f"size; give input_size=({channels}, {size}) or example_inputs"
    )


def _convolutions(model: nn.Module) -> list[tuple[int, int]]:
    """(spatial dimensions, input channels) of the first convolution with each number of dimensions."""
    found: dict[int, int] = {}
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            found.setdefault(len(module.kernel_size), module.in_channels)
    return list(found.items())


def _lists(tree: Any) -> Iterator[list[Any]]:
    """The non-empty lists in `tree`, outer ones first."""
    if isinstance(tree, list) and tree:
        yield tree
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    for item in tree if isinstance(tree, list | tuple) else ():
        yield from _lists(item)


def _checked(example: Any) -> Any:
    """Return `example` if it holds a tensor."""
    if isinstance(example, Mapping) and not all(isinstance(key, str) for key in example):
        raise ConversionError(
            "example_inputs as a dict holds keyword arguments, whose names are strings; give a dict that is itself an "
            f"argument in a tuple, ({{…}},); its keys are {_shown(list(example))}"
        )
    if next(tensors_in(example), None) is None:
        raise ConversionError(
            "example_inputs is a tuple of arguments, a dict of keyword arguments or the one argument itself, with at "
            f"least one tensor in it, not {_shown(example)}"
        )
    return example


def _sizes(given: Any) -> list[tuple[int, ...]]:
    """One size per input."""
    if isinstance(given, Sequence) and given and not isinstance(given, str):
        sizes = [tuple(each) for each in given] if isinstance(given[0], tuple | list) else [tuple(given)]
        if all(size and all(_is_count(number) for number in size) for size in sizes):
            return sizes
    raise ConversionError(
        f"input_size is (channels, height, width) of one image in positive whole numbers, or a tuple of such, "
        f"one per input; not {_shown(given)}"
    )


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def numbered(inputs: Any, device: str) -> Any:
    """A copy of the inputs on a device; meta tensors are replaced by random numbers from a fixed seed."""
    generator = torch.Generator().manual_seed(7)

    def change(tensor: Tensor) -> Tensor:
        if device == "cpu" and tensor.is_meta:
            if tensor.is_floating_point():
                return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return tensor.detach().to(device, copy=device != "meta")

    return replace_tensors(inputs, change)


def shrunk(inputs: Any) -> Iterator[Any]:
    """The inputs with small images, then with larger ones, and finally unchanged."""
    largest = max((max(t.shape[2:]) for t in tensors_in(inputs) if t.ndim > 3), default=0)
    for side in (32, 64, 96, 128):
        if side < largest:

            def change(tensor: Tensor, side: int = side) -> Tensor:
                if tensor.ndim <= 3:
                    return tensor
                shape = [*tensor.shape[:2], *(max(1, side * size // largest) for size in tensor.shape[2:])]
                return torch.empty(shape, dtype=tensor.dtype, device="meta")

            yield replace_tensors(inputs, change)
    yield inputs
