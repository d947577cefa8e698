"""Figures 1 and 4: the feature maps of a site in networks trained with two activations, and their input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reborn_nas.data.files.listing import EXTENSIONS
from reborn_nas.data.files.settle import decode
from reborn_nas.errors import DataError, StudyError
from reborn_nas.files import write_atomic
from reborn_nas.replicate.run import Outcome
from reborn_nas.report.figures.features import feature_table, maps_figure
from reborn_nas.report.figures.painting import png
from reborn_nas.report.probe import SiteFeatures, watch
from reborn_nas.study.store.reading import load_run

__all__ = ["draw_figures", "draw_run", "pictures_in"]

WIDTH = 900.0


def draw_figures(
    outcome: Outcome, images: Path | None = None, sites: Sequence[str] | None = None
) -> list[Path]:
    """Write the replication's figure for each of its networks: SVG, PNG and a CSV of all sites; returns their paths.

    Args:
        images: folder of the images to use; by default images of the data set.
        sites: sites in place of the figure's.

    Raises:
        DataError: the folder holds no images.
        StudyError: the network has no such site.
    """
    figure = outcome.plan.study.figure
    if figure is None:
        return []
    written: list[Path] = []
    for planned in outcome.plan.groups:
        if all(key in outcome.records for row in planned.rows for key in row.keys):
            folder = planned.group.config.folder
            written += draw_run(
                folder, folder, images=images, sites=sites or (figure.site,),
                shown=figure.images, channels=figure.channels,
            )  # fmt: skip
    return written


def draw_run(
    run: Path,
    out: Path,
    *,
    images: Path | None = None,
    sites: Sequence[str] | None = None,
    shown: int = 4,
    channels: int = 4,
) -> list[Path]:
    """Write feature maps of a run with the weights of parent and candidate, such as a search's.

    Args:
        run: the run folder.
        out: folder for `maps-<site>.svg`, `.png` and `features.csv`.
        images: folder of the images to use; by default the batch stored with the parent's weights.
        sites: sites to draw; by default the first reborn sites.
        shown, channels: numbers of images, and of maps per image.

    Raises:
        StudyError: the run kept no weights, or the network has no such site.
        DataError: `images` holds no images.
    """
    info = load_run(run)
    kept = {r.arm: (r, path) for r in info.records if r.phase == "candidate" and (path := info.checkpoint(r))}
    if not {"parent", "candidate"} <= set(kept):
        raise StudyError(f"{run} kept no trained parent and candidate to look into; finish the run")
    data: dict[str, Any] = info.plan.get("data", {})
    mean, std = data.get("mean", ()), data.get("std", ())
    batch = None
    if images is not None:
        size = info.settings["backbone"]["input_size"]
        batch = pictures_in(images, tuple(size), mean, std)
    features = watch(
        kept["parent"],
        kept["candidate"],
        mean,
        std,
        images=batch,
        sites=sites,
        shown=shown,
        channels=channels,
    )
    return _write(features, out)


def pictures_in(
    folder: Path, size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float], most: int = 64
) -> torch.Tensor:
    """The first images under `folder`, by path, as inputs of the network: (B, C, H, W), normalised.

    Links and hidden files are skipped; images are scaled to cover `size` (C, H, W) and cropped at the centre. A network
    of one channel gets the luma of colour images; a network of three channels gets grey images in all three.

    Raises:
        DataError: there is no such folder, it has no images, or one is broken.
    """
    if not folder.is_dir():
        raise DataError(f"--images: there is no folder {folder}")
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not path.is_symlink()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ][:most]
    if not files:
        raise DataError(f"--images: {folder} holds no images ({', '.join(sorted(EXTENSIONS))})")
    pixels = decode(files, str(folder), (size[1], size[2]), []).float() / 255
    if pixels.shape[1] == 3 and size[0] == 1:
        pixels = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    elif pixels.shape[1] == 1 and size[0] > 1:
        pixels = pixels.expand(-1, size[0], -1, -1)
    shape = (1, size[0], 1, 1)
    return (
        (pixels - torch.tensor(list(mean)).view(shape)) / torch.tensor(list(std)).view(shape)
    ).contiguous()


def _write(features: Sequence[SiteFeatures], out: Path) -> list[Path]:
    written = []
    for number, row in enumerate(one for one in features if one.panels):
        drawing = maps_figure(row, number, WIDTH)
        stem = re.sub(r"[^A-Za-z0-9_.@-]", "_", row.site)
        written.append(write_atomic(out / f"maps-{stem}.svg", drawing.svg(literal=True)))
        written.append(write_atomic(out / f"maps-{stem}.png", png(drawing)))
    table = feature_table(features).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return [*written, write_atomic(out / "features.csv", table)]
