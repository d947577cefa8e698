"""From the user's settings of a retraining to its parts; nothing is trained here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reborn_nas.activations import complete
from reborn_nas.architecture import ORIGINAL, Architecture, BackboneSpec, Choice
from reborn_nas.backbone import build, discover, resolve
from reborn_nas.backbone import notes as stem_notes
from reborn_nas.backbone.load.factory import source_beside
from reborn_nas.data import ImageSet
from reborn_nas.errors import ConfigError
from reborn_nas.export.parent import Parent, on_own_path
from reborn_nas.export.trainings import Retraining, folder_name
from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.models.converted import as_architecture
from reborn_nas.training import Recipe, check_recipe, resolve_precision

__all__ = ["prepare", "read_architecture"]

INITS = ("preserve", "xavier")


def read_architecture(given: str) -> Architecture | str:
    """Read an architecture's JSON file, an export's folder, or the name of an activation for every site.

    Raises:
        ConfigError: the file holds no architecture.
        UnknownNameError: `given` is neither a file nor an activation.
    """
    path = Path(given)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        if "/" in given or given.endswith(".json"):
            raise ConfigError(
                f"there is no architecture at {given!r}; give its JSON file, an export's folder, a run's folder, or "
                "an activation such as reborn for every site"
            )
        choice = Choice.parse(given)
        if choice != ORIGINAL:
            complete(choice)
        return given
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    stored = data.get("model_args") if isinstance(data, Mapping) else None
    if isinstance(stored, Mapping) and "architecture" in stored:
        data = stored["architecture"]
    try:
        architecture = Architecture.from_dict(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    spec = architecture.backbone
    if spec.library == "file" and path.name == "config.json":  # the source of an export is next to it
        spec = replace(spec, source=source_beside(path.parent, spec.source))
    return architecture.with_backbone(spec)


def prepare(
    architecture: Architecture | str,
    images: ImageSet,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    device: str,
    backbone: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    stem: str | None = None,
    parent: Parent | None = None,
    init: str | None = None,
    folder: Path | None = None,
    metric: Metric = ACCURACY,
) -> tuple[Retraining, tuple[str, ...]]:
    """Make a complete retraining, and messages for the user.

    Args:
        architecture: site → choice, or an activation for every site that admits it.
        backbone: replaces the architecture's backbone; required if `architecture` is an activation.
        arguments, stem: replace those of the backbone.
        init: by default "preserve" with a parent, else "xavier".
        folder: folder of the results; None means `runs/train-…`.
        metric: a metric of `classification.METRICS`.

    Raises:
        RebornError: the settings do not fit together.
    """
    parent = parent or Parent()
    spec = resolve(
        _backbone(architecture, backbone, arguments or {}, stem),
        input_size=images.input_size,
        num_classes=len(images.classes),
        pretrained=parent.pretrained,
    )
    template = build(spec, device="meta")
    found = discover(template, spec.input_size)
    if isinstance(architecture, str):
        chosen = as_architecture(architecture, spec)
    else:
        chosen = architecture.with_backbone(spec)
    start = init or ("preserve" if parent.given else "xavier")
    if start not in INITS:
        raise ConfigError(f"init is one of {', '.join(INITS)}, not {start!r}")
    messages = [*stem_notes(spec), *images.notes]
    if parent.given and start == "preserve":
        chosen, changed = on_own_path(chosen, found)
        if changed:
            messages.append(
                f"{len(changed)} sites whose original activation is not a ReLU keep it as the positive path "
                f"(positive=original), such as {changed[0]}: else the network cannot start at its parent's function"
            )
    if parent.given and recipe.init != "default":
        recipe = replace(recipe, init="default")
        messages.append("the recipe's initial weights are not drawn: they would undo the parent's")
    recipe = replace(recipe, precision=resolve_precision(recipe.precision, device, template))
    where = folder or Path("runs") / folder_name(chosen, images.name)
    check_recipe(recipe, images, template)
    job = Retraining(chosen, images, recipe, tuple(seeds), device, where, parent, start, found, metric)
    return job, tuple(messages)


def _backbone(
    architecture: Architecture | str, named: str | None, arguments: Mapping[str, Any], stem: str | None
) -> BackboneSpec:
    """The backbone of an architecture, or `backbone`, with other arguments and stem if given."""
    if named is not None:
        base = BackboneSpec(named)
    elif isinstance(architecture, str):
        raise ConfigError(f"{architecture!r} at every site of what? Name the network with --backbone")
    else:
        base = architecture.backbone
    return replace(base, arguments={**base.arguments, **arguments}, stem=base.stem if stem is None else stem)
