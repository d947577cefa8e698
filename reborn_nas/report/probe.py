"""Statistics of sites' inputs: energy discarded by ReLU, dead channels, feature maps before and after the block."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations.layout import convolve, to_channels_first
from reborn_nas.activations.phases import negative_part
from reborn_nas.activations.reborn import Reborn, deconvolve
from reborn_nas.architecture import Architecture, Choice
from reborn_nas.backbone import apply, build, find_sites, plan
from reborn_nas.errors import SiteError, StudyError, blame_machine
from reborn_nas.records import TrialRecord

_PLAIN = frozenset({"relu", "silu", "hardswish", "mish", "selu"})
"""Activations without parameters: they can be exchanged without other changes of the network."""


class Probe(Protocol):
    """The place of a site's module; a `Placement` of a plan is one."""

    @property
    def site(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def layout(self) -> str: ...


@dataclass(frozen=True)
class At:
    """A plain probe."""

    site: str
    path: str
    layout: str = "nchw"


@dataclass(frozen=True)
class Panel:
    """PNGs of an image and of the strongest channels' maps at a site.

    Args:
        image: the image, or b"".
        original: maps after the parent's activation.
        discarded: the same channels' negative phase, which ReLU sets to zero.
        reborn: maps after the block, its own strongest channels; empty if there is none.
        negative: the contribution of the negative path to those.
    """

    image: bytes
    original: tuple[bytes, ...]
    discarded: tuple[bytes, ...]
    reborn: tuple[bytes, ...] = ()
    negative: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class SiteFeatures:
    """Statistics of one site's input over a batch of images.

    Args:
        site: name of the site.
        lost_energy: Σ min(x, 0)² / Σ x² of the parent's pre-activation x: the share that ReLU discards.
        dead_channels: share of channels that are ≤ 0 at every place of every image.
        negative_share: Σ n² / (Σ p² + Σ n²), p and n the parts of the trained block's output from its
            positive and its negative path; NaN if there is no reborn block.
        images: number of images.
        panels: maps of chosen images.
    """

    site: str
    lost_energy: float
    dead_channels: float
    negative_share: float = math.nan
    images: int = 0
    panels: tuple[Panel, ...] = ()


@dataclass
class _Seen:
    """Sums over batches, and the maps of the first images."""

    total: float = 0.0
    lost: float = 0.0
    first: float = 0.0
    second: float = 0.0
    alive: Tensor | None = None
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def see(
    parent: nn.Module,
    reborn: nn.Module | None,
    images: Tensor,
    parent_probes: Sequence[Probe],
    reborn_probes: Sequence[Probe] = (),
    *,
    shown: int = 2,
    channels: int = 3,
    panels_at: Sequence[str] | None = None,
    thumbnails: Tensor | None = None,
    batch_size: int = 64,
) -> tuple[SiteFeatures, ...]:
    """Statistics and maps of every probed site. The models are run in eval mode, and their mode is restored.

    Args:
        parent, reborn: trained networks; without `reborn` the results that need it are omitted.
        images: (B, C, H, W), normalised as for training.
        parent_probes: places of the parent's sites, see `probed`.
        reborn_probes: a plan's placements.
        shown: number of images whose maps are kept, from the first.
        channels: number of maps per image, of the strongest channels.
        panels_at: sites that get maps; all if None.
        thumbnails: (≥ shown, 1 or 3, H, W) uint8, the images for display.
    """
    before = {probe.site: _Seen() for probe in parent_probes}
    after = {probe.site: _Seen() for probe in reborn_probes}
    wanted = set(before if panels_at is None else panels_at)
    room = {site: shown if site in wanted else 0 for site in (*before, *after)}
    with _watching(parent, parent_probes, lambda p, m, x: _look(before[p.site], x, p.layout, room[p.site])):
        _run(parent, images, batch_size)
    if reborn is not None:
        with _watching(reborn, reborn_probes, lambda p, m, x: _divide(after[p.site], m, x, room[p.site])):
            _run(reborn, images, batch_size)
    return tuple(
        SiteFeatures(
            site=site,
            lost_energy=seen.lost / seen.total if seen.total > 0 else math.nan,
            dead_channels=math.nan if seen.alive is None else float((~seen.alive).double().mean()),
            negative_share=_share(after.get(site)),
            images=len(images),
            panels=_panels(seen, after.get(site), channels, thumbnails),
        )
        for site, seen in before.items()
    )


def probed(model: nn.Module, input_size: Any) -> tuple[nn.Module, tuple[Probe, ...]]:
    """A copy of `model` in which every site that can be probed is a separate module, and the places of these.

    Shared and functional activations become modules; sites whose activation has parameters but is not a separate module
    are omitted.
    """
    sites = [site for site in find_sites(model, input_size) if not site.train_only]
    moved = {
        site.name: Choice(site.activation)
        for site in sites
        if site.kind != "module" and site.activation in _PLAIN and site.admits(Choice(site.activation))
    }
    placed: dict[str, Probe] = {
        site.name: At(site.name, site.path, site.layout)
        for site in sites
        if site.kind == "module" and site.path is not None
    }
    if moved:
        conversion = plan(model, Architecture("own:model", moved), input_size)
        model = apply(model, conversion)
        placed |= {
            placement.site: placement for placement in conversion.placements if placement.site in moved
        }
    return model, tuple(placed[site.name] for site in sites if site.name in placed)


@contextmanager
def _watching(
    model: nn.Module, probes: Sequence[Probe], look: Callable[[Probe, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Call `look(probe, module, input)` for every run of a probed module."""
    modules = dict(model.named_modules(remove_duplicate=False))
    missing = [probe.path for probe in probes if probe.path not in modules]
    if missing:
        raise SiteError(
            f"no module at {', '.join(missing[:5])}; probe the model that was converted by this plan"
        )
    handles = []
    for probe in probes:

        def hook(module: nn.Module, inputs: tuple[Any, ...], probe: Probe = probe) -> None:
            look(probe, module, inputs[0].detach())

        handles.append(modules[probe.path].register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _run(model: nn.Module, images: Tensor, batch_size: int) -> None:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for start in range(0, len(images), batch_size):
            model(images[start : start + batch_size])
    finally:
        for module, training in modes.items():
            module.training = training


def _look(seen: _Seen, x: Tensor, layout: str, room: int) -> None:
    """Add one batch of a pre-activation to the sums."""
    x = to_channels_first(x, layout).float() if layout != "nlc" else x.transpose(1, 2).unsqueeze(-1).float()
    lost = negative_part(x)
    seen.total += float(x.double().square().sum())
    seen.lost += float(lost.double().square().sum())
    alive = (x > 0).flatten(2).any(2).any(0)
    seen.alive = alive if seen.alive is None else seen.alive | alive
    _keep(seen, F.relu(x), lost, room)


def _divide(seen: _Seen, module: nn.Module, x: Tensor, room: int) -> None:
    """Add one batch of a block's output, split into its two paths."""
    if not isinstance(module, Reborn):
        return
    first, second = paths(module, x)
    seen.first += float(first.double().square().sum())
    seen.second += float(second.double().square().sum())
    _keep(seen, first + second, second, room)


def paths(block: Reborn, x: Tensor) -> tuple[Tensor, Tensor]:
    """The contributions of a block's positive and negative path to its output, (B, C', …) each; their sum is f(x)."""
    positive = to_channels_first(block.positive(x), block.layout)
    phase = negative_part(x) if block.negative else F.relu(x)
    negative = block.norm(
        deconvolve(to_channels_first(phase, block.layout), block.deconv.weight, block.groups)
    )
    if block.compress is None:
        nothing = torch.zeros_like(positive)
        return torch.cat([positive, nothing], 1), torch.cat([nothing, negative], 1)
    weight = block.compress.weight
    half = block.channels
    return convolve(positive, weight[:, :half], None, 1), convolve(negative, weight[:, half:], None, 1)


def _keep(seen: _Seen, first: Tensor, second: Tensor, room: int) -> None:
    missing = room - len(seen.kept)
    seen.kept += [(a.cpu(), b.cpu()) for a, b in zip(first[: max(missing, 0)], second)]


def _share(seen: _Seen | None) -> float:
    if seen is None or seen.first + seen.second <= 0:
        return math.nan
    return seen.second / (seen.first + seen.second)


def _panels(
    before: _Seen, after: _Seen | None, channels: int, thumbnails: Tensor | None
) -> tuple[Panel, ...]:
    panels = []
    for k, (kept, lost) in enumerate(before.kept):
        strongest = (kept + lost).square().flatten(1).sum(1).topk(min(channels, len(kept))).indices
        image = b"" if thumbnails is None or k >= len(thumbnails) else picture(thumbnails[k])
        maps: Mapping[str, tuple[bytes, ...]] = {}
        if after is not None and k < len(after.kept):
            out, negative = after.kept[k]
            top = out.square().flatten(1).sum(1).topk(min(channels, len(out))).indices
            maps = {"reborn": _pictures(out[top]), "negative": _pictures(negative[top])}
        panels.append(Panel(image, _pictures(kept[strongest]), _pictures(-lost[strongest]), **maps))
    return tuple(panels)


def _pictures(maps: Tensor) -> tuple[bytes, ...]:
    return tuple(picture(_stretched(one)) for one in maps)


def _stretched(one: Tensor) -> Tensor:
    """A map's values scaled to 0 … 255, uint8, (1, H, W)."""
    low, high = float(one.min()), float(one.max())
    scaled = (one - low) / (high - low) if high > low else torch.zeros_like(one)
    return (255 * scaled).round().to(torch.uint8).unsqueeze(0)


def picture(pixels: Tensor) -> bytes:
    """(1 or 3, H, W) uint8 as a PNG."""
    array = pixels.permute(1, 2, 0).cpu().numpy()
    stream = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(stream, format="PNG")
    return stream.getvalue()


MOST_SITES_WITH_MAPS = 3

Kept = tuple[TrialRecord, Path]
"""A training and its weights (safetensors), next to which, as `.example`, is a batch of its images."""


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
) -> tuple[SiteFeatures, ...]:
    """Probe the sites of a trained parent and a trained candidate with the images stored with the parent's weights.

    Args:
        mean, std: to convert the images back to pictures.
        images: in place of the kept ones, (B, C, H, W), normalised as for training.
        sites: sites whose maps are kept; by default the first reborn ones.
        shown, channels: numbers of images, and of maps per image.

    Raises:
        StudyError: weights or images cannot be read or do not fit the network, or it has no such site.
    """
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
    except Exception as error:  # a broken file or a third-party network may raise anything
        blame_machine(error, parent[1].parent)
        raise StudyError(
            f"the trained networks beside {parent[1]} and {candidate[1]} cannot be looked into: {error}"
        ) from error


def pictures(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor | None:
    """Normalised images (B, C, H, W) as uint8; None unless they have one or three channels."""
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
    """The trained network of a record, and the places of its replaced activations."""
    architecture = Architecture.from_dict(kept[0].architecture)
    model = build(architecture.backbone, device="cpu")
    placements: tuple[Probe, ...] = ()
    if architecture.choices:
        conversion = plan(model, architecture, architecture.backbone.input_size)
        model = apply(model, conversion)
        placements = conversion.placements
    model.load_state_dict(load_file(kept[1]))
    return model.eval(), placements
