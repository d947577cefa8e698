"""From two trained networks of a run to what their sites see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from reborn_nas.architecture import Architecture
from reborn_nas.errors import StudyError
from reborn_nas.faults import blame_machine
from reborn_nas.records import TrialRecord
from reborn_nas.report.probe.features import Probe, Sight, probed, see

MOST_SITES_WITH_MAPS = 3

Kept = tuple[TrialRecord, Path]
"""A training and its weights (safetensors); beside them, as `.example`, a batch of its images."""


def watch(
    parent: Kept,
    candidate: Kept,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    *,
    images: Tensor | None = None,
    sites: Sequence[str] | None = None,
    shown: int = 2,
    channels: int = 3,
) -> tuple[Sight, ...]:
    """What the sites of a trained parent and a trained candidate see, over the images kept beside the parent's weights.

    Args:
        mean, std: turn the images back into pictures.
        images: in place of the kept ones, (B, C, H, W), normalised as for training.
        sites: those whose maps are kept; without them the first reborn ones.
        shown, channels: of how many images, and how many maps of each.

    Raises:
        StudyError: weights or images that cannot be read, or do not fit the network; sites that it lacks.
    """
    from safetensors.torch import load_file

    try:
        if images is None:
            images = load_file(parent[1].with_suffix(".example"))["input"]
        first, _ = _network(parent)
        second, placements = _network(candidate)
        watched, probes = probed(first, tuple(images.shape[1:]))
        reborn = [p for p in placements if getattr(p, "choice", "").startswith("reborn")]
        known = [probe.site for probe in probes]
        chosen = [probe.site for probe in reborn if probe.site in known][:MOST_SITES_WITH_MAPS]
        if sites is not None:
            absent = [site for site in sites if site not in known]
            if absent:
                raise StudyError(f"no site {', '.join(absent)}; it has {', '.join(known)}")
            chosen = list(sites)
        return see(
            watched, second, images, probes, reborn, shown=shown, channels=channels, panels_at=chosen,
            thumbnails=pictures(images, mean, std),
        )  # fmt: skip
    except Exception as error:  # a broken file, or a network of somebody else that raises what it likes
        blame_machine(error, parent[1].parent)
        raise StudyError(
            f"the trained networks beside {parent[1]} and {candidate[1]} cannot be looked into: {error}"
        ) from error


def pictures(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor | None:
    """Normalised images (B, C, H, W) as uint8; None where they have neither one nor three channels."""
    channels = images.shape[1]
    if channels not in (1, 3):
        return None
    shape = (1, channels, 1, 1)
    if len(mean) == len(std) == channels:
        images = images * torch.tensor(list(std)).view(shape) + torch.tensor(list(mean)).view(shape)
    else:
        low = images.amin((1, 2, 3), keepdim=True)
        images = (images - low) / (images.amax((1, 2, 3), keepdim=True) - low).clamp_min(1e-6)
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


def _network(kept: Kept) -> tuple[nn.Module, tuple[Probe, ...]]:
    """The trained network of a record, and where its replaced activations are."""
    from safetensors.torch import load_file

    from reborn_nas.backbone import apply, build, plan

    architecture = Architecture.from_dict(kept[0].architecture)
    model = build(architecture.backbone, device="cpu")
    placements: tuple[Probe, ...] = ()
    if architecture.choices:
        conversion = plan(model, architecture, architecture.backbone.input_size)
        model = apply(model, conversion)
        placements = conversion.placements
    model.load_state_dict(load_file(kept[1]))
    return model.eval(), placements
