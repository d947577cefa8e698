"""The networks of the second sweep, which are no image classifiers, each with example inputs small enough for a CPU."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, get_model, list_models, optical_flow, segmentation, video

SIZES = ((64, 64), (64, 80))  # of the images that a detection network gets


@dataclass(frozen=True)
class Network:
    """One network of the sweep.

    Args:
        name: library, family and model.
        make: builds it with fresh weights.
        inputs: makes its example inputs.
        on_meta: whether it is too much for a CPU, so that it is run on the meta device alone.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    on_meta: bool = False


def networks() -> Iterator[Network]:
    """All of torchvision's, then those of the other libraries that are installed."""
    yield from (_segmentation(name) for name in list_models(segmentation))
    yield from (_detection(name) for name in list_models(detection))
    yield from (_video(name) for name in list_models(video))
    yield from (_flow(name) for name in list_models(optical_flow))
    if _has("segmentation_models_pytorch"):
        yield from _smp()
    if _has("monai"):
        yield from _monai()


def left_out() -> list[str]:
    """The libraries that are not installed."""
    return [name for name in ("segmentation_models_pytorch", "monai") if not _has(name)]


def network(name: str) -> Network:
    """The one of this name."""
    return next(each for each in networks() if each.name == name)


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def drawn(*shape: int) -> Tensor:
    """Normal numbers, the same ones each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _torchvision(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return functools.partial(get_model, name, weights=None, **arguments)


def _segmentation(name: str) -> Network:
    arguments = {} if name.startswith("lraspp") else {"aux_loss": True}
    make = _torchvision(name, weights_backbone=None, num_classes=5, **arguments)
    return Network(f"torchvision.segmentation:{name}", make, lambda: drawn(2, 3, 64, 64))


def _detection(name: str) -> Network:
    small: dict[str, Any] = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 96}
    if "rcnn" in name:  # the thresholds let fresh weights detect something, the limits keep it quick
        small.update(box_score_thresh=0.0, box_detections_per_img=8, box_batch_size_per_image=32)
        small.update(rpn_post_nms_top_n_test=32, rpn_post_nms_top_n_train=64)
    else:
        small.update(score_thresh=0.0, detections_per_img=8, topk_candidates=32)
    make = _torchvision(name, weights_backbone=None, **small)
    if name.startswith("ssdlite"):
        make = functools.partial(_with_all_candidates, make)
    return Network(f"torchvision.detection:{name}", make, lambda: (images(), targets("keypoint" in name)))


def _with_all_candidates(make: Callable[[], nn.Module]) -> nn.Module:
    """Fresh weights score many boxes alike, and which of them are kept is up to rounding: all are returned."""

    def candidates(heads: dict[str, Tensor], *_: Any) -> list[dict[str, Tensor]]:
        pairs = zip(heads["bbox_regression"], heads["cls_logits"])
        return [{"boxes": boxes, "scores": scores} for boxes, scores in pairs]

    model: Any = make()
    model.postprocess_detections = candidates
    return model  # type: ignore[no-any-return]


def images() -> list[Tensor]:
    """Two of different sizes."""
    return [drawn(3, *size) for size in SIZES]


def targets(keypoints: bool) -> list[dict[str, Tensor]]:
    """Two objects in each image."""
    found = []
    for size in SIZES:
        target = {
            "boxes": torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 10.0, 60.0, 50.0]]),
            "labels": torch.tensor([1, 1 if keypoints else 2]),
            "masks": torch.ones(2, *size, dtype=torch.uint8),
        }
        if keypoints:
            target["keypoints"] = torch.tensor([[[10.0, 12.0, 1.0]] * 17, [[30.0, 32.0, 1.0]] * 17])
        found.append(target)
    return found


def _video(name: str) -> Network:
    side = 64 if name.startswith("swin3d") else 32
    shape = (2, 3, 4, side, side)
    if name == "s3d" or name.startswith("mvit"):  # for a last pooling of 7×7, for positions of one size
        shape = (1, 3, 16, 224, 224)
    device = "meta" if name.startswith("mvit") else "cpu"
    make = _torchvision(name, num_classes=10)
    return Network(
        f"torchvision.video:{name}", make, lambda: drawn(*shape).to(device), on_meta=device == "meta"
    )


def _flow(name: str) -> Network:
    def inputs() -> tuple[Tensor, Tensor, int]:
        pair = drawn(2, 2, 3, 128, 128)
        return pair[0], pair[1], 2

    return Network(f"torchvision.optical_flow:{name}", _torchvision(name), inputs)


def _smp() -> Iterator[Network]:
    import segmentation_models_pytorch as smp

    kinds = ("Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3Plus", "Linknet", "MAnet", "PAN")
    encoders = ("resnet18", "mobilenet_v2", "efficientnet-b0", "resnet34", "resnet18", "timm-regnetx_002")
    for kind, encoder in zip(kinds, (*encoders, "densenet121", "resnet50")):
        head = {"aux_params": {"classes": 4}} if kind in ("Unet", "FPN") else {}
        make = functools.partial(
            smp.create_model, kind, encoder_name=encoder, encoder_weights=None, classes=3, **head
        )
        side = 128 if kind == "PAN" else 64
        yield Network(
            f"segmentation_models_pytorch:{kind}-{encoder}", make, lambda side=side: drawn(2, 3, side, side)
        )


def _monai() -> Iterator[Network]:
    from monai.networks import nets

    small: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    steps = {"channels": (8, 16, 32), "strides": (2, 2)}
    made: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "UNet-3d": (functools.partial(nets.UNet, **small, **steps, num_res_units=2), (2, 1, 16, 16, 16)),
        "UNet-1d": (
            functools.partial(nets.UNet, **{**small, **steps, "spatial_dims": 1}, norm="batch"),
            (2, 1, 64),
        ),
        "BasicUNet-2d": (
            functools.partial(nets.BasicUNet, **{**small, "spatial_dims": 2}),
            (2, 1, 32, 32),
        ),
        "SegResNet-3d": (functools.partial(nets.SegResNet, **small, init_filters=8), (2, 1, 16, 16, 16)),
        "DynUNet-3d": (
            functools.partial(
                nets.DynUNet,
                **small,
                kernel_size=[3, 3, 3],
                strides=[1, 2, 2],
                upsample_kernel_size=[2, 2],
                filters=[8, 16, 32],
                deep_supervision=True,
                deep_supr_num=1,
            ),
            (2, 1, 16, 16, 16),
        ),
        "AttentionUnet-2d": (
            functools.partial(nets.AttentionUnet, **{**small, "spatial_dims": 2}, **steps),
            (2, 1, 32, 32),
        ),
        "VNet-3d": (functools.partial(nets.VNet, in_channels=1, out_channels=2), (2, 1, 32, 32, 32)),
        "DenseNet121-3d": (functools.partial(nets.DenseNet121, **small), (2, 1, 32, 32, 32)),
        "HighResNet-3d": (functools.partial(nets.HighResNet, **small), (2, 1, 16, 16, 16)),
    }
    for name, (make, shape) in made.items():
        yield Network(f"monai:{name}", make, lambda shape=shape: drawn(*shape))
